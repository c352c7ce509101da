"""Weights that stand in for those that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def swapped(values: Mapping[torch.nn.Parameter, torch.Tensor]) -> Iterator[None]:
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
