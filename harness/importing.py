"""Imports of torch, transformers and ray, which take seconds and leave a million objects behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def unwatched() -> Iterator[None]:
    """For imports at the start of a process: what modules hold stays as long as they do.

    Looking for garbage among it takes a quarter of the imports' time (5.3 s with, 3.8 s without, torch,
    transformers, datasets and ray on an EPYC), and 1.6 s more when the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _freeze()
        if enabled:
            gc.enable()


@cache  # once: garbage of later work is not to be kept
def _freeze() -> None:
    gc.freeze()
