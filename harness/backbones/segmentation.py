from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.backbones.family import Block, Family, Small, generic_blocks, listed
from harness.backbones.resnet import residual_blocks

if TYPE_CHECKING:
    from torch import nn

_KINDS = ("image-segmentation",)
# The small models look at scenes of 48 × 48 pixels.
_PROCESSOR: dict[str, Any] = {"class": "SegformerImageProcessor", "size": {"height": 48, "width": 48}}
_STAGE = "stages."


class Segformer(Family):
    """One rung per block, over all stages. A stage's patch embedding belongs to its first block (that of the
    first stage is the stem), its norm to its last one."""

    name: ClassVar[str] = "segformer"
    source: ClassVar[str] = "Xie et al. 2021, arXiv 2105.15203"
    kinds: ClassVar[tuple[str, ...]] = _KINDS
    small: ClassVar[Small | None] = Small(
        {
            "num_encoder_blocks": 3,
            "depths": [1, 1, 1],
            "hidden_sizes": [32, 64, 96],
            "num_attention_heads": [1, 2, 3],
            "sr_ratios": [4, 2, 1],
            "patch_sizes": [5, 3, 3],
            "strides": [2, 2, 2],
            "mlp_ratios": [2, 2, 2],
            "decoder_hidden_size": 64,
            "initializer_range": 0.1,
            "drop_path_rate": 0.0,
            "classifier_dropout_prob": 0.0,
        },
        _PROCESSOR,
    )

    def blocks(self, base: nn.Module) -> list[Block]:
        stages = base.get_submodule("stages").named_children()
        return [block for stage, _ in stages for block in listed(base, f"{_STAGE}{stage}.blocks")]

    def moved(self, name: str, base: nn.Module) -> int | None:
        stage, _, own = name.removeprefix(_STAGE).partition(".")
        if not name.startswith(_STAGE) or not own.startswith(("patch_embeddings", "layer_norm")):
            return None
        through = [len(listed(base, f"{_STAGE}{index}.blocks")) for index in range(int(stage) + 1)]
        if own.startswith("layer_norm"):
            return sum(through)
        return sum(through[:-1]) + 1 if int(stage) > 0 else 0


class UperNet(Family):
    """The pretrained part is the backbone; what fuses its stages is the head. One rung per residual block of
    a ResNet; of another backbone, what the generic way finds."""

    name: ClassVar[str] = "upernet"
    source: ClassVar[str] = "Xiao et al. 2018, arXiv 1807.10221"
    kinds: ClassVar[tuple[str, ...]] = _KINDS
    small: ClassVar[Small | None] = Small(
        {
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 32, 64],
                "depths": [1, 1, 1],
                "layer_type": "basic",
                "out_features": ["stage1", "stage2", "stage3"],
            },
            "hidden_size": 32,
            "pool_scales": [1, 2, 3],
            "auxiliary_channels": 16,
        },
        _PROCESSOR,
        auto_class="AutoModelForSemanticSegmentation",
    )

    def base(self, model: Any) -> nn.Module:
        base: nn.Module = model.backbone
        return base

    def blocks(self, base: nn.Module) -> list[Block]:
        config: Any = base.config
        residual = config.model_type in ("resnet", "timm_backbone")
        return residual_blocks(base) if residual else generic_blocks(base)
