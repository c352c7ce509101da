"""What all drawings share: style, the paper they are drawn on, and its way into SVG and PDF.

Colours are Okabe and Ito's colour-blind-safe set (its black a shade off: SVG leaves black unsaid); every
series differs in marker and line as well, and what a reader must know is written out, so that nothing hangs
on colour.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import matplotlib
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from harness.report.blocks import Rows, printable, slug
from harness.report.drawings.font import FAMILY, use_light

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#24292f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
INK, SOFT, FAINT, PAPER = "#1b1f24", "#59636e", "#c9d1d9", "#ffffff"

WIDTH = 4.3  # inches between the axes' ends: on a phone's 400 px the text is still of 8 points
MOST = 40  # rows or points that one drawing can show legibly

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "pdf.fonttype": 42,  # slower than 3, which journals refuse
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": [FAMILY],
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.columnspacing": 1.6,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_LONG = re.compile(r"-?\d+\.\d{3,}")

Interval: TypeAlias = tuple[float, float]
Entry: TypeAlias = tuple[Any, str, Sequence[str]]
"""Of a legend: an artist, its words, the strategies it belongs to."""


class Paper:
    """A canvas that remembers which strategies a mark belongs to and what it says when pointed at."""

    def __init__(self, width: float, height: float) -> None:
        self.canvas: Any = Canvas(figsize=(width, height))
        self.size = (width, height)
        self.tags: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def axes(self, title: str = "", x: str = "", y: str = "", **place: Any) -> Any:
        """Axes that fill the paper (or `rect` of it, in its units); labels hang over its edge."""
        axes = self.canvas.add_axes(place.pop("rect", (0, 0, 1, 1)), **place)
        axes.set_title(shorter(title, 60))
        axes.set_xlabel(shorter(x, 60))
        axes.set_ylabel(shorter(y, 44))
        return axes

    def tag(self, artist: Any, names: Iterable[str] = (), hover: Sequence[str] = ()) -> Any:
        """Say whose an artist is, and what each of its marks says (or, given one text, what all say)."""
        artist.set_gid(f"tag{len(self.tags)}")
        self.tags[artist.get_gid()] = tuple(names), tuple(map(printable, hover))
        return artist

    def write(self, axes: Any, x: float, y: float, text: str, names: Iterable[str] = (), **how: Any) -> None:
        self.tag(axes.text(x, y, printable(text), **how), names)

    def row(self, axes: Any, place: float, left: str, right: str, names: Iterable[str] = ()) -> None:
        """The words of a row, above its line: from the left end of the axes and up to the right end."""
        across = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
        right = shorter(right, 36)
        self.write(axes, 0, place - 0.12, shorter(left, min(40, 52 - len(right))), names, **across)
        self.write(axes, 1, place - 0.12, right, names, ha="right", color=SOFT, **across)

    def legend(self, entries: Sequence[Entry], below: float = 0.55) -> None:
        """What marks mean, `below` inches under the axes."""
        if not entries:
            return
        width, height = self.size
        texts = [shorter(text, 34) for _, text, _ in entries]
        columns = 1 if len(texts) == 1 or max(map(len, texts)) > 0.5 * width * 72 / 6 else 2
        legend = self.canvas.legend(
            [artist for artist, _, _ in entries],
            texts,
            loc="upper left",
            bbox_to_anchor=(0, -below / height),
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
        )
        for handle, text, (_, _, names) in zip(
            legend.legend_handles, legend.get_texts(), entries, strict=True
        ):
            self.tag(handle, names)
            self.tag(text, names)


@dataclass(frozen=True)
class Drawing:
    """A drawing that is made when it is first looked at: the same bytes for the same values.

    Attributes:
        data: what is drawn, as the rows of a CSV, header first.
    """

    name: str
    paint: Callable[[Paper], None]
    data: Rows
    height: float
    width: float = WIDTH

    @property
    def svg(self) -> str:
        """A complete SVG document."""
        return self._files[0]

    @property
    def pdf(self) -> bytes:
        return self._files[1]

    @cached_property
    def _files(self) -> tuple[str, bytes]:
        svg, pdf = io.StringIO(), io.BytesIO()
        with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": self.name}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the viewer's fonts draw it, not ours
            use_light()
            paper = Paper(self.width, self.height)
            self.paint(paper)
            canvas = paper.canvas
            box = canvas.get_tightbbox().padded(0.04)
            canvas.savefig(svg, format="svg", metadata={"Date": None}, bbox_inches=box)
            canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None}, bbox_inches=box)
        prefix = f"d{zlib.crc32(self.name.encode('utf-8', 'replace')):08x}"
        return _own(svg.getvalue(), prefix, paper.tags), pdf.getvalue()


def style(number: int) -> tuple[str, str, Any]:
    """Colour, marker and line of the n-th strategy; 7, 11 and 5 share no factor, so 385 differ."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]


