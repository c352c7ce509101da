"""What a model family may say of itself: where its blocks are, and a small configuration to start from.

Any model of the Auto classes has a ladder without a line here. A family is a file of this package where the
generic way does not fit, or where the project ships a small untrained model of it (`use: untrained`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import nn

# In place of a rung's number: the module belongs to the output layer.
HEAD = -1


class NoLadderError(Exception):
    """The blocks of a model were not found."""


@dataclass(frozen=True)
class Block:
    """What one rung of the ladder is built around.

    Attributes:
        name: where it is in the base model, e.g. `encoder.layer.3`.
        modules: in the order in which they run; mostly one.
    """

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Small:
    """A model of a family that trains in seconds on a CPU, random until it is trained.

    Attributes:
        config: keyword arguments of the family's configuration.
        processor: `{class: <class of transformers>, …}`, or `{tokenizer: <name of a backbone>}`.
        auto_class: the Auto class that makes the model whose weights are saved.
    """

    config: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    auto_class: str = "AutoModel"


class Family:
    """One model family.

    Attributes:
        name: the `model_type` of the configuration.
        kinds: the kinds of task that its models are run on by the project's own tests and sweeps.
        small: what `use: untrained, family: <name>` starts from; None where none is shipped.
        source: paper or package.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()
    small: ClassVar[Small | None] = None
    source: ClassVar[str] = ""

    @classmethod
    def register(cls) -> None:
        """Make the family known to the Auto classes, where transformers does not know it."""

    def base(self, model: Any) -> nn.Module:
        """The pretrained part of a model with a head; a model without a head is its own base."""
        found: nn.Module = (
            getattr(model, model.base_model_prefix, model) if model.base_model_prefix else model
        )
        return found if hasattr(found, "named_modules") else model

    def blocks(self, base: nn.Module) -> list[Block]:
        """The blocks, in order from input to output.

        Raises: NoLadderError.
        """
        return generic_blocks(base)

    def moved(self, name: str, base: nn.Module) -> int | None:
        """The rung (or HEAD) of a module or parameter of the base model that does not belong where it
        stands; None if it does. `name` is that within the base model."""
        return None


def generic_blocks(base: nn.Module) -> list[Block]:
    """The entries of the `ModuleList` that holds the most parameters; the outermost one where several hold
    as many.

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
    _, name, _module = max(lists, key=lambda entry: entry[0])
    return listed(base, name)


def listed(base: nn.Module, name: str) -> list[Block]:
    """One block per entry of the list called `name`."""
    return [Block(f"{name}.{key}", (child,)) for key, child in base.get_submodule(name).named_children()]
