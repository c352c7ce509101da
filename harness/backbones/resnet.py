from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.backbones.family import Block, Family, NoLadderError, Small, generic_blocks, listed

if TYPE_CHECKING:
    from torch import nn

# What the small models of images share: 32 × 32 pixels, to [-1, 1].
IMAGE_PROCESSOR: dict[str, Any] = {"class": "ViTImageProcessor", "size": {"height": 32, "width": 32}}


def residual_blocks(base: nn.Module, below: str = "") -> list[Block]:
    """Every residual block of a ResNet of transformers, or of what a model has in its place, below the module
    called `below`."""
    prefix = f"{below}." if below else ""
    module = base.get_submodule(below)
    try:
        stages = len(list(module.get_submodule("encoder.stages").children()))
    except AttributeError:
        found = _stages(module) or generic_blocks(module)
        return [Block(f"{prefix}{block.name}", block.modules) for block in found]
    return [
        block for stage in range(stages) for block in listed(base, f"{prefix}encoder.stages.{stage}.layers")
    ]


def _stages(module: nn.Module) -> list[Block]:
    """The blocks of the `layer1`, `layer2`, … that timm and torchvision call the stages of a ResNet."""
    from torch import nn

    found = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Sequential) and name.rpartition(".")[2].rstrip("0123456789") == "layer":
            found += listed(module, name)
    return found


class ResNet(Family):
    """One rung per residual block."""

    name: ClassVar[str] = "resnet"
    source: ClassVar[str] = "He et al. 2016, arXiv 1512.03385"
    kinds: ClassVar[tuple[str, ...]] = ("image-classification",)
    small: ClassVar[Small | None] = Small(
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1], "layer_type": "basic"},
        IMAGE_PROCESSOR,
    )

    def blocks(self, base: nn.Module) -> list[Block]:
        found = residual_blocks(base)
        if not found:
            raise NoLadderError(f"{type(base).__name__} holds no residual blocks")
        return found


class Vit(Family):
    name: ClassVar[str] = "vit"
    source: ClassVar[str] = "Dosovitskiy et al. 2021, arXiv 2010.11929"
    kinds: ClassVar[tuple[str, ...]] = ("image-classification",)
    small: ClassVar[Small | None] = Small(
        {
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "initializer_range": 0.1,  # the usual 0.02 is made for widths of 768
        },
        IMAGE_PROCESSOR,
    )
