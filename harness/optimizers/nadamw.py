from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class NAdamW(Optimizer):
    """AdamW with Nesterov's momentum: with `μₜ = β₁·(1 − ½·0.96^(t·ψ))` the step is that of
    `μₜ₊₁·m/(1 − Π_{i≤t+1} μᵢ) + (1 − μₜ)·g/(1 − Π_{i≤t} μᵢ)` over `√v̂ + ε`; the decay is decoupled.

    ψ is `momentum_decay`. Rate and decay are AdamW's, as none are published for fine-tuning. By torch
    (`NAdam`).
    """

    name: ClassVar[str] = "nadamw"
    source: ClassVar[str] = "Dozat 2016, ICLR workshop; decay: Loshchilov & Hutter 2019, arXiv 1711.05101"

    learning_rate: float = Field(default=2e-5, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    momentum_decay: float = Field(default=4e-3, ge=0, le=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.NAdam(
            groups,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            momentum_decay=self.momentum_decay,
            decoupled_weight_decay=True,
        )
