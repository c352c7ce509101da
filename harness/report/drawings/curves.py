"""Lines, one for each strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from harness.report.drawings.canvas import Drawing, Entry, Paper, cell, known, say, scale, style


@dataclass(frozen=True)
class Line:
    """One strategy's values: (x, y) by x."""

    label: str
    style: int
    points: tuple[tuple[float, float], ...]


def curves(name: str, title: str, lines: Sequence[Line], x_axis: str, y_axis: str, log: bool) -> Drawing:
    """Means joined by lines, one line per strategy.

    Args:
        log: whether the horizontal axis may be logarithmic, with room for 0 at its left end.
    """
    return _lines(name, title, lines, (x_axis, y_axis), log, "default")


def best_so_far(name: str, title: str, lines: Sequence[Line], x_axis: str, y_axis: str) -> Drawing:
    """What a search had reached when it had spent x: steps, one line per strategy."""
    return _lines(name, title, lines, (x_axis, y_axis), True, "steps-post")


def _lines(
    name: str, title: str, lines: Sequence[Line], axis_names: tuple[str, str], log: bool, steps: str
) -> Drawing:
    drawn = [
        Line(line.label, line.style, points)
        for line in lines
        if (points := tuple((x, y) for x, y in line.points if known(x) and known(y)))
    ]

    def paint(paper: Paper) -> None:
        axes = paper.axes(title, *axis_names)
        legend: list[Entry] = []
        for line in drawn:
            colour, marker, dashes = style(line.style)
            xs, ys = zip(*line.points, strict=True)
            look = {"marker": marker, "ms": 5, "lw": 1.3, "ls": dashes, "color": colour, "drawstyle": steps}
            (artist,) = axes.plot(xs, ys, **look)
            names = (line.label,)
            paper.tag(artist, names, [f"{line.label}: {say(y)} at {say(x)}" for x, y in line.points])
            legend.append((artist, line.label, names))
        places = [x for line in drawn for x, _ in line.points]
        if all(float(x).is_integer() for x in places):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log and drawn:
            scale(axes, "x", places)
        paper.legend(legend)

    data = [("strategy", "x", "y")]
    data += [(line.label, cell(x), cell(y)) for line in drawn for x, y in line.points]
    return Drawing(name, paint, tuple(data), height=2.4, width=3.75)
