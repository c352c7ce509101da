"""How the blocks of a model are found: the generic way, and what a family's override may say."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn


class NoLadderError(Exception):
    """The blocks of a model were not found."""


class Family:
    """How to find the blocks of one model family where the generic way does not fit.

    Attributes:
        name: the `model_type` of the configuration.
    """

    name: ClassVar[str]

    def blocks(self, base: nn.Module) -> tuple[str, list[nn.Module]]:
        """Name of the list of blocks and the blocks, in order from input to output."""
        return generic_blocks(base)

    def moved(self, name: str) -> int | None:
        """The rung of a module or parameter of the base model that does not belong where it stands; None if
        it does."""
        return None


def generic_blocks(base: nn.Module) -> tuple[str, list[nn.Module]]:
    """The `ModuleList` that holds the most parameters; the outermost one where several hold as many.

    Raises: NoLadderError.
    """
    from torch import nn

    lists = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    ]
    if not lists:
        raise NoLadderError(f"{type(base).__name__} holds no list of blocks")
    _, name, found = max(lists, key=lambda entry: entry[0])
    return name, list(found)
