"""Where a model is cut in two: the frozen rungs, whose output for an example never changes, and the rest.

No family needs a line here. The outermost modules that belong to frozen rungs alone are *skipped*: where a
batch comes with what they once gave, they give it again instead of running. Which of their outputs the rest
reads is found by putting NaN in the place of each and looking whether the loss notices; and a cut counts only
where loss and predictions are what they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from harness.backbones.ladder import Ladder
from harness.training.instead import stand_in


class Leaf(NamedTuple):
    """A tensor that a skipped module gives: in which call of a forward pass, and where in its output."""

    module: str
    call: int
    number: int


class Kind(NamedTuple):
    """What is known of a leaf beforehand: its type, and its dimensions beside that of the batch."""

    dtype: torch.dtype
    rank: int


@dataclass(frozen=True)
class Form:
    """What a call of a skipped module gives but for the values: a `Kind` in place of every tensor, and
    everything else as it is (caches as None)."""

    spec: Any
    leaves: list[Any]


@dataclass(frozen=True)
class Given:
    """What stands in for the frozen rungs in one batch.

    Attributes:
        examples: the size of the batch.
        shapes: of every leaf in this batch, without the batch's dimension.
        values: the leaves that the rest reads, padded with zeros, shape (examples, …).
        blank: what stands where nothing is read.
    """

    examples: int
    shapes: Mapping[Leaf, tuple[int, ...]]
    values: Mapping[Leaf, torch.Tensor]
    blank: float = 0.0

    def copied(self) -> Given:
        """For a second model: some write into what they are given."""
        return self._each(torch.Tensor.clone)

    def pin_memory(self) -> Given:
        return self._each(lambda value: value.pin_memory() if value.device.type == "cpu" else value)

    def to(self, device: torch.device, non_blocking: bool = False) -> Given:
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Given:
        return replace(self, values={leaf: change(value) for leaf, value in self.values.items()})


class Cut:
    """One model, cut above its first `depth` rungs.

    Attributes:
        modules: the skipped ones by their name in the model.
        forms: what each call of them gives, in the order of a forward pass.
        needed: the leaves that the rest of the model reads; `bytes` of them per example, as far as is known.
    """

    def __init__(self, model: nn.Module, ladder: Ladder, depth: int) -> None:
        self.modules = _outermost(model, {id(m) for rung in ladder.rungs[:depth] for m in rung.modules})
        self.forms: dict[tuple[str, int], Form] = {}
        self.needed: list[Leaf] = []
        self.bytes = 0.0
        self.given: Given | None = None
        self._calls: dict[str, int] = {}
        self._undo = ExitStack()

    @property
    def kinds(self) -> dict[Leaf, Kind]:
        """Every leaf, in the order of a forward pass."""
        return {
            Leaf(name, call, index): kind
            for (name, call), form in self.forms.items()
            for index, kind in enumerate(form.leaves)
            if isinstance(kind, Kind)
        }

    # -- looking at a model that runs ----------------------------------------------------------------

    @contextmanager
    def _hooked(self, told: Callable[[str, int, list[Any], Any], None]) -> Iterator[None]:
        """Tell `told` of every call of a skipped module: its name, which call of the forward pass, and what
        it gives, as leaves and how they hang together."""
        calls: dict[str, int] = {}

        def watch(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                calls[name] = calls.get(name, -1) + 1
                told(name, calls[name], *pytree.tree_flatten(output))

            return hook

        handles = [module.register_forward_hook(watch(name)) for name, module in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def watching(self, seen: Callable[[Leaf, torch.Tensor], None]) -> Iterator[None]:
        """Tell `seen` of every tensor that leaves a skipped module in a forward pass."""

        def told(name: str, call: int, values: list[Any], spec: Any) -> None:
            for index, value in enumerate(values):
                if isinstance(value, torch.Tensor):
                    seen(Leaf(name, call, index), value)

        with self._hooked(told):
            yield

    def trace(self, run: Callable[[], Any], examples: int) -> None:
        """Learn the forms from one forward pass over a batch of `examples`, a number that is nothing else's.

        With gradients on, above what is frozen. Modules run as before that give something beside an entry
        per example (positions that all examples share), or that come after weights that train.
        """
        while True:
            forms = self._forms(run, examples)
            called = {name for name, _ in forms}
            kept = {name for (name, _), form in forms.items() if _KEPT in form.leaves}
            self.modules = {name: module for name, module in self.modules.items() if name in called}
            if not kept:
                break
            for name in kept:  # what it is made of may be skipped all the same
                whole = self.modules.pop(name)
                self.modules |= _outermost(
                    whole, {id(inner) for inner in whole.modules()} - {id(whole)}, name
                )
        self.forms = forms
        self.needed = list(self.kinds)

    def _forms(self, run: Callable[[], Any], examples: int) -> dict[tuple[str, int], Form]:
        forms: dict[tuple[str, int], Form] = {}

        def told(name: str, call: int, values: list[Any], spec: Any) -> None:
            forms[name, call] = Form(spec, [_kind(value, examples) for value in values])

        with self._hooked(told):
            run()
        return forms

    def of(self, model: nn.Module) -> Cut:
        """The same cut of another model of this structure."""
        other = copy.copy(self)
        other.modules = {name: model.get_submodule(name) for name in self.modules}
        other.given, other._calls, other._undo = None, {}, ExitStack()
        return other

    # -- standing in for the frozen rungs --------------------------------------------------------------

    def attach(self) -> None:
        """Let the skipped modules give what `given` holds, and run as before where it is None."""
        for name, module in self.modules.items():
            self._undo.callback(stand_in(module, self._standing_in(name, module.forward)))

    def detach(self) -> None:
        self._undo.close()

    @contextmanager
    def giving(self, given: Given | None) -> Iterator[None]:
        """For the length of one forward pass."""
        self.given, self._calls = given, {}
        try:
            yield
        finally:
            self.given = None

    def _standing_in(self, name: str, live: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = self.given
            if given is None:
                return live(*args, **kwargs)
            call = self._calls[name] = self._calls.get(name, -1) + 1
            form = self.forms[name, call]
            leaves = [
                self._leaf(given, Leaf(name, call, index), kind) if isinstance(kind, Kind) else kind
                for index, kind in enumerate(form.leaves)
            ]
            return pytree.tree_unflatten(leaves, form.spec)

        return forward

    def _leaf(self, given: Given, leaf: Leaf, kind: Kind) -> torch.Tensor:
        if leaf in given.values:
            return given.values[leaf]
        device = next((value.device for value in given.values.values()), torch.device("cpu"))
        blank = given.blank if kind.dtype.is_floating_point else 0
        shape = (given.examples, *given.shapes[leaf])
        # Of its own memory: some models write into it.
        if blank or device.type != "cpu":
            return torch.full(shape, blank, dtype=kind.dtype, device=device)
        # numpy takes its zeros from the system, page by page as they are touched; torch would write them all,
        # which took a third of the training of a bundle of heads.
        zeros = np.zeros(math.prod(shape) * kind.dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(zeros).view(kind.dtype).view(shape)


# In place of a leaf that cannot be given again.
_KEPT = "kept"


def _kind(value: Any, examples: int) -> Any:
    if isinstance(value, torch.Tensor):
        batched = value.ndim > 0 and len(value) == examples
        return Kind(value.dtype, value.ndim - 1) if batched and not value.requires_grad else _KEPT
    return value if value is None or isinstance(value, (bool, int, float, str)) else None


def _outermost(model: nn.Module, frozen: set[int], within: str = "") -> dict[str, nn.Module]:
    """The modules, by name, of which every module inside is frozen while something around them is not.

    Args: `within` is the name of `model` itself.
    """
    found: dict[str, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        whole = all(id(inner) in frozen for inner in module.modules())
        if whole and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            found[name] = module
            return
        for child, inner in module.named_children():
            visit(f"{name}.{child}" if name else child, inner)

    visit(within, model)
    return found


def reduced(cut: Cut, given: Given, same: Callable[[Given], bool]) -> list[Leaf] | None:
    """The leaves that the rest of the model reads; None where it cannot be cut here at all.

    Args:
        given: every leaf, with its values.
        same: whether the model, given this, comes to the loss and the predictions that it should.
    """

    def holds(leaves: Sequence[Leaf]) -> bool:
        values = {leaf: given.values[leaf] for leaf in leaves}
        return same(replace(given, values=values, blank=float("nan")))

    everything = list(cut.kinds)
    if not everything or not holds(everything):
        return None
    exact = [leaf for leaf, kind in cut.kinds.items() if not kind.dtype.is_floating_point]
    calls = list(cut.forms)
    last = [leaf for leaf in everything if (leaf.module, leaf.call) == calls[-1]]
    # in one sequence of blocks the rest reads what enters the first block that runs
    kept = last if last and not exact and holds(last) else everything
    if len(kept) > len(last):
        for module, call in calls:  # whole outputs first, of which there may be dozens
            fewer = [x for x in kept if (x.module, x.call) != (module, call) or x in exact]
            kept = fewer if fewer and holds(fewer) else kept
    for leaf in list(kept):
        if leaf in exact:
            continue  # numbers that know no NaN stay: nothing else is as sure to be noticed
        fewer = [other for other in kept if other != leaf]
        kept = fewer if fewer and holds(fewer) else kept
    return kept
