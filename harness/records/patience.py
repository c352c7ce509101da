"""Waiting for a storage that is away: what is tried again, how often, and what is said."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.errors import RunEndsError, StorageError, no_space

logger = logging.getLogger(__name__)

PATIENCE_VARIABLE = "HARNESS_PATIENCE"
"""So many seconds a storage may be away before a run gives up, which can be resumed."""

_PATIENCE_SECONDS = 300.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0

# What a folder on a server says while the server is away. A full disk is not among it: it stays full.
_AWAY = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH",
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EREMOTEIO", "EAGAIN",
    )
    if hasattr(errno, name)
)  # fmt: skip
# What cannot be read for one of these reasons cannot be read a little later either.
_LASTING = frozenset(
    (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
)
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))

T = TypeVar("T")


def away(error: Exception) -> bool:
    """Whether a folder cannot be reached now and may come back."""
    return isinstance(error, OSError) and error.errno in _AWAY


def ending(error: BaseException) -> RunEndsError | None:
    """What ends the run if that is behind an error, however libraries have wrapped it; else None."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, RunEndsError):
            return found
        # An error of a file has its name; a server that a plug-in cannot reach is that trial's own trouble.
        if isinstance(found, OSError) and found.filename is not None and away(found):
            return StorageError(f"the storage cannot be reached: {said(found)}")
        found = found.__cause__ or found.__context__
    return no_space(error)


def patiently(
    what: str, attempt: Callable[[], T], passing: Callable[[Exception], bool], seconds: float | None = None
) -> T:
    """Try until it works, with growing pauses; said once, in the log.

    Args:
        what: is tried, in words that follow a colon.
        passing: whether an error is one that may pass; others are raised as they are.
        seconds: to go on for; default: those of HARNESS_PATIENCE, or 300.

    Raises: StorageError when the time is over.
    """
    seconds = _patience() if seconds is None else seconds
    until, pause, told = time.monotonic() + seconds, _FIRST_PAUSE, False
    while True:
        try:
            return attempt()
        except Exception as error:
            if not passing(error):
                raise
            left = until - time.monotonic()
            if left <= 0:
                waited = f" for {seconds:.0f} s" if seconds > 0 else ""
                raise StorageError(f"{what}: the storage cannot be reached{waited}: {said(error)}") from error
            if not told:
                told = True
                logger.warning(
                    "%s: the storage is away, trying for up to %.0f s: %s", what, seconds, said(error)
                )
        time.sleep(min(pause, max(0.05, left)))
        pause = min(2 * pause, _LONGEST_PAUSE)


def reading(path: Path, attempt: Callable[[], T]) -> T:
    """What is read from a file or a folder. An error of reading says nothing of what was written there: it is
    waited for, however the operating system calls it, and ends the run if it stays.

    Raises: FileNotFoundError; StorageError; and as it is what else `attempt` raises.
    """

    def passing(error: Exception) -> bool:
        # Libraries raise an OSError without a number for content that they cannot make sense of.
        number = error.errno if isinstance(error, OSError) else None
        return number is not None and number not in _LASTING | _FULL | {errno.ENOENT}

    try:
        return patiently(f"{path}: reading", attempt, passing)
    except OSError as error:
        if error.errno in _LASTING:
            raise StorageError(f"{path} cannot be read: {said(error)}") from error
        raise


def _patience() -> float:
    try:
        return float(os.environ[PATIENCE_VARIABLE])
    except (KeyError, ValueError):
        return _PATIENCE_SECONDS


def said(error: BaseException) -> str:
    """An error in one line without secrets: neither the user in an address nor what follows its `?`."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"//[^/\s@]*@", "//", text)
    return re.sub(r"\?[^\s\"']+", "", text)[:300]
