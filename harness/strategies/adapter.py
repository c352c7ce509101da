from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from harness.moments import Tuned
from harness.strategies.base import WHICH, Part, Preset
from harness.strategies.normalisation import normalises
from harness.weights import Weight


class Adapter(Part):
    """Bottleneck adapters: what leaves each block that trains becomes `h + W₂·ReLU(W₁h + b₁) + b₂`, with
    1/`reduction` as many features inside; W and b train, and the head. Feature maps: pixel by pixel.

    One adapter per block, reduction 16 and ReLU are Pfeiffer et al.'s, at a rate of 1e-4; Houlsby et al.
    have two per block, of 8 to 256 features, and train the normalisations too (`norms: true`), at 3e-5 to
    3e-3. In both an adapter stands before a residual sum, here, for any family, after the whole block; and
    it begins as nothing at all (W₂ = 0, as in He et al. 2022, arXiv 2110.04366), not just close to it. It
    cannot be merged, so that the distance of the weights is 0 but for normalisations, which regularisers
    towards θ⁰ leave alone here.
    """

    name: ClassVar[str] = "adapter"
    source: ClassVar[str] = (
        "Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2021, arXiv 2005.00247 (one per block)"
    )
    claims: ClassVar[frozenset[str]] = frozenset({WHICH})
    only_rungs: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    adds: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "adapter": Preset({"adapter": 16.0, "optimizer": {"name": "adamw", "learning_rate": 1e-4}}, source)
    }

    reduction: float = Field(default=16.0, ge=1, le=1e6)
    norms: bool = False

    @classmethod
    def settings(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"reduction": value}

    def value(self) -> Any:
        return self.model_dump() if self.norms else self.reduction

    def trains(self, weight: Weight) -> bool:
        from harness.strategies.modules.bottleneck import NAME

        if weight.rung is None or f".{NAME}." in weight.name:
            return True
        return self.norms and normalises(weight)

    def prepare(self, tuned: Tuned, frozen: int) -> None:
        from harness.strategies.modules.bottleneck import put_after

        for rung in tuned.ladder.rungs[max(1, frozen) :]:
            put_after(rung, self.reduction)
