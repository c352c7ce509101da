"""Memory of the accelerator and of the host: how much a trial took, whether it was too little, and who keeps
it between two steps."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

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


# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed() -> None:
    """Let this process keep what it frees in main memory, until `give_back`.

    The C library returns large blocks to the system at once, and gets them back page by page: a step of full
    fine-tuning frees and takes the gradient of an embedding matrix, activations, what a penalty compares.
    Measured on MiniLM: a tenth of the time of a trial (docs/performance.md). Accelerators have an allocator
    of their own that does the same.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_MMAP_MAX, 0)  # large blocks come from the heap, too
        libc.mallopt(_TRIM_THRESHOLD, -1)  # and the heap does not shrink by itself


def give_back() -> None:
    """Return to the system what is free: another process may need it."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> Any:
    """None on systems whose C library is another one."""
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.gnu_get_libc_version and libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None
