"""How the score answers to what was tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from matplotlib.colors import to_rgba

from harness.report.drawings.canvas import (
    COLOURS,
    INK,
    SOFT,
    Drawing,
    Paper,
    cell,
    known,
    say,
    scale,
    short,
    shorter,
    style,
)

Setting: TypeAlias = float | str
_GRID = 8  # distinct values per axis up to which each gets a place of its own
_TITLED = 60  # marks of a panel that each say what they are; of more, the best does
_SHADES = 8  # that a crowd of marks is told apart by
_COLUMNS, _SIDE, _GAP = 2, (2.1, 1.55), (0.75, 0.85)  # panels abreast; inches


@dataclass(frozen=True)
class Panel:
    """One strategy's means: (x, y, mean), y being None where one axis is tuned."""

    label: str
    style: int
    points: tuple[tuple[Setting, Setting | None, float], ...]


def response(
    name: str, title: str, panels: Sequence[Panel], axes: tuple[str, str | None], what: str, sign: int = 1
) -> Drawing:
    """Means over one tuned axis (a line) or two (a square for each), a panel per strategy, all on one scale.

    Axes are logarithmic where values span a factor of eight; settings that are words stand after numbers. The
    best of a panel is framed.

    Args:
        axes: names of the tuned axes; the second is None where there is one.
        what: what the means are of.
        sign: -1 where less is better.
    """
    drawn = [
        Panel(panel.label, panel.style, points)
        for panel in panels
        if (points := tuple(point for point in panel.points if known(point[2])))
    ]
    columns = min(_COLUMNS, max(1, len(drawn)))
    lines = max(1, math.ceil(len(drawn) / columns))
    width = columns * _SIDE[0] + (columns - 1) * _GAP[0]
    height = lines * _SIDE[1] + (lines - 1) * _GAP[1]
    values = [value for panel in drawn for *_, value in panel.points]

    def paint(paper: Paper) -> None:
        for i, panel in enumerate(drawn):
            left = (i % columns) * (_SIDE[0] + _GAP[0])
            low = height - _SIDE[1] - (i // columns) * (_SIDE[1] + _GAP[1])
            rect = (left / width, low / height, _SIDE[0] / width, _SIDE[1] / height)
            first = i % columns == 0
            panel_axes = paper.axes(x=axes[0], y=(axes[1] or what) if first else "", rect=rect)
            paper.tag(panel_axes.set_title(shorter(panel.label, 28), fontsize=9.5), (panel.label,))
            best = max(panel.points, key=lambda point: sign * point[2])
            if axes[1] is None:
                _line(paper, panel_axes, panel, best[2], values)
            else:
                _squares(paper, panel_axes, panel, best[2], values)
        paper.canvas.text(0, 1 + 0.36 / height, shorter(title, 60), fontsize=10, color=INK)
        if axes[1] is not None:
            note = f"{what}: the stronger, the more; framed: the best"
            paper.canvas.text(0, -0.72 / height, note, color=SOFT)

    data = [("strategy", "x", "y", "mean")]
    for panel in drawn:
        data += [(panel.label, _word(x), "" if y is None else _word(y), cell(v)) for x, y, v in panel.points]
    return Drawing(name, paint, tuple(data), height, width)


def _line(paper: Paper, axes: Any, panel: Panel, best: float, values: Sequence[float]) -> None:
    colour, marker, _ = style(panel.style)
    points = sorted(panel.points, key=lambda point: _order(point[0]))
    xs = _places(axes, "x", [x for x, _, _ in points])
    ys = [value for *_, value in points]
    axes.margins(x=0.08)
    few = len(points) <= _TITLED
    (line,) = axes.plot(xs, ys, color=colour, marker=marker, ms=5 if few else 2, lw=1.2 if few else 0.7)
    texts = [f"{panel.label} at {_say(x)}: {say(v)}" for x, _, v in points]
    paper.tag(line, (panel.label,), texts if few else ())
    place = ys.index(best)
    (ring,) = axes.plot([xs[place]], [best], marker="o", ms=11, mfc="none", mec=INK, mew=0.9, ls="")
    paper.tag(ring, (panel.label,), () if few else [texts[place]])
    pad = 0.08 * (max(values) - min(values)) or 0.01
    axes.set_ylim(min(values) - pad, max(values) + pad)


def _squares(paper: Paper, axes: Any, panel: Panel, best: float, values: Sequence[float]) -> None:
    points = sorted(panel.points, key=lambda point: (_order(point[0]), _order(point[1])))
    xs = _places(axes, "x", [x for x, _, _ in points], _GRID)
    ys = _places(axes, "y", [y for _, y, _ in points if y is not None], _GRID)
    low, reach = min(values), (max(values) - min(values)) or 1.0
    texts = [f"{panel.label} at {_say(x)}, {_say(y)}: {say(value)}" for x, y, value in points]
    crowded = len(points) > 25
    axes.margins(0.08 if crowded else 0.16)
    shades: dict[float, list[int]] = {}
    for i, (*_, value) in enumerate(points):
        shades.setdefault(round((value - low) / reach * _SHADES) / _SHADES, []).append(i)
    for shade, members in sorted(shades.items()):
        face = to_rgba(COLOURS[0], 0.08 + 0.62 * shade)
        places = [xs[i] for i in members], [ys[i] for i in members]
        (squares,) = axes.plot(*places, marker="s", ms=8 if crowded else 20, ls="", mfc=face, mec="none")
        titles = [texts[i] for i in members] if len(points) <= _TITLED else ()
        paper.tag(squares, (panel.label,), titles)
    first = next(i for i, (*_, value) in enumerate(points) if value == best)
    frame = {"marker": "s", "ms": 8 if crowded else 20, "ls": "", "mfc": "none", "mec": INK, "mew": 1.2}
    paper.tag(axes.plot([xs[first]], [ys[first]], **frame)[0], (panel.label,), [texts[first]])
    if not crowded:
        for x, y, (*_, value) in zip(xs, ys, points, strict=True):
            number = f"{value:.2f}".removeprefix("0")
            paper.write(axes, x, y, number, (panel.label,), ha="center", va="center", fontsize=9)


def _places(axes: Any, side: str, settings: Sequence[Setting], most: int = 0) -> list[float]:
    """Where settings stand: by value, or one after the other where some are words or (with `most`) few."""
    numbers = [float(setting) for setting in settings if not isinstance(setting, str)]
    distinct = sorted(set(settings), key=_order)
    if len(numbers) == len(settings) and len(distinct) > most:
        scale(axes, side, numbers)
        return numbers
    axes_ticks = getattr(axes, f"set_{side}ticks")
    step = math.ceil(len(distinct) / _GRID)
    axes_ticks(list(range(len(distinct)))[::step], [_say(setting) for setting in distinct][::step])
    return [float(distinct.index(setting)) for setting in settings]


def _order(setting: Setting | None) -> tuple[bool, float, str]:
    if isinstance(setting, str):
        return True, 0.0, setting
    return False, setting or 0.0, ""


def _say(setting: Setting | None) -> str:
    return shorter(setting, 12) if isinstance(setting, str) else short(setting or 0.0)


def _word(setting: Setting) -> str:
    return setting if isinstance(setting, str) else cell(setting)
