from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.strategies.base import Preset
from harness.strategies.injected import ADAPTER, Injected, Layers, called, exactly, narrowing, transposed

# What families call the layers that give keys and values.
_KEYS_AND_VALUES = ("key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "key_proj", "value_proj", "k", "v")


class Ia3(Injected):
    """(IA)³: keys, values and what the feed-forward network holds inside are multiplied by learned vectors,
    `l_k ⊙ K`, `l_v ⊙ V` and `W₂(l_ff ⊙ γ(W₁x))`, from l = 1; the vectors train, and the head.

    `targets` are the ends of the names of the layers whose output is scaled, `feedforward` of those whose
    input is. Null: those that peft has for the family (for BERT it counts the output of attention as
    feed-forward; where one layer gives queries, keys and values, all are scaled); where it has none, layers
    called key and value, and linear layers of the block with more inputs than outputs. Computed by peft.

    The paper trains with Adafactor at 3e-3, without weight decay, which would pull l towards 0.
    """

    name: ClassVar[str] = "ia3"
    source: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638"
    mark: ClassVar[str] = "ia3_"
    presets: ClassVar[Mapping[str, Preset]] = {
        "ia3": Preset(
            {"ia3": {}, "optimizer": {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.0}}, source
        )
    }

    targets: tuple[str, ...] | None = None
    feedforward: tuple[str, ...] | None = None

    def value(self) -> Any:
        return self.model_dump(mode="json")

    def config(self, model: Any, found: Layers) -> Any:
        from peft import IA3Config

        outputs = self._targets(model, found)
        inputs = self._feedforward(model, found, outputs)
        outputs = [name for name in outputs if name not in inputs]
        if not outputs:
            raise self.lacking(model, "layers that are known to give keys and values (`targets` names them)")
        names = [*outputs, *inputs]
        return IA3Config(
            target_modules=exactly(names),
            feedforward_modules=exactly(inputs) if inputs else [],
            fan_in_fan_out=transposed(found[name] for name in names),
        )

    def _targets(self, model: Any, found: Layers) -> list[str]:
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        return called(found, self.targets or KNOWN.get(model.config.model_type) or _KEYS_AND_VALUES)

    def _feedforward(self, model: Any, found: Layers, outputs: list[str]) -> list[str]:
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as KNOWN

        if self.feedforward is not None:
            return called(found, self.feedforward)
        known = KNOWN.get(model.config.model_type)
        if known is None:
            return [name for name in narrowing(found) if name not in outputs]
        return called(found, known)

    def clear(self, layer: Any) -> None:
        layer.ia3_l[ADAPTER].fill_(1.0)
