"""The font of drawings, without what only other scripts need.

A PDF holds the part of its font that it uses. Cutting that part out took half of a report's time, most of it
for tables of ligatures and marks: 0.18 s a drawing, 0.04 s without them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager

from harness.cache import cache_folder, checksum, written_once

FAMILY = "DejaVu Sans"
_TABLES = ("GSUB", "GPOS", "GDEF", "MATH")


@lru_cache(maxsize=1)
def use_light() -> None:
    """From now on `FAMILY` means the light font. Where it cannot be kept the whole one serves as well."""
    whole = Path(font_manager.findfont(FAMILY))
    with suppress(Exception):  # a damaged file, a full disk
        folder = written_once(cache_folder() / "fonts" / checksum(whole), lambda path: _write(whole, path))
        found = font_manager.fontManager
        found.addfont(folder / whole.name)
        found.ttflist.insert(0, found.ttflist.pop())  # of two that fit as well the first is taken


def _write(whole: Path, folder: Path) -> None:
    from fontTools.ttLib import TTFont

    font = TTFont(whole, recalcTimestamp=False)
    for table in _TABLES:
        if table in font:
            del font[table]
    font.save(folder / whole.name)
