"""What who watches a training from outside needs: whether it comes round, and a way to ask it to end.

Both are of the process, which trains one bundle at a time.
"""

from __future__ import annotations

import threading

_beats = 0
_halting = threading.Event()


class Halted(BaseException):
    """The training was asked to end and did, after a checkpoint. Not an `Exception`: nothing is wrong, and
    what catches errors is not to take it for a failed trial."""


def beat() -> None:
    """The training has come round: a step, or a batch of an evaluation."""
    global _beats
    _beats += 1


def beats() -> int:
    return _beats


def halt() -> None:
    """Ask the training to write a checkpoint and to end, after the step that it is at."""
    _halting.set()


def halting() -> bool:
    return _halting.is_set()


def go_on() -> None:
    """Take `halt` back."""
    _halting.clear()
