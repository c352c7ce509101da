"""The global generators that models draw from: torch's for dropout, numpy's for the masks of SpecAugment in
wav2vec 2.0 and its kin, Python's for good measure. Each trial has its own state of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_noise(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def noise(device: torch.device) -> dict[str, Any]:
    """Their state, as plain values and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch_noise(device),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def restore_noise(state: dict[str, Any], device: torch.device) -> None:
    restore_torch_noise(state["torch"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


def torch_noise(device: torch.device) -> list[torch.Tensor]:
    """The state of torch's generators alone."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def restore_torch_noise(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
