"""Differences to a reference, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.drawings.canvas import (
    FAINT,
    SOFT,
    Drawing,
    Entry,
    Interval,
    Paper,
    cell,
    known,
    say,
    span,
    style,
)


@dataclass(frozen=True)
class ForestRow:
    """One strategy against the reference, in units of the metric; `style` is its number everywhere."""

    label: str
    style: int
    difference: float | None
    interval: Interval | None
    seeds: tuple[float, ...]
    verdict: str


def forest(name: str, title: str, rows: Sequence[ForestRow], axis: str, delta: float) -> Drawing:
    """Differences to a reference with their intervals, the ±delta band and a dot per seed."""

    def paint(paper: Paper) -> None:
        axes = paper.axes(title, axis)
        legend: list[Entry] = []
        for place, row in enumerate(rows):
            names = (row.label,)
            colour, marker, _ = style(row.style)
            paper.row(axes, place, row.label, row.verdict, names)
            # the band stops where the words of a row are
            (band,) = axes.bar([0], [0.54], 2 * delta, [place - 0.09], color=FAINT, alpha=0.5, lw=0, zorder=0)
            (zero,) = axes.plot([0, 0], [place - 0.09, place + 0.45], color=SOFT, lw=0.8, zorder=0.5)
            paper.tag(band, names)
            paper.tag(zero, names)
            legend = legend or [(band, f"±δ = ±{delta:g}", ())]
            if row.interval is not None:
                (bar,) = axes.plot(row.interval, [place + 0.08] * 2, color=colour, lw=1.8, marker="|", ms=7)
                paper.tag(bar, names, [f"{row.label}: {say(row.difference or 0)}{span(row.interval)}"])
            seeds = [seed for seed in row.seeds if known(seed)]
            if seeds:
                (dots,) = axes.plot(
                    seeds,
                    [place + 0.3] * len(seeds),
                    ls="",
                    marker="o",
                    ms=3.2,
                    color=SOFT,
                    mew=0,
                    alpha=0.75,
                )
                paper.tag(dots, names, [f"{row.label}, one seed: {say(seed)}" for seed in seeds])
                if len(legend) == 1:
                    legend.append((dots, "one seed", ()))
            if known(row.difference):
                (mark,) = axes.plot(
                    [row.difference], [place + 0.08], marker=marker, ms=6.5, color=colour, ls=""
                )
                text = f"{row.label}: {say(row.difference or 0)}{span(row.interval)}, {row.verdict}"
                paper.tag(mark, names, [text])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.45, -0.62)
        paper.legend(legend)

    data = [("strategy", "difference", "ci_low", "ci_high", "n", "seed_differences", "verdict")]
    for row in rows:
        low, high = ("", "") if row.interval is None else map(cell, row.interval)
        seeds = " ".join(map(cell, row.seeds))
        data.append((row.label, cell(row.difference), low, high, str(len(row.seeds)), seeds, row.verdict))
    return Drawing(name, paint, tuple(data), height=0.25 + 0.47 * len(rows))
