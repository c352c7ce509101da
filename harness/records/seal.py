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


def sealed(value: Mapping[str, Any]) -> str:
    """The object as JSON, sealed. Raises: ValueError for a number that JSON has no word for."""
    body = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)[:-2]
    return f'{body},\n "{_ENTRY}": "{_checksum(body)}"\n}}\n'


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


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Raises: ValueError for a number that JSON has no word for (NaN, infinity)."""
    write_text(path, sealed(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """To be read by `sound`. Raises: OSError, ValueError."""
    return unsealed(path.read_text(encoding="utf-8"))


def _same(value: dict[str, Any], said: object) -> bool:
    """Whether the object is what was written, though somebody has laid it out anew."""
    return f'"{_ENTRY}": "{said}"' in sealed(value)


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
