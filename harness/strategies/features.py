"""What passes through a model: seen, or changed, where it enters the first block that runs, the head, or
leaves a rung. Everything here is for the length of one forward pass and leaves no trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Change: TypeAlias = "Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]"
Place: TypeAlias = int | str


@contextmanager
def entering(
    ladder: Any,
    frozen: int,
    change: Change,
    join: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[None]:
    """What enters the first block above `frozen` rungs (the head, if these are all) is what `change` makes of
    it.

    Args:
        change: takes a tensor (examples, …), and for sequences with padding which positions count, bool,
            shape (examples, positions). Called once, or for each of several tensors that a head takes as one.
        join: makes the attention masks of these blocks anew.

    Raises: RuntimeError if nothing came by.
    """
    rungs, reached = ladder.rungs, False

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal reached
        if reached:  # some families call one block again and again
            return None
        reached = True
        place, hidden = _worked_on(module, args, kwargs)
        if isinstance(hidden, (tuple, list)):
            return _with(args, kwargs, {place: type(hidden)(change(each, None) for each in hidden)})
        return _with(args, kwargs, {place: change(hidden, _valid(module, args, kwargs))})

    def joined(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert join is not None
        return _with(args, kwargs, {place: join(mask) for place, mask in _masks(module, args, kwargs)})

    with ExitStack() as hooks:
        for module in [ladder.entrance(frozen)] if frozen < len(rungs) else ladder.head.modules:
            _hook(hooks, module.register_forward_pre_hook(enter, with_kwargs=True))
        for rung in rungs[max(1, frozen) :] if join is not None else ():
            for block in rung.blocks:
                _hook(hooks, block.register_forward_pre_hook(joined, with_kwargs=True))
        yield
    if not reached:
        raise RuntimeError("the model does not call its first block, or its head, as a module")


@dataclass
class Seen:
    """Attributes:
    value: what left a rung, shape (examples, …).
    valid: which positions of a padded sequence count, bool, shape (examples, positions); None: all.
    """

    value: torch.Tensor
    valid: torch.Tensor | None


@dataclass(frozen=True)
class Outlet:
    """Where a block's channels are.

    Attributes:
        width: how many they are, by its last weights; 0 if it has none.
        second: where two dimensions are as wide, they are the second one: behind convolutions.
    """

    width: int
    second: bool

    def axis(self, hidden: torch.Tensor) -> int:
        """The dimension with the channels; if none is as wide, the second of maps, else the last."""
        for axis in (1, -1) if self.second else (-1, 1):
            if hidden.ndim > 1 and hidden.shape[axis] == self.width:
                return axis
        return 1 if hidden.ndim == 4 else -1


def outlet(rung: Any) -> Outlet:
    """Of what leaves a rung of the pretrained model: what parts add to a block may come last in it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    weights = list(rung.last.named_parameters())
    if not weights:
        return Outlet(0, False)
    name, weight = weights[-1]
    module = rung.last.get_submodule(name.rpartition(".")[0])
    # of the last weights of a block, in the order in which they are defined, a bias tells the width, too
    width = weight.shape[-1] if isinstance(module, Conv1D) else weight.shape[0]
    second = (nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    return Outlet(width, isinstance(module, second))


@contextmanager
def leaving(ladder: Any, first: int) -> Iterator[dict[int, Seen]]:
    """What leaves the rungs from `first` (1 at least) on, by the rung's number."""
    import torch

    seen: dict[int, Seen] = {}
    valid: dict[int, Any] = {}

    def before(rung: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            valid[rung] = _valid(module, args, kwargs, either=True)

        return hook

    def after(rung: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(value, torch.Tensor):
                seen[rung] = Seen(value, valid.get(rung))

        return hook

    with ExitStack() as hooks:
        for number, rung in enumerate(ladder.rungs):
            if number >= max(1, first):
                _hook(hooks, rung.blocks[0].register_forward_pre_hook(before(number), with_kwargs=True))
                _hook(hooks, rung.last.register_forward_hook(after(number)))
        yield seen


@contextmanager
def features(ladder: Any) -> Iterator[list[torch.Tensor]]:
    """What enters the head."""
    found: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        found.append(hidden)
        return hidden

    with entering(ladder, len(ladder.rungs), keep):
        yield found


def pooled(values: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """The mean over places of values (examples, …, channels), shape (examples, channels): of a sequence
    (examples, positions, channels) over the positions that count."""
    if values.ndim == 3 and valid is not None and valid.shape == values.shape[:2]:
        weights = valid.to(values.dtype)[..., None]
        return (values * weights).sum(dim=1) / weights.sum(dim=1)
    return values.flatten(1, -2).mean(dim=1) if values.ndim > 2 else values


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """Evaluation mode: no dropout, and statistics that stay."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _hook(hooks: ExitStack, handle: Any) -> None:
    hooks.callback(handle.remove)


def _arguments(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[Place, str, Any]]:
    """(place, name, value) of every argument of a call."""
    names = _parameters(type(module).forward)
    for place, value in enumerate(args):
        yield place, names[place] if place < len(names) else "", value
    for name, value in kwargs.items():
        yield name, name, value


@cache
def _parameters(forward: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def _worked_on(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Place, Any]:
    """The first tensor of a call, or the first few: by the custom of all families what a module works on."""
    import torch

    for place, _, value in _arguments(module, args, kwargs):
        several = value if isinstance(value, (tuple, list)) else [value]
        if several and all(isinstance(each, torch.Tensor) for each in several):
            return place, value
    raise RuntimeError(f"{type(module).__name__} is called without a tensor")


def _masks(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Place, torch.Tensor]]:
    """The attention masks of a call that differ between examples."""
    import torch

    _, hidden = _worked_on(module, args, kwargs)
    examples = len(hidden[0]) if isinstance(hidden, (tuple, list)) else len(hidden)
    return [
        (place, value)
        for place, name, value in _arguments(module, args, kwargs)
        if "mask" in name and isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == examples
    ]


def _valid(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], either: bool = False
) -> torch.Tensor | None:
    """The positions that some position may attend to: bool, shape (examples, positions); None without a mask.
    Masks hold a truth value or 1 where that is so and 0 where it is not, or else 0 and a large negative
    number that is added. Positions are the second dimension, or with `either` the third."""
    import torch

    _, hidden = _worked_on(module, args, kwargs)
    for _, mask in _masks(module, args, kwargs):
        if not isinstance(hidden, torch.Tensor) or hidden.ndim != 3:
            continue
        if mask.shape[-1] not in hidden.shape[1 : 3 if either else 2]:
            continue
        if mask.dtype != torch.bool:
            mask = torch.where(mask.amin() < 0, mask >= 0, (mask > 0) | (mask.amax() <= 0))
        return mask.flatten(1, -2).any(dim=1) if mask.ndim > 2 else mask
    return None


def _with(args: tuple[Any, ...], kwargs: dict[str, Any], values: Mapping[Place, Any]) -> Any:
    """The arguments of a call, some replaced."""
    positional = tuple(values.get(place, value) for place, value in enumerate(args))
    return positional, {name: values.get(name, value) for name, value in kwargs.items()}
