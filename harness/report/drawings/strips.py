"""Every run's score."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.drawings.canvas import (
    FAINT,
    INK,
    PAPER,
    SOFT,
    WIDTH,
    Drawing,
    Paper,
    cell,
    known,
    say,
    style,
)

_MARK = 0.02  # of the scores' range: what one mark hides
_BREAK = 0.17  # of the width: where runs without a score stand


@dataclass(frozen=True)
class StripRow:
    """One strategy's runs: (seed, score) of each that has a score, (seed, fate) of each that has none."""

    label: str
    style: int
    scores: tuple[tuple[int, float], ...]
    failures: tuple[tuple[int, str], ...] = ()


def strips(name: str, title: str, rows: Sequence[StripRow], axis: str) -> Drawing:
    """A row per strategy with a dot per seed and a stroke at the mean; runs without a score are crosses
    beyond a break in the axis."""
    scores = [[(seed, y) for seed, y in row.scores if known(y)] for row in rows]
    everything = [y for runs in scores for _, y in runs]
    reach = _MARK * (max(everything, default=0.0) - min(everything, default=0.0))
    broken = any(row.failures for row in rows)

    def paint(paper: Paper) -> None:
        left = _BREAK if broken else 0.0
        axes = paper.axes(x=axis, rect=(left, 0, 1 - left, 1))
        words = paper.axes(title, rect=(0, 0, 1, 1), sharey=axes, frameon=False)  # rows' words span the break
        words.set_xticks([])
        for place, (row, runs) in enumerate(zip(rows, scores, strict=True)):
            names = (row.label,)
            colour, marker, _ = style(row.style)
            paper.row(words, place, row.label, f"n = {len(runs)}", names)
            axes.axhline(place + 0.12, color=FAINT, lw=0.6, zorder=0)
            if runs:
                mean = statistics.fmean(score for _, score in runs)
                (stroke,) = axes.plot([mean], [place + 0.12], marker="|", ms=15, mew=1.6, color=INK, ls="")
                paper.tag(stroke, names, [f"{row.label}, mean: {say(mean)}"])
                runs = sorted(runs, key=lambda run: run[1])
                xs = [score for _, score in runs]
                (dots,) = axes.plot(
                    xs,
                    [place + 0.12 + off for off in _apart(xs, reach)],
                    ls="",
                    marker=marker,
                    ms=6,
                    mfc=colour,
                    mec=PAPER,
                    mew=0.6,
                    alpha=0.8,
                )
                paper.tag(dots, names, [f"{row.label}, seed {seed}: {say(score)}" for seed, score in runs])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.5, -0.62)
        axes.margins(x=0.04)
        if broken:
            _failures(paper, rows)

    data = [("strategy", "seed", "score", "fate")]
    for row, runs in zip(rows, scores, strict=True):
        data += [(row.label, str(seed), cell(score), "finished") for seed, score in runs]
        data += [(row.label, str(seed), "", fate) for seed, fate in row.failures]
    return Drawing(name, paint, tuple(data), height=0.2 + 0.46 * len(rows), width=WIDTH)


def _apart(xs: Sequence[float], reach: float) -> list[float]:
    """How far below or above its row each of the ascending values stands, so that none hides another."""
    last: dict[float, float] = {}
    offsets = []
    for x in xs:
        free = (off for off in (0.0, -0.1, 0.1, -0.2, 0.2) if off not in last or x - last[off] > reach)
        off = next(free, 0.0)
        last[off] = x
        offsets.append(off)
    return offsets


def _failures(paper: Paper, rows: Sequence[StripRow]) -> None:
    axes: Any = paper.axes(rect=(0, 0, _BREAK - 0.03, 1))
    axes.patch.set_visible(False)  # words stand behind
    for place, row in enumerate(rows):
        if row.failures:
            count = len(row.failures)
            xs = [(i + 1) / (count + 1) for i in range(count)]
            (crosses,) = axes.plot(xs, [place + 0.12] * count, ls="", marker="x", ms=6, mew=1.4, color=INK)
            texts = [f"{row.label}, seed {seed}: {fate}" for seed, fate in row.failures]
            paper.tag(crosses, (row.label,), texts)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.5, -0.62)
    axes.set_yticks([])
    axes.set_xticks([0.5], ["no score"])
    axes.spines["left"].set_visible(False)
    for end in (1.0, 1 + 0.03 / (_BREAK - 0.03)):  # the break: a stroke on each side of the gap
        axes.plot(
            [end],
            [0],
            marker=[(-1, -2), (1, 2)],
            ms=9,
            mew=0.9,
            color=SOFT,
            ls="",
            clip_on=False,
            transform=axes.transAxes,
        )
