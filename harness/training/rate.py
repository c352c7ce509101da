"""How fast this machine is, for predictions."""

from __future__ import annotations

import time

import torch

# Share of a matrix product's rate that fine-tuning reached: 0.5 to 0.65, measured with minilm-l6 at 64 tokens
# on two cores of a Xeon with AVX-512, fp32.
EFFICIENCY = 0.5


def training_rate(threads: int) -> float:
    """FLOP/s that fine-tuning can be expected to reach on `threads` cores: a short matrix product, times
    EFFICIENCY. Takes about a tenth of a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.ones(1024, 384), torch.ones(384, 1536)
        torch.mm(a, b)
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < 0.1:
            torch.mm(a, b)
            rounds += 1
        return EFFICIENCY * rounds * 2 * 1024 * 384 * 1536 / (time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
