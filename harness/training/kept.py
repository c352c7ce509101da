"""What a fine-tuned model has kept of the one that it started from.

*Drift*: how far the weights went, and how much the representations of validation inputs changed, rung by
rung. *Retention*, where the weights come from a source task that can be run: the score on that task with the
model's new weights below the source task's own head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.backbones.ladder import Ladder, base_of, build_ladder
from harness.tasks.base import Batch, to_device
from harness.training.loop import Job, autocast
from harness.training.model import FineTuned

# Examples on which representations are compared; what is kept of them is a Gram matrix per rung.
COMPARED = 64


def drift(job: Job, origin: Any) -> dict[str, Any]:
    """`distance` of the weights, and `cka`: for each rung the linear CKA of what leaves it with what left it
    before (1: the same up to rotation and scale); null where there is nothing to measure.

    Args:
        origin: the model that training started from.
    """
    return {**distance(job.tuned), "cka": similarity(job, origin)}


def distance(tuned: FineTuned) -> dict[str, Any]:
    """`relative_l2`: ‖θ − θ⁰‖ / ‖θ⁰‖ over the ladder; `rungs`: the same for each; null without weights."""
    moved: list[float] = []
    size: list[float] = []
    for rung in tuned.ladder.rungs:
        pairs = [(parameter.detach(), tuned.reference[name]) for name, parameter in rung.parameters]
        moved.append(sum(float((now - then).double().square().sum()) for now, then in pairs))
        size.append(sum(float(then.double().square().sum()) for _, then in pairs))
    return {
        "relative_l2": _ratio(sum(moved), sum(size)),
        "rungs": [_ratio(*pair) for pair in zip(moved, size, strict=True)],
    }


def _ratio(moved: float, size: float) -> float | None:
    return float((moved / size) ** 0.5) if size > 0 else None


def similarity(job: Job, origin: Any) -> list[float | None]:
    """Linear CKA per rung on up to COMPARED validation examples, spread over the split (Kornblith et al.
    2019, arXiv 1905.00414), with the unbiased estimator of HSIC: with 64 examples of thousands of features
    the plain one is close to 1 whatever it compares (Nguyen et al. 2021, arXiv 2010.15327). What leaves a
    rung counts with all its positions, padding included: the batch is the same for both models."""
    count = min(COMPARED, len(job.validation), job.recipe.training.evaluation_batch_size)
    indices = torch.linspace(0, len(job.validation) - 1, count).round().long().tolist()
    batch = to_device(job.validation.collate(job.validation.examples(indices), None), job.device)
    start = FineTuned(origin, build_ladder(origin), {})
    try:
        origin.to(job.device)
        before = _grams(start, batch, count, job)
    finally:
        origin.to("cpu")  # where it stays for the next trial
    after = _grams(job.tuned, batch, count, job)
    return [_alignment(old, new) for old, new in zip(before, after, strict=True)]


def _grams(model: FineTuned, batch: Batch, count: int, job: Job) -> list[torch.Tensor | None]:
    """The Gram matrix of what leaves each rung, shape (count, count), float64; None for a rung whose output
    does not have an entry per example."""
    found: list[torch.Tensor | None] = [None] * len(model.ladder.rungs)

    def keep(rung: int) -> Callable[[Any], None]:
        def hook(value: Any) -> None:
            tensor = value[0] if isinstance(value, (tuple, list)) and value else value
            if isinstance(tensor, torch.Tensor) and len(tensor) == count:
                flat = tensor.detach().float().flatten(1)
                flat = flat - flat.mean(dim=0)  # changes no HSIC, and large means cost digits
                found[rung] = (flat @ flat.T).double().cpu()

        return hook

    handles = _watch(model.ladder, keep)
    model.model.eval()
    try:
        with torch.no_grad(), autocast(job.recipe.training.precision, job.device):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _watch(ladder: Ladder, keep: Callable[[int], Callable[[Any], None]]) -> list[Any]:
    """Hooks on what leaves every rung; what leaves the stem is what enters the first block."""

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0)(args or tuple(kwargs.values()))

    def leaving(rung: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: keep(rung)(output)

    first = ladder.rungs[1].blocks[0]
    return [
        first.register_forward_pre_hook(entering, with_kwargs=True),
        *(
            _last_with_output(rung.blocks).register_forward_hook(leaving(index))
            for index, rung in enumerate(ladder.rungs)
            if index > 0
        ),
    ]


def _last_with_output(blocks: list[nn.Module]) -> nn.Module:
    """The last module of a rung that has weights: those after it may not be called."""
    return next((block for block in reversed(blocks) if list(block.parameters())), blocks[-1])


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
