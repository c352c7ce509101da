from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from harness.strategies.base import Preset
from harness.strategies.injected import ADAPTER, Injected, Layers, called, exactly, transposed


class Lora(Injected):
    """Low-rank adaptation: a layer computes `W⁰x + (α/r)·B·A·x` with W⁰ fixed; A and B train, of `rank` r,
    A drawn as a linear layer is and B = 0, and the head. Convolutions: A has the kernel, B is 1 × 1.

    `targets`: the ends of the names of the layers (`[query, value]`), `all` for every linear and
    convolutional layer of the blocks, or null for those that peft has for the family (queries and values,
    as in the paper), and all where it has none (ViT, wav2vec 2.0, ResNet). `dropout` is on what enters A.
    Computed by peft.

    The paper has r = α = 8 and rates of 4e-4 and 5e-4 for RoBERTa-base on GLUE, and tunes r over 1 … 64.
    """

    name: ClassVar[str] = "lora"
    source: ClassVar[str] = "Hu et al. 2022, arXiv 2106.09685"
    mark: ClassVar[str] = "lora_"
    presets: ClassVar[Mapping[str, Preset]] = {
        "lora": Preset({"lora": {"rank": 8}, "optimizer": {"name": "adamw", "learning_rate": 5e-4}}, source)
    }

    rank: int = Field(default=8, ge=1, le=100_000)
    alpha: int = Field(default=8, ge=1, le=1_000_000)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all"] | tuple[str, ...] | None = None

    def value(self) -> Any:
        return self.model_dump(mode="json")

    def config(self, model: Any, found: Layers) -> Any:
        from peft import LoraConfig

        names = self._targets(model, found)
        if not names:
            what = (
                "linear or convolutional layers" if self.targets in (None, "all") else "layers of these names"
            )
            raise self.lacking(model, what)
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=exactly(names),
            fan_in_fan_out=transposed(found[name] for name in names),
            **self.variant(),
        )

    def variant(self) -> dict[str, Any]:
        """What peft is told beside."""
        return {}

    def _targets(self, model: Any, found: Layers) -> list[str]:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

        if self.targets is None and model.config.model_type in KNOWN:
            return called(found, KNOWN[model.config.model_type]) or list(found)
        return list(found) if self.targets in (None, "all") else called(found, self.targets)

    def clear(self, layer: Any) -> None:
        layer.lora_B[ADAPTER].weight.zero_()
