"""How much each pretrained weight matters to what the model says: the diagonal of the Fisher information."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from harness.moments import Batch, Setting, Tuned
from harness.weights import Weight

if TYPE_CHECKING:
    import torch

# What is known of a pretrained model: that of the last trial that asked, as it is as large as the model.
_known: WeakKeyDictionary[Any, tuple[tuple[Any, ...], dict[str, torch.Tensor]]] = WeakKeyDictionary()


def diagonal(weights: Sequence[Weight], setting: Setting, samples: int) -> list[torch.Tensor | None]:
    """The diagonal of the Fisher information of each weight at θ⁰, of its shape; None for weights that were
    not pretrained, or that the source task's model does not have.

    `F = 1/m · Σₓ (∂ log p(y|x; θ⁰)/∂w)²` over `samples` examples x, one by one, in evaluation: those of the
    backbone's source task with the model and head that it was trained to; without one, those of the trial's
    task with the head that the backbone came with (or one that is drawn from a fixed seed, where it has
    none). y is drawn from what the model says, where its loss is the cross-entropy of its logits (one class
    per example, or per token); for other losses it is what is true, and their gradient stands for that of
    −log p (the *empirical* Fisher information).

    Raises: ValueError if no weight is found in the source task's model.
    """
    origin = setting.origin()
    key = (setting.seed, samples, setting.recipe.training.max_length)
    if origin not in _known or _known[origin][0] != key:
        _known[origin] = key, _measured(origin, setting, samples)
    found = _known[origin][1]
    # a strategy that wraps modules gives weights other names; θ⁰ is the tensor of the model from disk
    names = {parameter.data_ptr(): name for name, parameter in origin.named_parameters()}
    start = [None if w.reference is None else names.get(w.reference.data_ptr(), w.name) for w in weights]
    if any(start) and not any(name in found for name in start):
        raise ValueError("the source task's model has none of the weights that train: their names differ")
    return [None if name is None else found.get(name) for name in start]


def _measured(origin: Any, setting: Setting, samples: int) -> dict[str, torch.Tensor]:
    """By name, for every weight on the ladder."""
    import torch

    devices = [setting.device] if setting.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(setting.seed)
        source = setting.source()
        model, batches = source or (copy.deepcopy(origin), setting.sample(samples))
        tuned = setting.laddered(model.requires_grad_(True))
        return _squared_gradients(tuned, itertools.islice(_singles(batches), samples))


def _squared_gradients(tuned: Tuned, examples: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """The mean over examples of the squared gradient of each one's loss."""
    import torch

    weights = {name: weight for rung, name, weight in tuned.ladder.parameters() if rung is not None}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    for example in examples:
        loss = _negative_log_likelihood(tuned(example), example["labels"])
        count += 1
        if not loss.isfinite():
            continue  # no token of it has a label, or its transcript is too long for CTC
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient)
    return {name: total / max(1, count) for name, total in sums.items()}


def _singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Every example as a batch of its own."""
    for batch in batches:
        for index in range(len(batch["labels"])):
            yield {name: value[index : index + 1] for name, value in batch.items()}


def _negative_log_likelihood(outputs: Any, labels: Any) -> torch.Tensor:
    """Of a label that the model's own prediction draws, or of the true one; see `diagonal`."""
    import torch
    from torch.nn.functional import cross_entropy

    own: torch.Tensor = outputs.loss
    logits = getattr(outputs, "logits", None)
    if not (isinstance(labels, torch.Tensor) and isinstance(logits, torch.Tensor)):
        return own
    if labels.is_floating_point() or logits.shape[:-1] != labels.shape:
        return own
    flat, true = logits.float().flatten(0, -2), labels.flatten()
    if not torch.allclose(cross_entropy(flat, true), own.float(), rtol=1e-3):
        return own
    drawn = torch.multinomial(flat.detach().softmax(-1), 1)[:, 0]
    return cross_entropy(flat, torch.where(true < 0, true, drawn))  # below 0 is what does not count
