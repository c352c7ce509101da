from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class RAdam(Optimizer):
    """Rectified Adam: Adam's step times r, which grows from 0 to 1 with the variance of the adaptive rate
    becoming tractable; in the first steps (5 at β₂ = 0.999) plain momentum without adaptive rates. The decay
    is decoupled. It stands in for a warm-up (`training.warmup: 0`).

    Rate and decay are AdamW's, as none are published for fine-tuning. By torch (`RAdam`).
    """

    name: ClassVar[str] = "radam"
    source: ClassVar[str] = "Liu et al. 2020, arXiv 1908.03265"

    learning_rate: float = Field(default=2e-5, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.RAdam(
            groups, betas=(self.beta1, self.beta2), eps=self.epsilon, decoupled_weight_decay=True
        )
