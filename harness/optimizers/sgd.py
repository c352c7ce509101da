from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: `v ← μ·v + g + λ_wd·w; w ← w − η·v`.

    Defaults are those of the L2-SP study of transfer learning (rate 0.01, momentum 0.9).
    """

    name: ClassVar[str] = "sgd"
    source: ClassVar[str] = "Polyak 1964; defaults: Li et al. 2018, arXiv 1802.01483, §4"

    learning_rate: float = Field(default=1e-2, gt=0, le=100)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov and self.momentum > 0)
