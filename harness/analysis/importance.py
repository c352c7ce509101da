"""How much of the spread of scores each tuned hyper-parameter explains, by Optuna's evaluators."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.cells import Configuration
from harness.analysis.frame import number

MIN_CONFIGURATIONS = 8
"""Fewer say nothing worth a figure."""

MAX_CONFIGURATIONS = 256
"""Of more than that, as many drawn at random. The forest takes 1 to 3 seconds for 256 and 5 to 33 for 1,000
(measured), and shares of three axes differed by 0.01 between the two."""

EVALUATOR = "fANOVA"
"""Hutter, Hoos & Leyton-Brown 2014, ICML, as Optuna computes it: a random forest's variance, attributed."""

_TREES = 64
_SEED = 0


@dataclass(frozen=True)
class Importance:
    """Attributes:
    share: of the variance of scores by axis, largest first; they add up to 1.
    configurations: number of those that it is the variance of.
    drawn_from: number of those that they were drawn from, where they were too many.
    where: the value that they all have on an axis, if not all configurations are meant.
    left_out: axes that only some of them have.
    """

    share: Mapping[str, float]
    configurations: int
    drawn_from: int | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def importances(
    space: Mapping[str, Mapping[str, Any]], configurations: Sequence[Configuration], sign: int
) -> list[Importance]:
    """Over all configurations, of the axes that all of them have; then, for every value on which axes hang,
    over the configurations with this value, if those axes vary."""
    found: list[Importance] = []
    conditions: list[Mapping[str, Any]] = [{}]
    conditions += [d["when"] for d in space.values() if "when" in d]
    for place, where in enumerate(conditions):
        there = [c for c in configurations if all(c.hyperparameters.get(a) == v for a, v in where.items())]
        if where in conditions[:place] or (where and len(there) == len(configurations)):
            continue
        shared = {a: d for a, d in space.items() if all(a in c.hyperparameters for c in there)}
        one = importance(shared, there, sign)
        if one is not None and (not where or any(space[axis].get("when") == where for axis in one.share)):
            some = {axis for c in there for axis in c.hyperparameters} - shared.keys()
            found.append(replace(one, where=where, left_out=tuple(a for a in space if a in some)))
    return found


def importance(
    space: Mapping[str, Mapping[str, Any]], configurations: Sequence[Configuration], sign: int
) -> Importance | None:
    """Of the axes that vary; None where fewer than two do, configurations are too few, or all score alike."""
    scored = [c for c in configurations if c.validation is not None]
    axes = {
        axis: found
        for axis, definition in space.items()
        if (
            found := _distribution(
                definition, [c.hyperparameters[axis] for c in scored if axis in c.hyperparameters]
            )
        )
        is not None
    }
    whole = [c for c in scored if all(axis in c.hyperparameters for axis in axes)]
    many = len(whole) > MAX_CONFIGURATIONS
    drawn = random.Random(_SEED).sample(whole, MAX_CONFIGURATIONS) if many else whole
    if len(axes) < 2 or len(drawn) < MIN_CONFIGURATIONS or len({c.validation for c in drawn}) < 2:
        return None
    shares = _shares(axes, drawn, sign)
    return None if shares is None else Importance(shares, len(drawn), len(whole) if many else None)


def _shares(
    axes: dict[str, Any], configurations: Sequence[Configuration], sign: int
) -> Mapping[str, float] | None:
    import optuna  # takes a while

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for configuration in configurations:
        study.add_trial(
            optuna.trial.create_trial(
                params={axis: _plain(configuration.hyperparameters[axis]) for axis in axes},
                distributions=axes,
                value=-sign * float(configuration.validation or 0.0),
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    total = math.fsum(shares.values())
    if not total > 0:
        return None
    return {axis: share / total for axis, share in shares.items()}


def _plain(value: Any) -> Any:
    """The value as Optuna takes one: lists and nothing at all as text."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _distribution(definition: Mapping[str, Any], values: Sequence[Any]) -> Any:
    """The axis as Optuna describes one; None where it does not vary."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    present = [_plain(value) for value in values]
    if len({repr(value) for value in present}) < 2:
        return None
    numbers = [number(value) for value in present]
    if any(value is None for value in numbers):
        return CategoricalDistribution(tuple(sorted({*present}, key=repr)))
    low, high = min(v for v in numbers if v is not None), max(v for v in numbers if v is not None)
    log = "loguniform" in definition or ("grid" in definition and low > 0 and high / low >= 10)
    return FloatDistribution(low, high, log=log)
