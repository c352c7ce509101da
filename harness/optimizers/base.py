"""What every optimiser plug-in is."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Setting, Strategy
from harness.registry import Plugin
from harness.stage import Stage

if TYPE_CHECKING:
    import torch


class Optimizer(Plugin):
    """Settings shared by all optimisers.

    Attributes:
        learning_rate: peak rate of the backbone's weights.
        head_multiplier: the head trains at `learning_rate × head_multiplier`.
        weight_decay: on matrices only; biases and normalisation weights are exempt.
        averages: the weights that it stands for are others than those that it trains (see `scoring`).
        package: what it needs beyond torch, of the extra `optimizers`.
    """

    averages: ClassVar[bool] = False
    package: ClassVar[str] = ""

    learning_rate: float = Field(gt=0, le=100)
    head_multiplier: float = Field(default=1.0, gt=0, le=1e6)
    weight_decay: float = Field(default=0.0, ge=0, le=100)

    def conflict(self, recipe: Strategy) -> str:
        """Why it cannot be used beside the rest of a recipe; empty if it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"needs {self.package}: pip install 'finetune-harness[optimizers]'"
        return ""

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over parameter groups that carry `params`, `lr` and `weight_decay`."""

    def scoring(
        self, optimizer: torch.optim.Optimizer, setting: Setting, stage: Stage
    ) -> AbstractContextManager[None]:
        """Around evaluations: in it the weights are those that the optimiser stands for, where it does not
        train these themselves."""
        return nullcontext()

    def leave(self, optimizer: torch.optim.Optimizer) -> None:
        """A stage is over: from now on the model has the weights that the optimiser stands for."""
