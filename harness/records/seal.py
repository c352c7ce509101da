"""JSON objects that carry a checksum of their own text: what a disk or a hand has changed is not believed.

The checksum is the last entry and covers every character before it. A text without one, of before there were
any, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records.paths import write_text

_ENTRY = "checksum"


def sealed(value: Mapping[str, Any], indent: int | None = None) -> str:
    """The object as JSON, sealed. Raises: ValueError for a number that JSON has no word for."""
    text = json.dumps(value, indent=indent, sort_keys=True, allow_nan=False)
    body, end = (text[:-2], "\n}\n") if indent else (text[:-1], "}")
    between = "\n" + indent * " " if indent else " "
    return f'{body},{between}"{_ENTRY}": "{_checksum(body)}"{end}'


def unsealed(text: str) -> dict[str, Any]:
    """The object, without its checksum.

    Raises: ValueError if the text is no JSON object, or not what was sealed.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("holds no JSON object")
    said = value.pop(_ENTRY, None)
    if said is not None and said != _checksum(text.rpartition(",")[0]) and not _same(value, said):
        raise ValueError("its checksum is not that of its content")
    return value


def intact(text: str) -> bool:
    """Whether a text that was sealed is as it was: one that was never sealed counts."""
    body, _, end = text.rpartition(",")
    return f'"{_ENTRY}"' not in end or f'"{_checksum(body)}"' in end


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Raises: ValueError for a number that JSON has no word for (NaN, infinity)."""
    write_text(path, sealed(value, indent=1))


def read_sealed(path: Path) -> dict[str, Any]:
    """Raises: OSError, ValueError."""
    return unsealed(path.read_text(encoding="utf-8"))


def _same(value: dict[str, Any], said: object) -> bool:
    """Whether the object is what was written, though somebody has laid it out anew."""
    return f'"{_ENTRY}": "{said}"' in sealed(value, indent=1)


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
