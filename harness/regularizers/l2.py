from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from harness.moments import Setting
from harness.regularizers.base import Penalty, Quadratic, Regularizer
from harness.weights import Weight


class L2(Regularizer):
    """Plain L2 towards zero: `λ·R(θ) = (λ/2)·‖w‖²` over all trainable weights, head included.

    The gradient is λ·w, so λ compares directly with an optimiser's coupled weight decay; unlike weight
    decay it covers biases and normalisation weights too. It comes on top of the optimiser's `weight_decay`
    (0.01 for AdamW): with `mode: decoupled` matrices then decay by the sum of both, and
    `optimizer: {weight_decay: 0}` leaves λ alone.

    λ defaults to 0.01, the fine-tuning value of the L2-SP study's baseline.
    """

    name: ClassVar[str] = "l2"
    source: ClassVar[str] = "Krogh & Hertz 1991; default: Li et al. 2018, arXiv 1802.01483"

    strength: float = Field(default=1e-2, ge=0, le=1e9)

    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Penalty:
        return Quadratic([(weight.value, None, self.strength) for weight in weights])
