"""Blocks as one HTML page that refers to nothing outside itself and needs no script to be read."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report.blocks import Chapter, Figure, Paragraph, Table, printable, slug
from harness.report.drawings.canvas import COLOURS, FAINT, INK, PAPER, SOFT

# A drawing's colours become the page's own, which differ in dark mode.
_VARIABLES = {colour: f"var(--c{i})" for i, colour in enumerate(COLOURS)}
_VARIABLES |= {INK: "var(--ink)", SOFT: "var(--soft)", FAINT: "var(--faint)", PAPER: "var(--page)"}
_COLOUR = re.compile("|".join(map(re.escape, _VARIABLES)))

_ENLARGED, _LEAST = 1.15, 0.84  # of a drawing's own width: where there is room, and where words have 8 points

_ABSENT = ("", "—")
_VALUE = r"[+−-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?"
_NUMBER = re.compile(rf"[<≥≤]?\s?{_VALUE}(\s?(%|s|min|h|MB|[kMGTP])| to {_VALUE})?")


def html(title: str, chapters: Sequence[Chapter], strategies: Sequence[str]) -> str:
    """The report as a page. Its script, which the page's own policy knows by its hash, sorts tables and hides
    the rows, columns and marks of strategies."""
    environment = _environment()
    script = _source("report.js")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    page = environment.get_template("report.html.j2")
    return page.render(
        title=printable(title),
        chapters=chapters,
        strategies=strategies,
        style=Markup(_source("report.css")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
    )


def owner(name: str) -> str:
    """The class of everything on the page that is one strategy's."""
    return f"of-{slug(name)}"


@dataclass(frozen=True)
class _Look:
    """What a table's rows and columns are: numbers, and whose."""

    numeric: tuple[bool, ...]
    strategies: frozenset[str]
    place: int | None  # of the column that names strategies
    columns: tuple[str, ...]

    def row(self, row: Sequence[str]) -> Markup:
        name = None if self.place is None else row[self.place]
        return _classes([owner(name)] if name in self.strategies else [])

    def column(self, j: int) -> Markup:
        names = ["n"] if self.numeric[j] else []
        if self.place is None and self.columns[j] in self.strategies:
            names.append(owner(self.columns[j]))
        return _classes(names)


def _look(table: Table, strategies: Sequence[str]) -> _Look:
    place = table.columns.index("strategy") if "strategy" in table.columns else None
    numeric = tuple(
        j > 0
        and all(row[j] in _ABSENT or _NUMBER.fullmatch(row[j]) for row in table.rows)
        and any(row[j] not in _ABSENT for row in table.rows)
        for j in range(len(table.columns))
    )
    return _Look(numeric, frozenset(strategies), place, table.columns)


def _classes(names: Sequence[str]) -> Markup:
    return Markup(' class="{}"').format(" ".join(names)) if names else Markup("")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": printable, "inline": _inline_svg, "look": _look, "owner": owner}
    environment.tests["paragraph"] = lambda block: isinstance(block, Paragraph)
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    return environment


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _inline_svg(figure: Figure) -> Markup:
    """The drawing for use inside HTML, where namespaces are implied and the page says what it shows."""
    root = ElementTree.fromstring(figure.drawing.svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for attribute, value in list(element.attrib.items()):
            del element.attrib[attribute]
            if attribute == "style":
                value = _COLOUR.sub(lambda found: _VARIABLES[found[0]], value)
            element.set(attribute.rpartition("}")[2], value)
    width = float(root.attrib["width"].removesuffix("pt"))
    root.set("width", f"{_ENLARGED * width:.0f}pt")
    root.set(
        "style", f"min-width: {_LEAST * width:.0f}pt"
    )  # what is wider than the screen scrolls in its box
    del root.attrib["height"], root.attrib["version"]  # the height follows from the viewBox
    root.set("role", "img")
    root.set("aria-label", printable(figure.alt))
    return Markup(ElementTree.tostring(root, encoding="unicode"))
