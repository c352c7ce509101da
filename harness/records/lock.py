"""One run at a time per results folder."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from filelock import FileLock, Timeout

from harness.errors import ResultsLockedError
from harness.records import remote
from harness.records.lease import lease
from harness.records.paths import ResultPaths


@contextmanager
def hold(paths: ResultPaths) -> Iterator[None]:
    """Hold the results folder. The operating system lets go of the lock when its owner dies. Of results on a
    URI their folder on this machine is held, and a lease there, so that no other machine runs the sweep.

    Raises: ResultsLockedError naming the owner, or who has taken the lease over; StorageError.
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
        raise ResultsLockedError(f"{remote.shown(paths.root)}: {who} is running this sweep") from None
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        found = remote.mirror(paths.root)
        with nullcontext() if found is None else lease(found[0].store, _machine(paths)):
            yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _machine(paths: ResultPaths) -> str:
    """A name that no other machine has: made once, kept with what stands for the URI here."""
    file = paths.lock.with_suffix(".machine")
    if not file.exists():
        file.write_text(uuid.uuid4().hex)
    return file.read_text()
