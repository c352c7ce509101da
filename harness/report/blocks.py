"""What sections are made of: plain data that knows nothing of Markdown, HTML or LaTeX."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Rows: TypeAlias = tuple[tuple[str, ...], ...]
"""A table as text, header first."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text; the kind says how loudly to set it."""

    text: str
    kind: Literal["plain", "lead", "next", "warning", "banner"] = "plain"


@dataclass(frozen=True)
class Table:
    """A table of text cells.

    Attributes:
        name: what a file made of it is called, before `slug`.
        strong: (row, column) of cells to set in bold; their text must say why, too.
        latex: whether it is also written to tables/*.tex.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    strong: frozenset[tuple[int, int]] = frozenset()
    latex: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table '{self.name}': a row has not {len(self.columns)} cells")


class Drawn(Protocol):
    """A drawing as documents; see `harness/report/drawings`."""

    @property
    def svg(self) -> str: ...

    @property
    def pdf(self) -> bytes: ...


@dataclass(frozen=True)
class Figure:
    """A drawing with the numbers behind it.

    Attributes:
        name: what its files are called, before `slug`.
        alt: what the drawing shows, for those who do not see it.
        data: the rows of the CSV beside it, header first.
    """

    name: str
    drawing: Drawn
    alt: str
    caption: str
    data: Rows


Block: TypeAlias = Paragraph | Table | Figure

Chapter: TypeAlias = tuple[str, str, Sequence[Block]]
"""A section as rendered: anchor, title, blocks."""


def slug(name: str) -> str:
    """A file name from any name: safe characters, and different for different names."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return (
        text if text and text == name else f"{text or 'x'}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"
    )


def printable(text: str) -> str:
    """Text without the control characters that XML and terminals choke on; line breaks become spaces."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
