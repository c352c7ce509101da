"""What each search had found when it had spent so much."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.analysis import wording
from harness.analysis.frame import number
from harness.analysis.study import Arena, Study
from harness.report import figures
from harness.report.blocks import Block, Figure, slug
from harness.report.figures import Line
from harness.report.section import Section

ASKED = "asked"
"""The frame's column that says in which order a cell asked for its trials."""


class _Trial(NamedTuple):
    config: str
    status: str
    score: float | None
    device_s: float


class Progress(Section):
    name = "progress"
    title = "The search, trial by trial"
    order = 45

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        trials = _trials(study)
        blocks: list[Block] = []
        for arena in study.arenas():
            lines = [
                Line(cell.strategy, style, points)
                for style, cell in enumerate(arena.cells)
                if (points := _steps(trials.get(cell.id, ()), arena.sign))
            ]
            if any(len(line.points) > 1 for line in lines):
                blocks.append(_figure(arena, lines, study))
        return blocks


def _trials(study: Study) -> dict[str, list[_Trial]]:
    """Per cell its tune trials in the order in which it asked for them; none where that is not known."""
    frame = study.frame[study.frame["phase"] == "tune"]
    if ASKED not in frame:
        return {}
    frame = frame[~frame["cell"].isin(frame.loc[frame[ASKED].isna(), "cell"])]
    found: dict[str, list[_Trial]] = {}
    names = ("cell", "config", "status", "score_validation", "device_s")
    columns = (frame.sort_values(ASKED, kind="stable")[name].tolist() for name in names)
    for cell, config, status, score, device_s in zip(*columns, strict=True):
        found.setdefault(cell, []).append(_Trial(config, status, number(score), number(device_s) or 0.0))
    return found


def _steps(trials: Sequence[_Trial], sign: int) -> tuple[tuple[float, float], ...]:
    """(device seconds spent, best mean validation score so far) at each improvement and at the end.

    A setting counts when the last of its seeds has finished, as it does when a winner is chosen.
    """
    waiting = Counter(trial.config for trial in trials)
    scores: dict[str, list[float]] = {}
    points: list[tuple[float, float]] = []
    spent = 0.0
    for trial in trials:
        spent += trial.device_s
        if trial.status != "finished" or trial.score is None:
            continue
        scores.setdefault(trial.config, []).append(trial.score)
        waiting[trial.config] -= 1
        mean = statistics.fmean(scores[trial.config])
        if not waiting[trial.config] and (not points or sign * mean > sign * points[-1][1]):
            points.append((spent, mean))
    if points and spent > points[-1][0]:
        points.append((spent, points[-1][1]))
    return tuple(points)


def _figure(arena: Arena, lines: Sequence[Line], study: Study) -> Figure:
    better = "less" if arena.sign < 0 else "more"
    drawn = lines[: figures.shown(len(lines))]
    caption = (
        f"{arena.key}: best validation {arena.primary} so far ({better} is better) against the device "
        "seconds that tuning had spent, failed and stopped trials included, in the order of trials. A single "
        "run of the search, never an average: no interval, no claim that one is faster than another. Means "
        f"over n = {study.plan['seeds']['tune']} tune seeds; "
        f"{wording.examples(arena.task, 'validation')}."
    )
    if len(lines) > len(drawn):
        caption += f" {len(lines) - len(drawn)} more strategies are in trials.parquet."
    ends = [f"{line.label} {wording.fixed(line.points[-1][1])}" for line in drawn]
    name = f"progress-{slug(arena.key)}"
    axis = f"best validation {arena.primary} so far"
    drawing = figures.best_so_far(
        name, arena.key, drawn, "device seconds spent on tuning (a single run)", axis
    )
    alt = f"Best validation {arena.primary} so far on {arena.key}. At the end: {wording.names(ends, 10)}."
    return Figure(name, drawing, alt, caption, drawing.data)
