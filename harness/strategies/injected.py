"""Parts that peft puts beside the layers of the blocks that train, and that are merged into them at the
end."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import bad
from harness.moments import Moments, Setting, Strategy, Tuned
from harness.strategies.base import WHICH, Part
from harness.weights import Weight

if TYPE_CHECKING:
    from torch import nn

Layers = Mapping[str, Any]
# peft's name of what it adds, of which there is one.
ADAPTER = "default"


class Injected(Part):
    """Weights that peft adds to layers of the blocks; they train, and the head.

    Only blocks that some stage trains have them. When training is over, the kept ones are merged into the
    pretrained weights and are nothing from there on: drift, retention and the test score are those of the
    merged model, the points of the curve those of the model before.

    Attributes:
        mark: how peft's names of the added weights begin.
    """

    claims: ClassVar[frozenset[str]] = frozenset({WHICH})
    only_rungs: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    adds: ClassVar[bool] = True
    mark: ClassVar[str]

    def conflict(self, recipe: Strategy) -> str:
        return "" if find_spec("peft") else "needs the package peft: pip install 'finetune-harness[peft]'"

    def trains(self, weight: Weight) -> bool:
        return weight.rung is None or f".{self.mark}" in weight.name

    def prepare(self, tuned: Tuned, frozen: int) -> None:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(self.config(tuned.model, layers(tuned, frozen)), tuned.model, ADAPTER)

    @abstractmethod
    def config(self, model: Any, found: Layers) -> Any:
        """peft's configuration, given the layers that may have an adapter.

        Raises: InputError if the model has none that this part is for.
        """

    @abstractmethod
    def clear(self, layer: Any) -> None:
        """Set the adapter of a layer that it has been merged into to what does nothing."""

    def bind(self, setting: Setting) -> Moments:
        return _Merged(setting.tuned, self.clear)

    def lacking(self, model: Any, what: str) -> Exception:
        return bad(self.name, f"the blocks of a {model.config.model_type} model that train have no {what}")


class _Merged(Moments):
    def __init__(self, tuned: Tuned, clear: Callable[[Any], None]) -> None:
        self._tuned, self._clear = tuned, clear

    def settled(self) -> None:
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer

        with torch.no_grad():
            for layer in self._tuned.model.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
                    layer.merged_adapters.clear()  # or it would take the cleared one out again
                    self._clear(layer)


def layers(tuned: Tuned, frozen: int) -> dict[str, nn.Module]:
    """By name in the model, the linear and convolutional layers of the blocks above the first `frozen` rungs
    whose adapter can be merged: plain ones, without groups or dilation."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    names = {id(module): name for name, module in tuned.model.named_modules()}

    def plain(module: Any) -> bool:
        if type(module) in (nn.Conv1d, nn.Conv2d):
            how = (module.groups, set(module.dilation), module.padding_mode)
            return how == (1, {1}, "zeros")
        return type(module) in (nn.Linear, Conv1D)  # others may compute something else from their weights

    return {
        names[id(module)]: module
        for rung in tuned.ladder.rungs[frozen:]
        for block in rung.blocks
        for module in block.modules()
        if plain(module)
    }


def called(found: Iterable[str], endings: str | Sequence[str]) -> list[str]:
    """The names that a pattern matches, or that end with one of `endings`, as peft understands them."""
    if isinstance(endings, str):
        return [name for name in found if re.fullmatch(endings, name)]
    return [name for name in found if any(f".{name}".endswith(f".{ending}") for ending in endings)]


def exactly(names: Iterable[str]) -> str:
    """The pattern that matches these names and no others."""
    return "|".join(re.escape(name) for name in names)


def transposed(found: Iterable[nn.Module]) -> bool:
    """Whether weights lie the way of GPT-2, inputs first; peft warns where it is not told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in found)


def narrowing(found: Layers) -> Iterator[str]:
    """The linear layers with more inputs than outputs: those that end a feed-forward network."""
    for name, module in found.items():
        rows, columns = module.weight.shape[:2]
        inputs, outputs = (rows, columns) if transposed([module]) else (columns, rows)
        if module.weight.ndim == 2 and inputs > outputs:
            yield name
