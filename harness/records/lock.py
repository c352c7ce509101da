"""One run at a time per results folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from harness.errors import ResultsLockedError
from harness.records.paths import ResultPaths


@contextmanager
def hold(paths: ResultPaths) -> Iterator[None]:
    """Hold the results folder. The operating system lets go of the lock when its owner dies.

    Raises: ResultsLockedError naming the owner.
    """
    paths.root.mkdir(parents=True, exist_ok=True)
    owner = paths.lock.with_suffix(".owner")
    lock = FileLock(paths.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            said = json.loads(owner.read_text())
            who = f"process {said['pid']} on {said['host']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise ResultsLockedError(f"{paths.root}: {who} is running this sweep") from None
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