def shown(count: int) -> int:
    """How many of `count` rows a drawing takes."""
    return min(count, MOST)


def shorter(text: str, most: int = 40) -> str:
    """Printable text of at most so many characters: both ends of a long one."""
    text = printable(text)
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 1]}…{text[len(text) - tail :]}"


def known(value: float | None) -> bool:
    """Whether there is a number to draw."""
    return value is not None and math.isfinite(value)


def cell(value: float | None) -> str:
    """A number in a CSV, with all its digits; nothing where there is none."""
    return repr(float(value)) if value is not None and math.isfinite(value) else ""


def say(value: float) -> str:
    """A number for people who point at it."""
    return f"{value:.4g}".replace("-", "−")


def short(value: float) -> str:
    """A number where there is little room: 0.05, 2e−5."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:g}".replace("-", "−")
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", "−")


def span(interval: Interval | None) -> str:
    return "" if interval is None else f" ({say(interval[0])} to {say(interval[1])})"


def scale(axes: Any, side: str, values: Sequence[float]) -> None:
    """A logarithmic axis where values span a factor of eight or more; with room for 0 at its end."""
    positive = [value for value in values if value > 0]
    if min(values) < 0 or not positive or max(positive) < 8 * min(positive):
        return
    axis = getattr(axes, f"{side}axis")
    if min(values) == 0:
        getattr(axes, f"set_{side}scale")("symlog", linthresh=min(positive))
    else:
        getattr(axes, f"set_{side}scale")("log")
    distinct = sorted(set(values))
    steps = [math.log10(b / a) for a, b in itertools.pairwise(sorted(set(positive)))]
    if len(distinct) <= 4 and min(steps) > 0.2 * sum(steps):  # few, and far enough apart to be named
        axis.set_major_locator(FixedLocator(distinct))
    elif min(values) > 0:
        decades = math.log10(max(positive) / min(positive))
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.6 else (1,)))
    axis.set_major_formatter(lambda value, _: short(value))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _own(document: str, prefix: str, tags: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> str:
    """The document without what no reader needs, with words on its marks, and with ids that stay unique when
    many documents share one page."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(document)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _share(element)
        if not (element.text or "").strip():
            element.text = None
        element.tail = None  # indentation; matplotlib writes no mixed text
        if (tag := element.attrib.get("id")) in tags:
            names, hover = tags[str(tag)]
            if names:
                element.set("class", " ".join(f"of-{slug(name)}" for name in names))
            _say(element, hover)
        for attribute, value in list(element.attrib.items()):
            if attribute == "id":
                if element.tag == f"{{{_SVG}}}g":
                    del element.attrib["id"]  # nothing refers to a group
                else:
                    element.set("id", f"{prefix}-{value}")
            elif attribute == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(attribute, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{prefix}-"))
            elif attribute in ("d", "x", "y", "transform"):
                element.set(attribute, _LONG.sub(lambda found: f"{float(found[0]):.2f}", value))
    return ElementTree.tostring(root, encoding="unicode")


def _share(group: ElementTree.Element) -> None:
    """Say once what the marks of a group have in common: it is most of what a drawing weighs."""
    marks = group.findall(f"{{{_SVG}}}use")
    looks = {mark.get("style") for mark in marks}
    if len(marks) > 1 and len(looks) == 1 and "style" not in group.attrib and (look := looks.pop()):
        group.set("style", look)
        for mark in marks:
            del mark.attrib["style"]


def _say(element: ElementTree.Element, hover: Sequence[str]) -> None:
    """Texts that a browser shows of what is pointed at."""
    marks = [mark for mark in element.iter() if mark.tag == f"{{{_SVG}}}use"]
    targets = marks if len(marks) == len(hover) else [element] * min(1, len(hover))
    for target, text in zip(targets, hover, strict=False):
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = text
        target.insert(0, title)
