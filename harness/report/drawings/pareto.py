"""What a score costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.drawings.canvas import (
    SOFT,
    Drawing,
    Entry,
    Interval,
    Paper,
    cell,
    known,
    say,
    scale,
    span,
    style,
)


@dataclass(frozen=True)
class Point:
    """One strategy's cost and score."""

    label: str
    style: int
    cost: float
    score: float
    interval: Interval | None
    on_front: bool


def pareto(name: str, title: str, points: Sequence[Point], cost_axis: str, score_axis: str) -> Drawing:
    """Score against cost, the strategies that none beats on both joined by a line."""
    drawn = [point for point in points if known(point.cost) and known(point.score)]

    def paint(paper: Paper) -> None:
        axes = paper.axes(title, cost_axis, score_axis)
        front = sorted((point.cost, point.score) for point in drawn if point.on_front)
        axes.plot([c for c, _ in front], [s for _, s in front], color=SOFT, lw=0.8, ls="--", zorder=0)
        legend: list[Entry] = []
        for point in drawn:
            colour, marker, _ = style(point.style)
            names = (point.label,)
            if point.interval is not None:
                paper.tag(axes.plot([point.cost] * 2, point.interval, color=colour, lw=1.2)[0], names)
            (mark,) = axes.plot([point.cost], [point.score], ls="", marker=marker, ms=7, color=colour)
            words = f"{point.label}: {say(point.score)}{span(point.interval)} for {say(point.cost)}"
            paper.tag(mark, names, [words])
            legend.append((mark, point.label + (" (front)" if point.on_front else ""), names))
        axes.margins(0.08)
        scale(axes, "x", [point.cost for point in drawn] or [0.0])
        paper.legend(legend)

    data = [("strategy", "device_s", "score", "ci_low", "ci_high", "on_front")]
    for point in drawn:
        low, high = ("", "") if point.interval is None else map(cell, point.interval)
        front = str(point.on_front).lower()
        data.append((point.label, cell(point.cost), cell(point.score), low, high, front))
    return Drawing(name, paint, tuple(data), height=2.4, width=3.75)
