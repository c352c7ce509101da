"""Python code in a process of its own."""

from __future__ import annotations

import sys

# Python would look for modules in the working folder first, and a `tensorboard.py` there would run; `-P` is
# of 3.11, and `-I` would leave out PYTHONPATH.
_ELSEWHERE = "import sys; sys.path[:] = [path for path in sys.path if path]; "


def command(code: str, *arguments: str) -> list[str]:
    """What runs statements (on one line) with command-line arguments, nothing of the working folder."""
    return [sys.executable, "-c", _ELSEWHERE + code, *arguments]
