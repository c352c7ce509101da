"""Weights that stand in for those that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def swapped(values: Mapping[torch.Tensor, torch.Tensor]) -> Iterator[None]:
    """For the length of the block each weight has another value, of its shape."""
    import torch

    with torch.no_grad():
        before = {weight: weight.clone() for weight in values}
        for weight, value in values.items():
            weight.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in before.items():
                weight.copy_(value)


def statistics(model: Any) -> dict[str, torch.Tensor]:
    """Running means and variances of a model's BatchNorm modules, by name."""
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    }
