"""Of the last block, what nobody reads.

Where a head reads one position of what leaves the last block (BERT's [CLS], the class token of ViT), that
block needs the keys and values of every position, and all that comes after attention of that one: three
quarters of the FLOPs of a block of BERT go into positions that nobody reads.

No family needs a line here. From the earliest module of the last block on with which it holds, modules are
handed the first position alone. That it holds is tried on the pretrained model: predictions, and the loss and
gradients of a training step with its dropout, have to be what they were. Dropout draws as many random numbers
as for all positions, so that a trial is the same trial.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder, build_ladder
from harness.tasks.base import to_device
from harness.training.data import Split, open_split
from harness.training.heads import agree
from harness.training.instead import stand_in
from harness.training.model import FineTuned, pretrained
from harness.training.precision import autocast
from harness.training.prefix import Where
from harness.training.runner import Runner
from harness.training.workspace import Workspace


class Narrow:
    """Hands modules of a model's last block the first position alone, from an input of shape
    (examples, positions, features); what leaves the block has all positions again, zeros in the others, since
    some models count them, and parts of a strategy draw numbers for each. Where somebody hooks what leaves
    one of these modules, or the block, all positions are computed: drift and strategies look at them."""

    def __init__(self, model: Any, ladder: Ladder, names: Sequence[str]) -> None:
        """Args: `names` of the modules in the order in which they are called."""
        self._modules = [model.get_submodule(name) for name in names]
        self._last = ladder.rungs[-1].last
        self._watched = [*ladder.rungs[-1].blocks, *self._modules]
        self._own: set[int] = set()
        self.length = 1

    def attach(self) -> ExitStack:
        """What is returned, closed, gives the model back as it was."""
        undo = ExitStack()
        for number, module in enumerate(self._modules):
            enter = self._next if number else self._first
            undo.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            if type(module) is nn.Dropout:
                undo.callback(stand_in(module, partial(self._draw, module)))
        leave = self._last.register_forward_hook(self._leave)
        undo.callback(leave.remove)
        self._own = {leave.id}
        return undo

    def _first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen = any(set(module._forward_hooks) - self._own for module in self._watched)
        lengths = [value.shape[1] for value in (*args, *kwargs.values()) if _has_positions(value)]
        self.length = 1 if seen else max(lengths, default=1)
        return self._next(module, args, kwargs)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        first, *others = output if isinstance(output, tuple) else (output,)
        if self.length == 1 or not _has_positions(first) or first.shape[1] != 1:
            return None
        first = nn.functional.pad(first, (0, 0, 0, self.length - 1))
        return (first, *others) if isinstance(output, tuple) else first

    def _next(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.length == 1:
            return None
        return tuple(map(self._cut, args)), {name: self._cut(value) for name, value in kwargs.items()}

    def _cut(self, value: Any) -> Any:
        return value[:, :1] if _has_positions(value) and value.shape[1] == self.length else value

    def _draw(self, module: nn.Dropout, value: torch.Tensor) -> torch.Tensor:
        """What dropout makes of the first position, of as many random numbers as for all."""
        narrow = self.length > 1 and value.ndim == 3 and value.shape[1] == 1
        if not (narrow and module.training and module.p > 0):
            return nn.Dropout.forward(module, value)
        whole = value.new_ones((len(value), self.length, value.shape[2]))
        return value * nn.functional.dropout(whole, module.p)[:, :1].clone()  # the rest need not be kept


def _has_positions(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 3


@dataclass(frozen=True)
class Unread:
    """What of a model's last block needs the first position alone.

    Attributes:
        names: of modules, in the order in which they are called; none where the head reads more.
        inside: every module of the block, by name, with its type.
        remark: why nothing is known, where the model does not bear being looked at.
    """

    names: tuple[str, ...] = ()
    inside: tuple[tuple[str, type], ...] = ()
    remark: str = ""


def narrowed(tuned: FineTuned, workspace: Workspace, where: Where, device: torch.device) -> None:
    """Let the last block of a trial's model compute only what is read. A block that has other modules than it
    had before computes everything."""
    if not workspace.share:
        return
    found = unread(workspace, where, device)
    if found.remark:
        tuned.remarks.append(f"the last block computes all positions: {found.remark}")
    if found.names and found.inside == _inside(tuned.ladder):
        Narrow(tuned.model, tuned.ladder, found.names).attach()
        tuned.narrowed = True


def _inside(ladder: Ladder) -> tuple[tuple[str, type], ...]:
    blocks = ladder.rungs[-1].blocks
    return tuple((name, type(module)) for block in blocks for name, module in block.named_modules())


@lru_cache(maxsize=8)
def unread(workspace: Workspace, where: Where, device: torch.device) -> Unread:
    """Tried on the pretrained model."""
    split = open_split(workspace, where.task, where.backbone, where.max_length, "train")
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            trial = _Trial(workspace, where, split, device)
            return Unread(trial.earliest(), _inside(trial.ladder))
    except Exception as error:  # it trains as it always did
        return Unread(remark=f"{type(error).__name__}: {error}")


def _twin(model: Any) -> Any:
    """The same model with modules and buffers of its own; its weights are the same memory."""
    weights = {id(weight): nn.Parameter(weight.detach()) for weight in model.parameters()}
    return copy.deepcopy(model, weights)


class _Trial:
    """A twin of the pretrained model on its shortest and its longest example."""

    def __init__(self, workspace: Workspace, where: Where, split: Split, device: torch.device) -> None:
        self._model = _twin(pretrained(workspace, where.task, where.backbone, device))
        self._examples = split.examples([int(split.lengths.argmin()), int(split.lengths.argmax())])
        self._batch = accepted(self._model, to_device(split.collate(self._examples, None), device))
        self._runner = Runner(workspace, where.task, where.backbone, where.precision, device, self._model)
        self._device, self._precision = device, where.precision
        self.ladder = build_ladder(self._model)
        # What is below the last block but one learns of it through that one.
        self.ladder.freeze(max(0, len(self.ladder.rungs) - 2))
        self._trained = [weight for weight in self._model.parameters() if weight.requires_grad]

    def earliest(self) -> tuple[str, ...]:
        """The names of the modules, as `Unread` has them."""
        names, said = self._called(), self._said()

        def spared(first: int) -> bool:
            """Whether predictions do not notice NaN in the other positions of what enters a module."""
            with self._spoilt(names[first]) as entered:
                return self._same(said) and bool(entered)

        low, high = 0, len(names)  # what nobody reads at one module, nobody reads at any later one
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if spared(middle) else (middle + 1, high)
        step = self._step() if low < len(names) else []
        for first in range(low, len(names)):  # mostly the first will do
            if first == low or spared(first):
                narrow = Narrow(self._model, self.ladder, names[first:])
                with narrow.attach():
                    if self._same(said) and narrow.length > 1 and self._same_step(step):
                        return names[first:]
        return ()

    def _said(self) -> tuple[float, list[Any]]:
        return self._runner.said(self._batch, self._examples)

    def _same(self, said: tuple[float, list[Any]]) -> bool:
        return self._runner.still(said, self._batch, self._examples)

    def _same_step(self, step: list[torch.Tensor]) -> bool:
        try:
            return agree([self._step()], [step], self._precision)
        except Exception:
            return False

    def _called(self) -> tuple[str, ...]:
        """The modules of the last block in the order in which they are first called."""
        calls: list[str] = []
        inside = {id(module) for block in self.ladder.rungs[-1].blocks for module in block.modules()}
        named = [(name, module) for name, module in self._model.named_modules() if id(module) in inside]
        handles = [
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
            for name, module in named
        ]
        try:
            self._said()
        finally:
            for handle in handles:
                handle.remove()
        return tuple(dict.fromkeys(calls))

    @contextmanager
    def _spoilt(self, name: str) -> Iterator[list[int]]:
        """With NaN in all positions but the first of what enters a module; yields how many there were."""
        entered: list[int] = []

        def spoilt(value: Any) -> Any:
            if not _has_positions(value):
                return value
            entered.append(value.shape[1])
            return torch.cat([value[:, :1], torch.full_like(value[:, 1:], torch.nan)], dim=1)

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return tuple(map(spoilt, args)), {name: spoilt(value) for name, value in kwargs.items()}

        handle = self._model.get_submodule(name).register_forward_pre_hook(enter, with_kwargs=True)
        try:
            yield entered
        finally:
            handle.remove()

    def _step(self) -> list[torch.Tensor]:
        """The loss and the gradients of a training step, always with the same random numbers of torch's."""
        self._model.train()
        torch.manual_seed(0)
        with autocast(self._precision, self._device):
            loss = self._model(**self._batch).loss
        found = torch.autograd.grad(loss, self._trained, allow_unused=True)
        return [loss.detach(), *(gradient for gradient in found if gradient is not None)]
