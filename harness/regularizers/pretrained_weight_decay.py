from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from harness.moments import Setting
from harness.regularizers.base import Penalty, Regularizer
from harness.regularizers.l2_sp import L2SP
from harness.weights import Weight


class PretrainedWeightDecay(Regularizer):
    """Weight decay towards the starting point θ⁰ = w⁰ instead of zero: `w ← w − η·λ·(w − w⁰)` in each step,
    beside the optimiser's own update and past its moments.

    λ is `strength`, η the weight's own learning rate; every pretrained weight that trains is pulled, biases
    and normalisations too, and the head, which has no w⁰, is not. The same mathematics as `l2-sp` with
    `mode: decoupled` and β = 0, and so the same trial.

    λ defaults to 0.01, what BERT's decay towards zero has; Lee et al. 2020 go up to 0.1. Papers put it in the
    place of decay towards zero: say `optimizer: {weight_decay: 0}` to have it alone.
    """

    name: ClassVar[str] = "pretrained-weight-decay"
    source: ClassVar[str] = (
        "Wiese, Weissenborn & Neves 2017, arXiv 1706.03610; Lee, Cho & Kang 2020, arXiv 1909.11299 "
        "(wdecay towards w_pre); Zhang et al. 2021, arXiv 2006.05987"
    )

    strength: float = Field(default=0.01, ge=0, le=1e9)
    mode: Literal["decoupled"] = "decoupled"

    def canonical(self, no_start: bool) -> Regularizer | None:
        return self._same().canonical(no_start)

    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Penalty:
        return self._same().bind(weights, setting)

    def _same(self) -> L2SP:
        return L2SP(strength=self.strength, mode="decoupled")
