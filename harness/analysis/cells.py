"""What each cell came to: the winner and its headline runs, cost, failures, budget spent, optimism, edges."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.analysis.frame import number
from harness.analysis.study import Arena, Cell, Study
from harness.records.record import FAILURES


class Row(NamedTuple):
    """The part of a frame row that the summary reads (tuples: 10,000 rows are read for each report)."""

    phase: str
    seed: int
    trial_id: str
    status: str
    config: str
    score_validation: float | None
    score_test: float | None
    wall_s: float | None
    device_s: float | None
    flops: float | None
    trainable_params: float | None
    peak_memory_mb: float | None

    def score(self, split: str) -> float | None:
        """The headline score, of a finished run."""
        if self.status != "finished":
            return None
        return self.score_test if split == "test" else self.score_validation


@dataclass(frozen=True)
class Configuration:
    """One hyper-parameter setting of the tune phase, over its seeds."""

    hyperparameters: dict[str, Any]
    validation: float | None  # mean over finished seeds
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class CellSummary:
    """One cell's results.

    Attributes:
        hyperparameters: the cell's winner; in a sweep without confirm phase the best so far while the
            cell is still tuning. None when there is neither.
        headline: the runs that the verdict is on, whatever became of them: the confirm trials, or the
            winner's tune trials in a sweep without confirm phase.
        statuses: all listed trials by status, both phases.
        headline_failures: headline trials by failure status.
        cost: means per run over the finished headline trials, else over the finished tune trials.
        spent_device_s: what tuning took, failed and stopped trials included.
        optimism: best tuning validation minus mean confirm validation, positive where tuning looked
            better than confirmation.
    """

    cell: Cell
    hyperparameters: dict[str, Any] | None
    headline: tuple[Row, ...]
    statuses: Mapping[str, int]
    headline_failures: Mapping[str, int]
    cost: Mapping[str, float | None]
    spent_device_s: float
    tune_trials: int
    best_validation: float | None
    confirm_validation: float | None
    optimism: float | None
    configurations: tuple[Configuration, ...]
    edges: tuple[str, ...]


def summarize(study: Study, arena: Arena) -> dict[str, CellSummary]:
    """The summary of every cell of an arena, by strategy, in the plan's order."""
    wanted = study.frame[study.frame["cell"].isin([cell.id for cell in arena.cells])]
    grouped: dict[str, list[Row]] = {cell.id: [] for cell in arena.cells}
    columns = [wanted[name].tolist() for name in ("cell", *Row._fields)]
    for cell_id, phase, seed, trial_id, status, config, *numbers in zip(*columns, strict=True):
        values = (number(value) for value in numbers)
        grouped[cell_id].append(Row(phase, seed, trial_id, status, config, *values))
    return {cell.strategy: _summary(cell, grouped[cell.id], arena.sign, study) for cell in arena.cells}


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what is there, None if nothing is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _summary(cell: Cell, rows: list[Row], sign: int, study: Study) -> CellSummary:
    tune = [row for row in rows if row.phase == "tune"]
    confirm = [row for row in rows if row.phase == "confirm"]
    configurations = _configurations(tune, sign)
    winner = cell.winner
    if winner is None and not study.confirm_seeds:
        winner = next((c.hyperparameters for c in configurations if c.validation is not None), None)
    winning = [row for row in tune if winner is not None and json.loads(row.config) == winner]
    headline = confirm if study.confirm_seeds else winning
    best = mean([row.score_validation for row in _done(winning)])
    confirmed = mean([row.score_validation for row in _done(confirm)])
    costed = _done(headline) or _done(tune)
    return CellSummary(
        cell=cell,
        hyperparameters=winner,
        headline=tuple(headline),
        statuses=Counter(row.status for row in rows),
        headline_failures=_failures(headline),
        cost={
            name: mean([getattr(row, name) for row in costed])
            for name in ("wall_s", "device_s", "flops", "trainable_params", "peak_memory_mb")
        },
        spent_device_s=math.fsum(row.device_s or 0.0 for row in tune),
        tune_trials=sum(row.status not in ("missing", "unreadable") for row in tune),
        best_validation=best,
        confirm_validation=confirmed,
        optimism=None if best is None or confirmed is None else sign * (best - confirmed),
        configurations=configurations,
        edges=tuple(edges(cell.space, winner)) if winner else (),
    )


def _done(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.status == "finished"]


def _failures(rows: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row.status for row in rows)
    return {status: counts[status] for status in FAILURES if counts[status]}


def _configurations(tune: Sequence[Row], sign: int) -> tuple[Configuration, ...]:
    """Tuned settings, best first; those without a finished trial last."""
    grouped: dict[str, list[Row]] = {}
    for row in tune:
        grouped.setdefault(row.config, []).append(row)
    found = [
        Configuration(
            hyperparameters=json.loads(config),
            validation=mean([row.score_validation for row in _done(rows)]),
            statuses=Counter(row.status for row in rows),
        )
        for config, rows in sorted(grouped.items())
    ]

    def rank(configuration: Configuration) -> float:
        return math.inf if configuration.validation is None else -sign * configuration.validation

    return tuple(sorted(found, key=rank))


def _grid(values: Any) -> tuple[float, float, Callable[[float], float]] | None:
    numbers = [number(value) for value in values]
    present = [value for value in numbers if value is not None]
    if len(present) < len(numbers) or len(set(present)) < 2:
        return None  # names have no order, and one value has no edge
    return min(present), max(present), float


def edges(space: Mapping[str, Mapping[str, Any]], winner: Mapping[str, Any]) -> list[str]:
    """Axes whose winning value lies on the edge of their numeric space, in words.

    Zero is a natural bound (no weight decay, no frozen rung) and never warned about; `choice` has no
    order. In a continuous space the outermost 1 % of the (logarithmic) range counts as the edge.
    """
    found = []
    for axis, definition in space.items():
        kind, bounds = next(iter(definition.items()), ("", None))
        value = number(winner.get(axis))
        if value is None or value == 0 or kind not in ("grid", "uniform", "loguniform", "int"):
            continue
        low_high = _grid(bounds)
        if low_high is None:
            continue
        low, high, scale = low_high
        if kind == "loguniform":
            scale = math.log
        slack = 0.01 * (scale(high) - scale(low)) if kind in ("uniform", "loguniform") else 0.0
        if scale(value) <= scale(low) + slack:
            found.append(f"{axis} = {value:g} is the lowest of its space ({low:g} to {high:g})")
        elif scale(value) >= scale(high) - slack:
            found.append(f"{axis} = {value:g} is the highest of its space ({low:g} to {high:g})")
    return found


def warnings(summaries: Mapping[str, CellSummary]) -> list[str]:
    """What a reader of one arena's verdict should know about its tuning."""
    found = []
    budgets = {name: summary.cell.budget for name, summary in summaries.items()}
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{name} {budget}" for name, budget in budgets.items())
        found.append(f"unequal tuning budgets (trials: {listed}); a larger budget favours its strategy")
    for name, summary in summaries.items():
        found += [f"{name}: {edge}; a better value may lie beyond" for edge in summary.edges]
        if summary.cell.problem:
            found.append(f"{name}: its search failed and was given up: {summary.cell.problem}")
    return found
