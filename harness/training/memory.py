"""Memory of the accelerator and of the host: how much a trial took, and whether it was too little."""

from __future__ import annotations

import psutil
import torch


def memory_mb(device: torch.device) -> float:
    """Peak accelerator memory of this trial, or the resident memory of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20


def out_of_memory(error: BaseException) -> bool:
    """Of the accelerator or the host; the CPU allocator raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        said in text for said in ("out of memory", "not enough memory", "can't allocate memory")
    )
