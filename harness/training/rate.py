"""How fast this machine is, for predictions."""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

from harness.training.precision import DTYPES

# Share of a matrix product's rate that fine-tuning reached: 0.5 to 0.65, measured with minilm-l6 at 64 tokens
# on two cores of a Xeon with AVX-512, fp32.
EFFICIENCY = 0.5


_MEASURED = 1 << 24  # bytes


@cache
def bandwidth(folder: Path) -> tuple[float, float]:
    """Bytes per second at which `folder` is written to, and read through a memory map once written: a file of
    16 MB, which takes some hundredths of a second."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".bandwidth.{os.getpid()}"
    content = np.zeros(_MEASURED, dtype=np.uint8)
    try:
        started = time.perf_counter()
        content.tofile(path)
        written = time.perf_counter()
        np.memmap(path, dtype=np.uint8, mode="r").copy()
        return _MEASURED / (written - started), _MEASURED / (time.perf_counter() - written)
    finally:
        path.unlink(missing_ok=True)


@cache
def training_rate(threads: int, precision: str = "fp32") -> float:
    """FLOP/s that fine-tuning can be expected to reach on `threads` cores: a short matrix product, times
    EFFICIENCY. Takes about a tenth of a second; what the hardware lacks is emulated, at a small part of the
    rate of fp32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        dtype = DTYPES[precision]
        a, b = torch.ones(1024, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        torch.mm(a[:64], b)  # the first one is slow
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < 0.1:
            torch.mm(a, b)
            rounds += 1
        return EFFICIENCY * rounds * 2 * 1024 * 384 * 1536 / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
