from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from harness.strategies.base import Preset
from harness.strategies.injected import ADAPTER
from harness.strategies.lora import Lora


class Dora(Lora):
    """Weight-decomposed low-rank adaptation: a layer's weight is `m · V / ‖V‖`, `V = W⁰ + (α/r)·B·A`, with
    a norm and a magnitude m for each output; m, A and B train, from m = ‖W⁰‖ and B = 0, and the head. The
    gradient takes ‖V‖ for a constant (§4.3).

    Settings as for `lora`. The paper's defaults: r = 16, α = 2r, dropout 0.05, rates of 1e-4 and 2e-4, for
    LLaMA with queries, keys, values and the layers of the feed-forward network as targets; here targets are
    those of `lora`, so that the two differ in the method alone.
    """

    name: ClassVar[str] = "dora"
    source: ClassVar[str] = "Liu et al. 2024, arXiv 2402.09353"
    presets: ClassVar[Mapping[str, Preset]] = {
        "dora": Preset({"dora": {"rank": 16}, "optimizer": {"name": "adamw", "learning_rate": 2e-4}}, source)
    }

    rank: int = Field(default=16, ge=1, le=100_000)
    alpha: int = Field(default=32, ge=1, le=1_000_000)
    dropout: float = Field(default=0.05, ge=0, lt=1)

    def variant(self) -> dict[str, Any]:
        return {"use_dora": True}

    def clear(self, layer: Any) -> None:
        super().clear(layer)
        magnitude = layer.lora_magnitude_vector[ADAPTER]
        merged = layer.get_base_layer().weight
        magnitude.weight.copy_(magnitude.get_weight_norm(merged, merged.new_zeros(()), 1.0))
