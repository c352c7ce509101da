from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.backbones.family import Block, Family, Small, listed
from harness.backbones.resnet import residual_blocks

if TYPE_CHECKING:
    from torch import nn

_KINDS = ("object-detection",)
# The small detectors look at scenes of 48 × 48 pixels and answer with few boxes.
_SIDE = {"height": 48, "width": 48}
_QUERIES = 8
# Convolutions under a BatchNorm that does not normalise: two shallow stages learn from random weights.
_RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}


class Detr(Family):
    """One rung per residual block of the backbone, then one per layer of the encoder, then of the decoder.

    The projection of the backbone's features and a learned position embedding belong to the first layer of
    the encoder, which is the first to read them; the embeddings of the queries to the first layer of the
    decoder; the last norm to its last one. DETR's authors keep the first stage of the ResNet fixed: here, as
    everywhere, `freeze` says what trains. The backbone's BatchNorm is fixed by the model itself.
    """

    name: ClassVar[str] = "detr"
    source: ClassVar[str] = "Carion et al. 2020, arXiv 2005.12872"
    kinds: ClassVar[tuple[str, ...]] = _KINDS
    small: ClassVar[Small | None] = Small(
        {
            "use_timm_backbone": False,
            "backbone_config": _RESNET,
            "num_queries": _QUERIES,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "dropout": 0.0,
            "init_std": 0.1,
            "auxiliary_loss": True,
        },
        {"class": "DetrImageProcessor", "size": _SIDE},
    )

    def blocks(self, base: nn.Module) -> list[Block]:
        return [
            *residual_blocks(base, "backbone.model"),
            *listed(base, "encoder.layers"),
            *listed(base, "decoder.layers"),
        ]

    def moved(self, name: str, base: nn.Module) -> int | None:
        first = name.partition(".")[0]
        at_encoder = first in ("input_projection", "position_embedding") or name == "encoder"
        at_decoder = first == "query_position_embeddings" or name == "decoder"
        if not at_encoder and not at_decoder:
            return None
        rung = 1 + len(residual_blocks(base, "backbone.model"))
        return rung + len(listed(base, "encoder.layers")) if at_decoder else rung


class Yolos(Family):
    """One rung per block. The embeddings that are added between blocks are one tensor, which every block
    reads: they belong to the stem."""

    name: ClassVar[str] = "yolos"
    source: ClassVar[str] = "Fang et al. 2021, arXiv 2106.00666"
    kinds: ClassVar[tuple[str, ...]] = _KINDS
    small: ClassVar[Small | None] = Small(
        {
            "image_size": [48, 48],
            "patch_size": 8,
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "num_detection_tokens": _QUERIES,
            "initializer_range": 0.1,
        },
        {"class": "YolosImageProcessor", "size": _SIDE},
    )

    def moved(self, name: str, base: nn.Module) -> int | None:
        return 0 if name.startswith("encoder.interpolation") else None
