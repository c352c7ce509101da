from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.adapted import adapted
from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class Lars(Optimizer):
    """SGD with a rate per tensor: `v ← μ·v + η·‖w‖/(‖g‖ + λ_wd·‖w‖)·(g + λ_wd·w); w ← w − γ·v` for matrices,
    γ the learning rate and η the `trust` in it, with 1 for the quotient and η where w or g is 0; biases and
    normalisation weights take SGD's step.

    Trust and momentum are the paper's, which trains from scratch; the rate is the base rate of the linear
    probes of masked autoencoders (He et al. 2022), without decay, as there. By timm (`Lars`).
    """

    name: ClassVar[str] = "lars"
    source: ClassVar[str] = (
        "You, Gitman & Ginsburg 2017, arXiv 1708.03888; rate: He et al. 2022, arXiv 2111.06377"
    )
    package: ClassVar[str] = "timm"

    learning_rate: float = Field(default=0.1, gt=0, le=100)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    trust: float = Field(default=1e-3, gt=0, le=100)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from timm.optim.lars import Lars

        built: torch.optim.Optimizer = Lars(
            adapted(groups), momentum=self.momentum, trust_coeff=self.trust, eps=0.0
        )
        return built
