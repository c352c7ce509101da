"""How many of the processes that Ray starts at once, one for every core, import what trials need.

The first does so while the driver imports, too. The others wait until the driver knows how many trials there
will be at a time, and those that are too many end. A process that Ray starts later is wanted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PRELOAD = "RAY_preload_python_modules"
_FOLDER = "HARNESS_GATE"  # where the driver and its workers meet
_COUNT = "count"


class Gate:
    """Held by the driver, closed until `open` says how many workers are wanted. To be made before Ray starts
    on this machine, whose processes inherit the environment."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="harness-"))
        self._count = (self._folder / _COUNT).open("w", encoding="ascii")
        fcntl.flock(self._count, fcntl.LOCK_EX)
        os.environ |= {_FOLDER: str(self._folder), _PRELOAD: "harness.tuning.preload"}

    def open(self, workers: int) -> None:
        if not self._count.closed:
            self._count.write(str(workers))
            self._free()

    def _free(self) -> None:
        if not self._count.closed:
            self._count.flush()
            fcntl.flock(self._count, fcntl.LOCK_UN)  # closing alone does not, where a child has it open, too
            self._count.close()

    def remove(self) -> None:
        """No process will start any more."""
        self._free()
        shutil.rmtree(self._folder, ignore_errors=True)
        for name in (_FOLDER, _PRELOAD):
            os.environ.pop(name, None)


def wanted() -> bool:
    """In a process of Ray's: whether it is to import; told when the gate is open, if it may be too many."""
    folder = Path(os.environ[_FOLDER])
    with (folder / _COUNT).open(encoding="ascii") as count:
        try:
            fcntl.flock(count, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            number = _number(folder)
        if number > 0:
            fcntl.flock(count, fcntl.LOCK_SH)
        return number == 0 or number < int(count.read() or 0)


def _number(folder: Path) -> int:
    """How many processes came before this one."""
    number = 0
    while True:
        try:
            (folder / f"worker.{number}").touch(exist_ok=False)
            return number
        except FileExistsError:
            number += 1
