from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.backbones.family import Family, Small
from harness.backbones.text import TEXT_KINDS, TOKENIZER, VOCABULARY

if TYPE_CHECKING:
    from torch import nn


class DebertaV2(Family):
    """Every block reads the relative-position embeddings, so they belong to the stem: were they on the last
    rung, where they stand, a frozen prefix would still change. The convolution of the large models stands
    behind the blocks too, and runs after the first one."""

    name: ClassVar[str] = "deberta-v2"
    source: ClassVar[str] = "He et al. 2021, arXiv 2006.03654"
    kinds: ClassVar[tuple[str, ...]] = TEXT_KINDS
    small: ClassVar[Small | None] = Small(
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "relative_attention": True,
            "position_buckets": 32,
            "norm_rel_ebd": "layer_norm",
            "pos_att_type": ["p2c", "c2p"],
            "pad_token_id": 0,
            "initializer_range": 0.1,  # at the usual 0.02 so small a model learns more slowly
        },
        TOKENIZER,
    )

    def moved(self, name: str, base: nn.Module) -> int | None:
        if name.startswith(("encoder.rel_embeddings", "encoder.LayerNorm")):
            return 0
        return 1 if name.startswith("encoder.conv") else None


class Deberta(DebertaV2):
    """As version 2; no small model of it is shipped."""

    name: ClassVar[str] = "deberta"
    kinds: ClassVar[tuple[str, ...]] = ()
    small: ClassVar[Small | None] = None
