from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from harness.moments import Setting
from harness.regularizers.base import Penalty, Quadratic, Regularizer
from harness.weights import Weight


class L2SP(Regularizer):
    """L2 towards the starting point θ⁰ = w⁰: `λ·R(θ) = (α/2)·‖w − w⁰‖² + (β/2)·‖head‖²`.

    α is `strength`, β is `head_strength`; sums run over trainable weights, and frozen weights and the
    head have no reference term. The gradient is α·(w − w⁰) and β·head.

    The paper tunes α over 10⁻³…10² (the default is 0.1) and fixes β = 0.01 without other weight decay. Here
    β defaults to 0 because the head already has the optimiser's `weight_decay` (0.01 for AdamW), and so that
    λ = 0 means "no regulariser". That decay pulls the matrices below the head towards zero as well, against
    α: `optimizer: {weight_decay: 0}` with `head_strength: 0.01` is the paper's setting.
    """

    name: ClassVar[str] = "l2-sp"
    source: ClassVar[str] = "Li, Grandvalet & Davoine 2018, arXiv 1802.01483, eq. 3"

    strength: float = Field(default=1e-1, ge=0, le=1e9)
    head_strength: float = Field(default=0.0, ge=0, le=1e9)

    def canonical(self, no_start: bool) -> Regularizer | None:
        pull = 0.0 if no_start else self.strength
        if pull == 0 and self.head_strength == 0:
            return None
        return self.model_copy(update={"strength": pull})

    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Penalty:
        return Quadratic(
            [
                (w.value, w.reference, self.strength if w.reference is not None else self.head_strength)
                for w in weights
            ]
        )
