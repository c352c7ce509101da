from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from harness.moments import Setting
from harness.regularizers.base import Penalty, Regularizer
from harness.regularizers.l2_sp_fisher import L2SPFisher
from harness.weights import Weight


class Ewc(Regularizer):
    """Elastic weight consolidation: `λ·R(θ) = Σᵢ (λ/2)·Fᵢ·(wᵢ − wᵢ⁰)²`, F the diagonal of the Fisher
    information at θ⁰ = w⁰ on the task that was learned before.

    λ is `strength`. The same penalty as `l2-sp-fisher` with β = 0, and so the same trial; what is said there
    of F and of backbones without a source task holds here. The head is not pulled.

    λ defaults to 400, the paper's for Atari games; as the scale of F differs from task to task, tune it over
    powers of ten.
    """

    name: ClassVar[str] = "ewc"
    source: ClassVar[str] = "Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3"

    strength: float = Field(default=400.0, ge=0, le=1e9)
    samples: int = Field(default=256, ge=1, le=1_000_000)

    def canonical(self, no_start: bool) -> Regularizer | None:
        return self._same().canonical(no_start)

    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Penalty:
        return self._same().bind(weights, setting)

    def _same(self) -> L2SPFisher:
        return L2SPFisher(strength=self.strength, mode=self.mode, samples=self.samples)
