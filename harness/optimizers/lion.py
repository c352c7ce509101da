from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class Lion(Optimizer):
    """Evolved sign momentum: `w ← w − η(sign(β₁·m + (1 − β₁)·g) + λ_wd·w); m ← β₂·m + (1 − β₂)·g`.

    The paper takes a rate 3 to 10 times smaller than AdamW's and a decay as many times larger: the defaults
    are AdamW's (2e-5, 0.01) with a factor of 5. By timm (`Lion`).
    """

    name: ClassVar[str] = "lion"
    source: ClassVar[str] = "Chen et al. 2023, arXiv 2302.06675, §5"
    package: ClassVar[str] = "timm"

    learning_rate: float = Field(default=4e-6, gt=0, le=100)
    weight_decay: float = Field(default=0.05, ge=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from timm.optim.lion import Lion

        built: torch.optim.Optimizer = Lion(groups, betas=(self.beta1, self.beta2))
        return built
