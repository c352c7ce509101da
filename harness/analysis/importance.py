"""How much of the spread of scores each tuned hyper-parameter explains, by Optuna's evaluators."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.analysis.cells import Configuration
from harness.analysis.frame import number

MIN_CONFIGURATIONS = 8
"""Fewer say nothing worth a figure."""

EVALUATOR = "fANOVA"
"""Hutter, Hoos & Leyton-Brown 2014, ICML, as Optuna computes it: a random forest's variance, attributed."""

_TREES = 64
_SEED = 0


@dataclass(frozen=True)
class Importance:
    """Attributes:
    share: of the variance of scores by axis, largest first; they add up to 1.
    configurations: number of those that it is the variance of.
    where: the value that they all have on an axis, if not all configurations are meant.
    left_out: axes that only some of them have.
    """

    share: Mapping[str, float]
    configurations: int
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
    if len(axes) < 2 or len(whole) < MIN_CONFIGURATIONS or len({c.validation for c in whole}) < 2:
        return None
    import optuna  # takes a while

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for configuration in whole:
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
    return Importance({axis: share / total for axis, share in shares.items()}, len(whole))


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
