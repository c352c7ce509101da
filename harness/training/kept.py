"""What a fine-tuned model has kept of the one that it started from.

*Drift*: how far the weights went, and how much the representations of validation inputs changed, rung by
rung. *Retention*, where the weights come from a source task that can be run: the score on that task with the
model's new weights below the source task's own head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from harness.backbones.ladder import Ladder, base_of, build_ladder
from harness.tasks.base import Batch, to_device
from harness.training.cut import Given, Leaf
from harness.training.data import GIVEN
from harness.training.job import Job
from harness.training.model import FineTuned
from harness.training.precision import autocast

# Examples on which representations are compared; what is kept of them is a Gram matrix per rung.
COMPARED = 64
# What frozen rungs give for them is kept up to so many bytes.
_KEPT_BYTES = 64e6


@dataclass
class _Start:
    """What is known of a pretrained model, for all trials that start from it: sums of squares per rung, Gram
    matrices by what they were made of, and what left the rungs that the last trial had frozen."""

    sizes: list[float]
    grams: dict[tuple[Any, ...], list[torch.Tensor | None]] = field(default_factory=dict)
    given: tuple[tuple[Any, ...], Given] | None = None


_starts: WeakKeyDictionary[Any, _Start] = WeakKeyDictionary()


def _start_of(origin: Any) -> _Start:
    if origin not in _starts:
        rungs = build_ladder(origin).rungs
        sizes = [sum(_square(parameter) for _, parameter in rung.parameters) for rung in rungs]
        _starts[origin] = _Start(sizes)
    return _starts[origin]


def _square(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().square().sum())


def drift(job: Job, origin: Any, untouched: int) -> dict[str, Any]:
    """`distance` of the weights, and `cka`: for each rung the linear CKA of what leaves it with what left it
    before (1: the same up to rotation and scale); null where there is nothing to measure.

    Args:
        origin: the model that training started from, on the job's device.
        untouched: rungs from the input that no stage has trained.
    """
    sizes = _start_of(origin).sizes
    return {**distance(job.tuned, sizes, untouched), "cka": similarity(job, origin, untouched)}


def distance(tuned: FineTuned, size: list[float] | None = None, untouched: int = 0) -> dict[str, Any]:
    """`relative_l2`: ‖θ − θ⁰‖ / ‖θ⁰‖ over the ladder; `rungs`: the same for each; null without weights.

    Args:
        size: ‖θ⁰‖² per rung, if it is known.
    """
    known = tuned.reference
    if size is None:
        size = [sum(_square(known[n]) for n, _ in r.parameters if n in known) for r in tuned.ladder.rungs]
    moved = [0.0] * untouched
    for rung in tuned.ladder.rungs[untouched:]:
        moved.append(sum(_square(now - known[name]) for name, now in rung.parameters if name in known))
    return {
        "relative_l2": _ratio(sum(moved), sum(size)),
        "rungs": [_ratio(*pair) for pair in zip(moved, size, strict=True)],
    }


def _ratio(moved: float, size: float) -> float | None:
    return float((moved / size) ** 0.5) if size > 0 else None


def similarity(job: Job, origin: Any, untouched: int = 0) -> list[float | None]:
    """Linear CKA per rung on up to COMPARED validation examples, spread over the split (Kornblith et al.
    2019, arXiv 1905.00414), with the unbiased estimator of HSIC: with 64 examples of thousands of features
    the plain one is close to 1 whatever it compares (Nguyen et al. 2021, arXiv 2010.15327). What leaves a
    rung counts with all its positions, padding included: the batch is the same for both models."""
    rungs = len(job.tuned.ladder.rungs)
    same: list[float | None] = [1.0] * untouched
    if untouched == rungs:
        return same
    count = min(COMPARED, len(job.validation), job.recipe.training.evaluation_batch_size)
    indices = torch.linspace(0, len(job.validation) - 1, count).round().long().tolist()
    settings = job.recipe.training
    start = _start_of(origin)
    key = (count, len(job.validation), settings.max_length, settings.precision)
    batch = to_device(job.validation.batch(indices), job.device)
    if key not in start.grams:
        start.grams[key] = _grams(job.laddered(origin), batch, count, job)
    after = _after(job, start, untouched, key, batch)
    pairs = zip(start.grams[key][untouched:], after[untouched:], strict=True)
    return same + [_alignment(old, new) for old, new in pairs]


def _after(
    job: Job, start: _Start, untouched: int, key: tuple[int, int, int | None, str], batch: Batch
) -> list[torch.Tensor | None]:
    """Gram matrices of a batch from the job's model. What its frozen rungs give for the batch is kept for the
    next trial: padding counts here, so that what is stored will not do."""
    boundary, place = job.boundary(untouched), (*key, untouched)
    if boundary is None or boundary.cut.bytes * key[0] > _KEPT_BYTES:
        return _grams(job.tuned, batch, key[0], job, untouched)
    if start.given is not None and start.given[0] == place:
        given = start.given[1].to(job.device)
        if boundary.alike is None or boundary.alike == given.shapes:
            batch = {**batch, GIVEN: given.copied()}
        return _grams(job.tuned, batch, key[0], job, untouched)
    cut = boundary.cut.of(job.tuned.model)
    shapes: dict[Leaf, tuple[int, ...]] = {}
    values: dict[Leaf, torch.Tensor] = {}

    def seen(leaf: Leaf, value: torch.Tensor) -> None:
        if leaf in cut.kinds:
            shapes[leaf] = tuple(value.shape[1:])
        if leaf in cut.needed:
            values[leaf] = value.to("cpu", copy=True)  # what comes after may write into it

    with cut.watching(seen):
        found = _grams(job.tuned, batch, key[0], job, untouched)
    start.given = place, Given(key[0], shapes, values)
    return found


def _grams(model: FineTuned, batch: Batch, count: int, job: Job, first: int = 0) -> list[torch.Tensor | None]:
    """The Gram matrix of what leaves each rung from `first` on, shape (examples, examples), float64; None for
    a rung before, and for one whose output does not have an entry per example."""
    found: list[torch.Tensor | None] = [None] * len(model.ladder.rungs)

    def keep(rung: int) -> Callable[[Any], None]:
        def hook(value: Any) -> None:
            tensor = value[0] if isinstance(value, (tuple, list)) and value else value
            if isinstance(tensor, torch.Tensor) and len(tensor) == count:
                flat = tensor.detach().float().flatten(1)
                flat = flat - flat.mean(dim=0)  # changes no HSIC, and large means cost digits
                found[rung] = (flat @ flat.T).double().cpu()

        return hook

    handles = _watch(model.ladder, keep, first)
    model.model.eval()
    try:
        with torch.no_grad(), autocast(job.recipe.training.precision, job.device):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _watch(ladder: Ladder, keep: Callable[[int], Callable[[Any], None]], first: int) -> list[Any]:
    """Hooks on what leaves the rungs from `first` on; what leaves the stem is what enters the first block."""

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0)(args or tuple(kwargs.values()))

    def leaving(rung: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: keep(rung)(output)

    handles: list[Any] = [
        rung.last.register_forward_hook(leaving(index))
        for index, rung in enumerate(ladder.rungs)
        if index >= max(1, first)
    ]
    if first == 0:
        block = ladder.rungs[1].blocks[0]
        handles.append(block.register_forward_pre_hook(entering, with_kwargs=True))
    return handles


def _alignment(old: torch.Tensor | None, new: torch.Tensor | None) -> float | None:
    if old is None or new is None:
        return None
    scale = _hsic(old, old) * _hsic(new, new)
    return _hsic(old, new) / scale**0.5 if scale > 0 else None


def _hsic(k: torch.Tensor, el: torch.Tensor) -> float:
    """The unbiased estimator of the Hilbert-Schmidt independence criterion (Song et al. 2012, eq. 5)."""
    n = len(k)
    if n < 4:
        return 0.0
    k, el = (gram - torch.diag(gram.diag()) for gram in (k, el))
    both = k.sum() * el.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ el).sum()
    return float((k * el).sum() + both) / (n * (n - 3))


def put_back(model: Any, source: Any) -> None:
    """Copy the pretrained part of a fine-tuned model, weights and statistics, into the model of its source
    task, whose head stays its own. What the fine-tuned model has no counterpart of (a pooler) stays too."""
    ladder = build_ladder(model)
    head = {id(parameter) for _, parameter in ladder.head.parameters}
    new, old = base_of(model), base_of(source)
    mine = dict([*new.named_parameters(), *new.named_buffers()])
    with torch.no_grad():
        for name, tensor in [*old.named_parameters(), *old.named_buffers()]:
            if name in mine and id(mine[name]) not in head:
                tensor.copy_(mine[name])
