from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from harness.errors import bad
from harness.moments import Moments, Setting, Tuned
from harness.stage import Stage
from harness.strategies.base import WHICH, Part, Preset
from harness.weights import Weight


class PrefixTuning(Part):
    """Prefix-tuning: the attention of each block that trains sees `length` learned keys and values before
    those of the inputs, `softmax(Q·[P_k; K]ᵀ/√d)·[P_v; V]`; they train, and the head.

    For any family whose blocks attend through torch's `scaled_dot_product_attention`, encoders and images
    included; others (DeBERTa, ResNet) are refused. peft's own enters as a cache of past keys, which
    `inject_adapter_in_model` does not do and classifiers of most encoders do not take, and is of no rung. A
    block that has not trained yet (`lp-ft`) has no prefix. It cannot be merged, so that the distance of the
    weights is 0.

    P is drawn from N(0, 1) and trained itself, as in P-Tuning v2 (Liu et al. 2022, arXiv 2110.07602:
    lengths of 4 to 128, rates of 5e-3 to 1e-2 for BERT); Li & Liang train it through a feed-forward network
    (5e-5, length 10).
    """

    name: ClassVar[str] = "prefix-tuning"
    source: ClassVar[str] = (
        "Li & Liang 2021, arXiv 2101.00190; without reparametrisation: Liu et al. 2022, arXiv 2110.07602"
    )
    claims: ClassVar[frozenset[str]] = frozenset({WHICH})
    only_rungs: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    adds: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "prefix-tuning": Preset(
            {
                "prefix-tuning": 20,
                "optimizer": {"name": "adamw", "learning_rate": 5e-3, "weight_decay": 0.0},
            },
            source,
        )
    }

    length: int = Field(default=20, ge=1, le=100_000)

    @classmethod
    def settings(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"length": value}

    def value(self) -> Any:
        return self.length

    def trains(self, weight: Weight) -> bool:
        from harness.strategies.modules.prefix import NAME

        return weight.rung is None or f".{NAME}." in weight.name

    def prepare(self, tuned: Tuned, frozen: int) -> None:
        from harness.strategies.modules.prefix import put_into

        put = [
            put_into(block, tuned.model.config, self.length, f"rung {rung.name}")
            for rung in tuned.ladder.rungs[frozen:]
            for block in rung.blocks
        ]
        if not any(put):
            reason = f"the blocks of a {tuned.model.config.model_type} model that train have no attention"
            raise bad(self.name, reason)

    def bind(self, setting: Setting) -> Moments:
        return _Trained(setting.tuned)


class _Trained(Moments):
    """Prefixes count from the stage on in which they first train. Whether they do is a buffer, and so is
    kept with the weights."""

    def __init__(self, tuned: Tuned) -> None:
        from harness.strategies.modules.prefix import Prefix

        for module in tuned.model.modules():
            if isinstance(module, Prefix):
                module.on.fill_(False)

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        from harness.strategies.modules.prefix import Prefix

        for weight in weights:
            if isinstance(weight.module, Prefix):
                weight.module.on.fill_(True)
