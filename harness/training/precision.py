"""The number formats of a trial."""

from __future__ import annotations

import torch

_PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=_PRECISION[precision], enabled=precision != "fp32")
