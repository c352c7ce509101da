"""The drawings: plain values in, one SVG document out, the same bytes for the same values.

Colours are Okabe and Ito's colour-blind-safe set; every series differs in marker as well, and what a
reader must know is written out, so that nothing hangs on colour.
"""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullLocator

from harness.report.blocks import printable, slug

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_MOST = 40  # rows or points that one drawing can show legibly


@dataclass(frozen=True)
class ForestRow:
    """One strategy against the reference, in units of the metric; `style` is its number everywhere."""

    label: str
    style: int
    difference: float | None
    interval: tuple[float, float] | None
    seeds: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class Point:
    """One strategy's cost and score."""

    label: str
    style: int
    cost: float
    score: float
    interval: tuple[float, float] | None
    on_front: bool


@dataclass(frozen=True)
class Line:
    """One strategy's means: (x, y) by x."""

    label: str
    style: int
    points: tuple[tuple[float, float], ...]


def forest(name: str, title: str, rows: Sequence[ForestRow], axis: str, delta: float) -> str:
    """Differences to a reference with their intervals, the ±delta band and a dot per seed."""

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        axes.axvspan(-delta, delta, color="#999999", alpha=0.25, lw=0, label=f"±δ = ±{delta:g}")
        axes.axvline(0, color="#333333", lw=1)
        for place, row in enumerate(rows):
            colour, marker = _style(row.style)
            if row.seeds:
                axes.plot(
                    row.seeds,
                    [place + 0.22] * len(row.seeds),
                    ls="",
                    marker=".",
                    ms=5,
                    color="#555555",
                    alpha=0.8,
                    label="one seed" if place == min(i for i, r in enumerate(rows) if r.seeds) else None,
                )
            if row.difference is not None:
                axes.plot([row.difference], [place], marker=marker, ms=7, color=colour, ls="")
            if row.interval is not None:
                axes.plot(row.interval, [place, place], color=colour, lw=2, marker="|", ms=8)
            axes.text(1.02, place, row.verdict, transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(rows)), [printable(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(printable(axis))
        axes.set_title(printable(title), loc="left", fontsize=10)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.55 / canvas.get_figheight()), ncols=2, frameon=False
        )

    return _svg(name, draw, height=1.6 + 0.42 * len(rows))


def pareto(name: str, title: str, points: Sequence[Point], cost_axis: str, score_axis: str) -> str:
    """Score against cost, the strategies that none beats on both joined by a line."""

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        for point in points:
            colour, marker = _style(point.style)
            if point.interval is not None:
                axes.plot([point.cost] * 2, point.interval, color=colour, lw=1)
            text = printable(point.label) + (" (front)" if point.on_front else "")
            axes.plot([point.cost], [point.score], ls="", marker=marker, ms=8, color=colour, label=text)
        front = sorted((point.cost, point.score) for point in points if point.on_front)
        axes.plot([c for c, _ in front], [s for _, s in front], color="#777777", lw=1, ls="--", zorder=0)
        if all(point.cost > 0 for point in points) and len({point.cost for point in points}) > 1:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(printable(cost_axis))
        axes.set_ylabel(printable(score_axis))
        axes.set_title(printable(title), loc="left", fontsize=10)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)

    return _svg(name, draw, height=max(3.2, 0.9 + 0.22 * len(points)))


def curves(name: str, title: str, lines: Sequence[Line], x_axis: str, y_axis: str, log: bool) -> str:
    """Means joined by lines, one line per strategy.

    Args:
        log: whether the horizontal axis is logarithmic, with room for 0 at its left end.
    """

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        for line in lines:
            colour, marker = _style(line.style)
            xs, ys = zip(*line.points, strict=True)
            axes.plot(xs, ys, marker=marker, ms=6, lw=1, color=colour, label=printable(line.label))
        if log:
            smallest = min((x for line in lines for x, _ in line.points if x > 0), default=1.0)
            axes.set_xscale("symlog", linthresh=smallest)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(printable(x_axis))
        axes.set_ylabel(printable(y_axis))
        axes.set_title(printable(title), loc="left", fontsize=10)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)

    return _svg(name, draw, height=max(3.0, 0.9 + 0.22 * len(lines)))


def shown(count: int) -> int:
    """How many of `count` rows a drawing takes."""
    return min(count, _MOST)


def _style(number: int) -> tuple[str, str]:
    """Colour and marker of the n-th strategy; 7 and 11 share no factor, so 77 differ."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _svg(name: str, draw: Callable[[Any], None], height: float, width: float = 6.4) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the viewer's fonts draw it, not ours
        canvas = Canvas(figsize=(width, height))
        draw(canvas)
        canvas.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return _own(buffer.getvalue(), slug(name))


def _own(document: str, prefix: str) -> str:
    """The document without metadata, and with ids that stay unique when many share one page."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(document)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute == "id":
                element.set(attribute, f"{prefix}-{value}")
            elif attribute == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(attribute, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{prefix}-"))
    return ElementTree.tostring(root, encoding="unicode")
