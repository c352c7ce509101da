"""What who watches a process from outside needs: whether it comes round, and a way to ask it to end.

Both are of the process, which trains one bundle at a time. What takes long says `come_round` again and again.
"""

from __future__ import annotations

import threading

_beats = 0
_halting = threading.Event()


class Halted(BaseException):
    """The process was asked to end and does: a training after a checkpoint, and what trains nothing at once.
    Not an `Exception`: nothing is wrong, and what catches errors is not to take it for a failed trial."""


def beat() -> None:
    """The process has come round: a step, a batch, an example, a wait for others."""
    global _beats
    _beats += 1


def beats() -> int:
    return _beats


def halt() -> None:
    """Ask the training to write a checkpoint and to end, after what it is at."""
    _halting.set()


def halting() -> bool:
    return _halting.is_set()


def come_round() -> None:
    """A sign of life, where nothing has to be saved before the end.

    Raises: Halted if the training is asked to end.
    """
    beat()
    if halting():
        raise Halted


def go_on() -> None:
    """Take `halt` back."""
    _halting.clear()
