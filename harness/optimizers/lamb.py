from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.adapted import adapted
from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class Lamb(Optimizer):
    """Adam with a rate per tensor: `u = m̂/(√v̂ + ε) + λ_wd·w; w ← w − η·(‖w‖/‖u‖)·u` for matrices, with 1 for
    ‖w‖/‖u‖ where either is 0; biases and normalisation weights take Adam's step, as in the authors' code.

    The default rate is the one at which the paper pre-trains BERT with batches of 512 (6.25e-4), scaled by
    the paper's square root to the default batch of 16; none is published for fine-tuning. By timm (`Lamb`).
    """

    name: ClassVar[str] = "lamb"
    source: ClassVar[str] = "You et al. 2020, arXiv 1904.00962"
    package: ClassVar[str] = "timm"

    learning_rate: float = Field(default=1e-4, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from timm.optim.lamb import Lamb

        built: torch.optim.Optimizer = Lamb(
            adapted(groups), betas=(self.beta1, self.beta2), eps=self.epsilon, max_grad_norm=None
        )
        return built
