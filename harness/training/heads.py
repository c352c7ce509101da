"""Heads of several trials, trained as one computation.

The trials of a bundle have the same frozen backbone and differ in their heads. One forward pass of one model
over the examples of all takes what the stored backbone gives, and every module of the head works on each
trial's share of the batch with that trial's weights. Loss and dropout are computed per share, so that each
trial comes to what it would come to alone, but for the rounding of batched products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.backbones.ladder import Rung
from harness.tasks.base import to_device
from harness.training.data import GIVEN
from harness.training.instead import stand_in
from harness.training.member import Member
from harness.training.precision import autocast

# What one forward pass may take of the store at once, in bytes. More trials go in several passes.
_AT_ONCE = 1 << 27
_LOSSES = (
    functional.cross_entropy,
    functional.mse_loss,
    functional.binary_cross_entropy_with_logits,
)
# Relative difference between batched and single heads; products are summed in another order.
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
_ROUNDING = 1e-7  # of what is zero


class CannotBatchError(Exception):
    """These heads do not go together."""


def together(members: Sequence[Member], batches: Sequence[list[int]]) -> torch.Tensor:
    """The losses of the members, shape (members,), each on its own batch of equal size, from one forward
    pass. The gradient of their sum is that of each.

    Raises: CannotBatchError.
    """
    lead = members[0]
    split, job = lead.train, lead.job
    indices = [index for batch in batches for index in batch]
    if len({len(batch) for batch in batches}) > 1 or split.store is None:
        raise CannotBatchError("the members' batches are of different sizes, or nothing is stored")
    ragged = any(len({tuple(shape) for shape in shapes[indices].tolist()}) > 1 for shapes in split.store.read)
    share = _Shares(members, ragged)
    inputs = to_device(split.batch(indices), job.device)
    job.tuned.train(lead.stage)
    with _grouped(members), share, autocast(job.recipe.training.precision, job.device):
        outputs = job.tuned(inputs)
    if GIVEN not in inputs or share.losses is None:
        raise CannotBatchError("nothing is stored of this batch, or the loss is none that is known")
    total = share.losses.detach().sum()
    if not torch.allclose(outputs.loss.detach(), total, equal_nan=True):  # NaN: a member diverges
        raise CannotBatchError("the loss is no mean over examples")
    return share.losses


def pieces(members: Sequence[Member]) -> list[list[Member]]:
    """The members in groups whose batches fit into one forward pass."""
    store = members[0].train.store
    batch = members[0].job.recipe.training.batch_size
    size = max(1, int(_AT_ONCE / (batch * store.bytes))) if store is not None else 1
    return [list(members[at : at + size]) for at in range(0, len(members), size)]


def agree(
    batched: Sequence[Sequence[torch.Tensor]], single: Sequence[Sequence[torch.Tensor]], precision: str
) -> bool:
    """Whether losses and gradients are the same but for rounding, relative to the largest of each tensor."""
    tolerance = _TOLERANCE[precision]

    def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        return bool(((ours - theirs).abs() <= tolerance * scale + _ROUNDING).all())

    return all(
        close(ours, theirs)
        for one, other in zip(batched, single, strict=True)
        for ours, theirs in zip(one, other, strict=True)
    )


class _Shares(TorchFunctionMode):
    """Losses and dropout member by member, each share of the batch on its own."""

    def __init__(self, members: Sequence[Member], ragged: bool) -> None:
        super().__init__()
        self._members, self._ragged = members, ragged
        self.losses: torch.Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func in _LOSSES:
            return self._loss(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if not training or p == 0:
            return input
        if self._ragged:
            raise CannotBatchError("alone, a member would draw a mask of another shape")
        dropped = []
        for member, share in zip(self._members, self._cut(input), strict=True):
            with member.drawing():
                dropped.append(functional.dropout(share, p))
        return torch.cat(dropped)

    def _loss(self, func: Any, input: torch.Tensor, target: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self.losses is not None or kwargs.get("reduction", "mean") != "mean":
            raise CannotBatchError("the loss is not one mean")
        shares = zip(self._cut(input), self._cut(target), strict=True)
        self.losses = torch.stack([func(ours, theirs, **kwargs) for ours, theirs in shares])
        return self.losses.sum()

    def _cut(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(tensor) % len(self._members):
            raise CannotBatchError("a batch is not in equal shares")
        return tensor.chunk(len(self._members))


@contextmanager
def _grouped(members: Sequence[Member]) -> Iterator[None]:
    """Let the head of the first member's model work with the weights of all."""
    heads = [_weighted(member.job.tuned.ladder.head) for member in members]
    with ExitStack() as undo:
        for modules in zip(*heads, strict=True):
            undo.callback(stand_in(modules[0], _forward(modules)))
        yield


def _weighted(head: Rung) -> list[nn.Module]:
    """The modules that hold the weights of a head.

    Raises: CannotBatchError for weights that no module of the head holds itself, and for modules that
        remember what passes through them.
    """
    if any(True for module in head.modules for _ in module.buffers(recurse=False)):
        raise CannotBatchError("the head keeps statistics")
    found = [module for module in head.modules if any(True for _ in module.parameters(recurse=False))]
    held = {id(weight) for module in found for weight in module.parameters(recurse=False)}
    if any(id(weight) not in held for _, weight in head.parameters):
        raise CannotBatchError("the head has weights outside its modules")
    return found


def _forward(modules: tuple[nn.Module, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of modules of one shape, each with its own weights on its own share of the input."""
    bare = copy.copy(modules[0])  # whose forward pass stays its own
    if any(True for _ in bare.children()):
        raise CannotBatchError(f"the head holds a {type(bare).__name__} around other modules")
    names = [name for name, _ in bare.named_parameters()]

    def apply(weights: dict[str, torch.Tensor], share: torch.Tensor) -> Any:
        return torch.func.functional_call(bare, weights, (share,))

    def forward(input: torch.Tensor) -> torch.Tensor:
        if len(input) % len(modules):
            raise CannotBatchError("a batch is not in equal shares")
        weights = {name: torch.stack([module.get_parameter(name) for module in modules]) for name in names}
        shares = input.view(len(modules), -1, *input.shape[1:])
        found: torch.Tensor = torch.vmap(apply)(weights, shares)
        return found.flatten(0, 1)

    return forward
