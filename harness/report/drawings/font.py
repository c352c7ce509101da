"""The font of drawings, without what only other scripts need.

A PDF holds the part of its font that it uses. Cutting that part out took half of a report's time, most of it
for tables of ligatures and marks: 0.18 s a drawing, 0.04 s without them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from matplotlib import font_manager

from harness.cache import cache_folder, checksum, seal, whole

FAMILY = "DejaVu Sans"
_TABLES = ("GSUB", "GPOS", "GDEF", "MATH")


@lru_cache(maxsize=1)
def use_light() -> None:
    """From now on `FAMILY` means the light font. Where it cannot be kept the whole one serves as well."""
    font = Path(font_manager.findfont(FAMILY))
    with suppress(Exception):  # a full disk, say
        folder = cache_folder() / "fonts" / checksum(font)
        whole(folder, partial(_write, font), lambda path, why: None)
        found = font_manager.fontManager
        found.addfont(folder / font.name)
        found.ttflist.insert(0, found.ttflist.pop())  # of two that fit as well the first is taken


def _write(font: Path, folder: Path) -> None:
    from fontTools.ttLib import TTFont

    tables = TTFont(font, recalcTimestamp=False)
    for name in _TABLES:
        if name in tables:
            del tables[name]
    tables.save(folder / font.name)
    seal(folder)
