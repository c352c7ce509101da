"""Reading what an earlier run, another node or another machine has written: only what is not what was
written counts as damaged. A file that cannot be read now does not (see `records.patience`), nor does a copy
of which the URI has the original.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.cache import fault
from harness.records import remote
from harness.records.patience import reading

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What parsers raise for content that is not what was written; an OSError of theirs has no number.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, EOFError, NotImplementedError, OSError)


def sound(path: Path, read: Callable[[Path], T]) -> T:
    """What a file or folder holds. A damaged copy of what is on a URI is fetched again.

    Args:
        read: raises a ValueError, or what parsers raise, where the content is not what was written.

    Raises: FileNotFoundError; ValueError saying why it is damaged; StorageError if it cannot be read, which
        has been waited for.
    """
    try:
        return _read(path, read)
    except ValueError as damage:
        if remote.mirror(path) is None:
            raise
        logger.warning("%s: this machine's copy is fetched again: %s", remote.shown(path), damage)
    return _read(path, lambda there: read(remote.anew(there)))


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return reading(path, lambda: read(path))
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise ValueError(what or type(error).__name__) from error


def folder_fault(folder: Path) -> str:
    """`cache.fault`, of a folder that may be on a server."""
    return reading(folder, lambda: fault(folder))
