"""Which of Ray's processes import what trials need before there is a trial."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from harness.tuning.gate import Gate

ASK = "from harness.tuning.gate import wanted; print(wanted())"


def asking(number: int | None = None) -> subprocess.Popen[str]:
    """A process that asks, as soon as it is known to be the one with this number."""
    process = subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True)
    while number is not None and not (Path(os.environ["HARNESS_GATE"]) / f"worker.{number}").exists():
        time.sleep(0.01)
    return process


def test_the_first_imports_at_once_and_as_many_others_as_are_wanted() -> None:
    """One answers before the gate opens, the others then, two of three in all; who comes later is wanted."""
    gate = Gate()
    try:
        first = asking()
        assert first.communicate(timeout=30)[0] == "True\n"
        others = [asking(number) for number in (1, 2)]
        assert all(other.poll() is None for other in others)
        gate.open(2)
        answers = sorted(other.communicate(timeout=30)[0] for other in others)
        assert answers == ["False\n", "True\n"]
        assert asking().communicate(timeout=30)[0] == "True\n"
    finally:
        gate.remove()


def test_a_driver_that_dies_holds_nobody_up() -> None:
    """Without an answer the others are not wanted: nobody will give them work."""
    gate = Gate()
    try:
        asking().communicate(timeout=30)
        second = asking(1)
        gate.remove()
        assert second.communicate(timeout=30)[0] == "False\n"
    finally:
        gate.remove()
