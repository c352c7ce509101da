"""What every optimiser plug-in is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.registry import Plugin

if TYPE_CHECKING:
    import torch


class Optimizer(Plugin):
    """Settings shared by all optimisers.

    Attributes:
        learning_rate: peak rate of the backbone's weights.
        head_multiplier: the head trains at `learning_rate × head_multiplier`.
        weight_decay: on matrices only; biases and normalisation weights are exempt.
    """

    learning_rate: float = Field(gt=0, le=100)
    head_multiplier: float = Field(default=1.0, gt=0, le=1e6)
    weight_decay: float = Field(default=0.0, ge=0, le=100)

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over parameter groups that carry `params`, `lr` and `weight_decay`."""
