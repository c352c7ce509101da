"""What strategies kept of the model that they started from: drift, similarity, retention of a source task."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis.cells import mean
from harness.analysis.frame import number
from harness.analysis.study import Arena, Study


@dataclass(frozen=True)
class Kept:
    """Means over the finished runs of one strategy, or of one of its settings.

    Attributes:
        score: primary metric of the target task, on the split that the runs were scored on.
        before, after: primary metric of the source task without and with fine-tuning; None without one.
        l2: ‖θ − θ⁰‖ / ‖θ⁰‖ over the ladder.
        cka: linear CKA of what leaves the last rung that could be compared, with what left it before.
        strength: λ of the regulariser, 0 without one; None if several were mixed.
        depth: rungs, counted from the input, that never trained; None likewise.
    """

    strategy: str
    n: int
    score: float | None
    before: float | None
    after: float | None
    l2: float | None
    cka: float | None
    strength: float | None
    depth: int | None


def by_strategy(study: Study, arena: Arena) -> list[Kept]:
    """One entry per strategy that has finished runs of its winner (confirm runs, or else tune runs)."""
    phase = "confirm" if study.confirm_seeds else "tune"
    found = []
    for cell in arena.cells:
        rows = _finished(study, cell.id, phase)
        if not study.confirm_seeds and cell.winner is not None:
            rows = rows[[json.loads(config) == cell.winner for config in rows["config"]]]
        if len(rows):
            found.append(_kept(cell.strategy, rows, f"score_{study.split}"))
    return found


def by_setting(study: Study, arena: Arena) -> list[Kept]:
    """One entry per strategy and hyper-parameter setting that was tried, from the tune phase."""
    found = []
    for cell in arena.cells:
        rows = _finished(study, cell.id, "tune")
        settings = [
            _kept(cell.strategy, group, "score_validation") for _, group in rows.groupby("config", sort=True)
        ]
        found += sorted(settings, key=lambda entry: (entry.strength or 0, entry.depth or 0))
    return found


def _finished(study: Study, cell: str, phase: str) -> pd.DataFrame:
    frame = study.frame
    return frame[(frame["cell"] == cell) & (frame["phase"] == phase) & (frame["status"] == "finished")]


def _kept(strategy: str, rows: pd.DataFrame, score: str) -> Kept:
    def average(column: str) -> float | None:
        return mean([number(value) for value in rows[column]]) if column in rows else None

    compared = [average(name) for name in sorted(rows.columns, key=_place) if name.startswith("cka.")]
    return Kept(
        strategy=strategy,
        n=len(rows),
        score=average(score),
        before=average("retention_before"),
        after=average("retention_after"),
        l2=average("drift_relative_l2"),
        cka=next((value for value in reversed(compared) if value is not None), None),
        strength=_shared(rows["strength"]),
        depth=None if (frozen := _shared(rows["frozen"])) is None else int(frozen),
    )


def _place(column: str) -> int:
    last = column.rpartition(".")[2]
    return int(last) if last.isdigit() else -1


def _shared(values: Iterable[Any]) -> float | None:
    """The value that all rows have; None where they differ."""
    found = {number(value) for value in values}
    return next(iter(found)) if len(found) == 1 else None


def any_retention(entries: Iterable[Kept]) -> bool:
    return any(entry.after is not None for entry in entries)
