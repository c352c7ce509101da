from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class AdamW(Optimizer):
    """Adam with decoupled weight decay: `w ← w − η(m̂/(√v̂ + ε) + λ_wd·w)`.

    The default rate is that of the corrected BERT recipe (Mosbach et al. 2021: 2e-5, bias correction,
    10 % warm-up), the decay that of BERT (Devlin et al. 2019: 0.01).
    """

    name: ClassVar[str] = "adamw"
    source: ClassVar[str] = (
        "Loshchilov & Hutter 2019, arXiv 1711.05101; rate: Mosbach et al. 2021, arXiv 2006.04884"
    )

    learning_rate: float = Field(default=2e-5, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        # fused: one pass over the weights; without it a step over 22.7 M of them takes longer than the batch
        return torch.optim.AdamW(groups, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True)
