"""How much each hyper-parameter matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.drawings.canvas import COLOURS, INK, Drawing, Interval, Paper, cell, known, say, span


@dataclass(frozen=True)
class Bar:
    """One quantity with its spread."""

    label: str
    value: float
    spread: Interval | None = None


def bars(name: str, title: str, entries: Sequence[Bar], axis: str) -> Drawing:
    """Horizontal bars from 0 with their values and spreads, in the order given."""
    drawn = [entry for entry in entries if known(entry.value)]

    def paint(paper: Paper) -> None:
        axes = paper.axes(title, axis)
        for place, entry in enumerate(drawn):
            text = say(entry.value) + span(entry.spread)
            paper.row(axes, place, entry.label, text)
            (bar,) = axes.barh([place + 0.12], [entry.value], height=0.28, color=COLOURS[0], alpha=0.55, lw=0)
            paper.tag(bar, (), [f"{entry.label}: {text}"])
            if entry.spread is not None:
                axes.plot(entry.spread, [place + 0.12] * 2, color=INK, lw=1.2, marker="|", ms=6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(drawn) - 0.45, -0.62)

    data = [("name", "value", "low", "high")]
    for entry in drawn:
        low, high = ("", "") if entry.spread is None else map(cell, entry.spread)
        data.append((entry.label, cell(entry.value), low, high))
    return Drawing(name, paint, tuple(data), height=0.2 + 0.46 * max(1, len(drawn)))
