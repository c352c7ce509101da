"""Resolves the metric names of a task and scores a split with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import evaluate
import numpy as np

from harness.errors import bad
from harness.metrics.base import Metric
from harness.registry import find

HUB = "hub:"


@cache
def load(name: str, place: str = "metrics") -> Any:
    """The metric called `name`; `hub:<name>` fetches one from the Hugging Face hub when online.

    Raises: InputError if there is none of that name, or the hub does not give it.
    """
    if not name.startswith(HUB):
        # in memory: else every worker of a machine waits for the lock of one file below the home folder
        return find("metrics", Metric, name, place)(keep_in_memory=True)
    try:
        return evaluate.load(name.removeprefix(HUB))
    except Exception as error:
        raise bad(place, f"the hub gives no metric '{name}': {type(error).__name__}: {error}") from error


def higher_is_better(name: str) -> bool:
    """The direction of a metric. Hub metrics do not declare theirs; they count as higher-is-better."""
    return bool(getattr(load(name), "higher_is_better", True))


def bounds(name: str) -> tuple[float, float] | None:
    """The lowest and the highest value of a metric, None where it has none or, on the hub, does not say."""
    found: tuple[float, float] | None = getattr(load(name), "bounds", None)
    return found


def form(name: str, context: Mapping[str, Any]) -> str | None:
    """The form of a metric (`forms.FORMS`); None where it has none, as metrics of the hub have not."""
    metric = load(name)
    return metric.form_in(**context) if isinstance(metric, Metric) else None


def parts(
    names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any], context: Mapping[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """What each example adds to the metrics that have a form, `{name: (examples, k)}`."""
    return {
        name: np.asarray(load(name).parts(predictions, references, **context), dtype=np.float64)
        for name in names
        if form(name, context) is not None
    }


def score(
    names: Sequence[str], predictions: Sequence[Any], references: Sequence[Any], context: Mapping[str, Any]
) -> dict[str, float]:
    """Every metric over one split, `{name: value}`; hub metrics give the value of their own first key."""
    values: dict[str, float] = {}
    for name in names:
        metric = load(name)
        if isinstance(metric, Metric):  # `compute` writes both to an Arrow table first: ten times the time
            result = metric._compute(predictions, references, **context)
        else:
            result = metric.compute(predictions=predictions, references=references)
        values[name] = float(next(iter(result.values())))
    return values
