from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class Adam(Optimizer):
    """Adam; `weight_decay` is coupled, i.e. `λ_wd·w` is added to the gradient before the moments.

    The default rate is the lowest of those that BERT was fine-tuned with (Devlin et al. 2019: 2e-5,
    3e-5, 5e-5).
    """

    name: ClassVar[str] = "adam"
    source: ClassVar[str] = "Kingma & Ba 2015, arXiv 1412.6980; rate: Devlin et al. 2019, arXiv 1810.04805"

    learning_rate: float = Field(default=2e-5, gt=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adam(groups, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True)
