"""Weights of a model, as optimiser groups, regularisers and parts of a strategy see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weight:
    """One tensor of weights.

    Attributes:
        name: the parameter's name in the model.
        value: the parameter, any shape.
        reference: its pretrained value θ⁰, same shape; None for weights that were not pretrained: those of
            the head, and what a strategy adds or draws anew.
        rung: where it is on the ladder; None for the head.
        module: what holds it.
    """

    name: str
    value: torch.nn.Parameter
    reference: torch.Tensor | None
    rung: int | None = None
    module: Any = None

    @property
    def own_name(self) -> str:
        """Its name within its module."""
        return self.name.rpartition(".")[2]
