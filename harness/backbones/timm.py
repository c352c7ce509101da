from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.backbones.family import HEAD, Block, Family, NoLadderError, Small
from harness.backbones.resnet import IMAGE_PROCESSOR

if TYPE_CHECKING:
    from torch import nn


class Timm(Family):
    """Any model of timm, VGG among them, through the wrapper of transformers.

    timm says itself in which order the parameters of a model stand (`group_matcher`, made for layer-wise
    learning rates). A group without a matrix (a normalisation of its own) joins the group before it. The
    classifier that timm names is the head.
    """

    name: ClassVar[str] = "timm_wrapper"
    source: ClassVar[str] = "Wightman 2019, timm; VGG: Simonyan & Zisserman 2015, arXiv 1409.1556"
    kinds: ClassVar[tuple[str, ...]] = ("image-classification",)
    small: ClassVar[Small | None] = Small(
        {
            "architecture": "vgg11_bn",
            # VGG ends in two layers of 4,096 units over 7 × 7 cells, 120 M weights: here 81 units come first
            "model_args": {"mlp_ratio": 0.02},
        },
        IMAGE_PROCESSOR,
    )

    def base(self, model: Any) -> nn.Module:
        base: nn.Module = model.timm_model
        return base

    def blocks(self, base: nn.Module) -> list[Block]:
        groups = _groups(base)
        if len(groups) < 2:
            raise NoLadderError(f"timm names no groups of {type(base).__name__}")
        return [Block(_common(base, modules), tuple(modules)) for modules in groups[1:]]

    def moved(self, name: str, base: nn.Module) -> int | None:
        head = _head(base)
        return HEAD if head and (name == head or name.startswith(f"{head}.")) else None


def _head(base: Any) -> str:
    """Name of the classifier; empty where it was taken off."""
    name = base.pretrained_cfg.get("classifier")
    there = isinstance(name, str) and bool(list(base.get_submodule(name).parameters()))
    return str(name) if there else ""


def _groups(base: Any) -> list[list[nn.Module]]:
    """The outermost modules of every group, in order, the stem's first."""
    from timm.models import group_parameters

    head = _head(base)
    parameters = {n: p for n, p in base.named_parameters() if not (head and n.startswith(f"{head}."))}
    groups = group_parameters(base, base.group_matcher(coarse=False), reverse=False)
    rank: dict[str, int] = {}
    count = 0
    for number in sorted(groups):
        names = [name for name in groups[number] if name in parameters]
        count += any(parameters[name].ndim > 1 for name in names) or (count == 0 and bool(names))
        rank.update(dict.fromkeys(names, count - 1))
    found: list[list[nn.Module]] = [[] for _ in range(count)]
    current = 0

    def walk(name: str, module: nn.Module) -> None:
        nonlocal current
        below = [f"{name}.{own}" if name else own for own, _ in module.named_parameters()]
        ranks = {rank.get(parameter) for parameter in below}  # None for those of the head
        if ranks == {None}:
            return
        if len(ranks) > 1:
            for own, child in module.named_children():
                walk(f"{name}.{own}" if name else own, child)
            return
        current = next(iter(ranks), current)  # type: ignore[assignment]  # what has no weights stays with its neighbour
        found[current].append(module)

    walk("", base)
    return found


def _common(base: nn.Module, modules: list[nn.Module]) -> str:
    """The name of the first module that has weights."""
    names: dict[int, str] = {id(module): name for name, module in base.named_modules()}
    return next(names[id(module)] for module in modules if list(module.parameters()))
