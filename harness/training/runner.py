"""Runs a pretrained model as it is in evaluation, and tries where it can be cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from harness.backbones.forward import accepted
from harness.backbones.ladder import build_ladder
from harness.tasks.base import to_device
from harness.training.cut import Cut, Given, Leaf, reduced
from harness.training.data import Split
from harness.training.model import pretrained
from harness.training.precision import autocast
from harness.training.workspace import Workspace

_SAMPLE = 4  # examples on which a cut is tried: the shortest, the longest and two between
# Copies of one example by which a dimension is known for that of the batch: a number of layers is rarely 5.
_COPIES = 5
# Relative; sums of float32 in another order differ by some 1e-6, those of bfloat16 by 1e-2; more is a leak.
_TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2, "fp16": 1e-2}


class Runner:
    """Runs the pretrained model, or what is given for it, as it is in evaluation."""

    def __init__(
        self,
        workspace: Workspace,
        task: str,
        backbone: str,
        precision: str,
        device: torch.device,
        model: Any = None,
    ) -> None:
        self._task = workspace.task(task)
        self._facts = workspace.facts[task]
        self._precision = precision
        self.device = device
        self._model = pretrained(workspace, task, backbone, device) if model is None else model
        self._ladder = build_ladder(self._model)

    def __call__(self, batch: dict[str, Any], gradients: bool = False) -> Any:
        self._model.eval()
        with torch.set_grad_enabled(gradients), autocast(self._precision, self.device):
            return self._model(**accepted(self._model, to_device(batch, self.device)))

    def said(self, batch: dict[str, Any], examples: list[Any]) -> tuple[float, list[Any]]:
        """The loss, and what the task makes of the outputs."""
        outputs = self(batch)
        return float(outputs.loss), self._task.predict(outputs, examples, self._facts)

    def still(self, expected: tuple[float, list[Any]], batch: dict[str, Any], examples: list[Any]) -> bool:
        """Whether it says what it said before, but for rounding; not where it cannot run any more."""
        try:
            return _close(self.said(batch, examples), expected, _TOLERANCE[self._precision])
        except Exception:
            return False

    def alone(self, split: Split, index: int) -> dict[str, Any]:
        """The inputs of one example, without padding and without labels."""
        batch = split.collate(split.examples([index]), None)
        return {name: value for name, value in batch.items() if "labels" not in name}

    def traced(self, split: Split, depth: int) -> Cut:
        """The model cut at a depth; what the rest reads of it is not known yet."""
        cut = Cut(self._model, self._ladder, depth)
        copies = joined([self.alone(split, int(split.lengths.argmin()))] * _COPIES)
        self._ladder.freeze(depth)
        cut.trace(lambda: self(copies, gradients=True), _COPIES)
        return cut

    def tried(self, split: Split, depth: int) -> dict[str, Any] | None:
        """What the rest reads above a depth (`needed`), how many `bytes` that is per example, and the shape
        of every leaf if all examples on which it was tried were `alike`. None if the model cannot be cut."""
        order = split.lengths.argsort(kind="stable")
        chosen = order[torch.linspace(0, len(order) - 1, min(_SAMPLE, len(order))).long().numpy()].tolist()
        cut = self.traced(split, depth)
        found: list[dict[Leaf, torch.Tensor]] = []
        for index in chosen:
            seen: dict[Leaf, torch.Tensor] = {}
            with cut.watching(seen.__setitem__):
                self(self.alone(split, index))
            found.append({leaf: seen[leaf][0].cpu() for leaf in cut.kinds})
        given = _padded(found)
        examples = split.examples(chosen)
        together = split.collate(examples, None)

        expected = self.said(together, examples)

        def same(tried: Given) -> bool:
            with cut.giving(tried.copied().to(self.device)):
                return self.still(expected, together, examples)

        cut.attach()
        try:
            needed = reduced(cut, given, same)
        finally:
            cut.detach()
        if needed is None:
            return None
        size = sum(each[leaf].numel() * each[leaf].itemsize for each in found for leaf in needed)
        alike = all(each[leaf].shape == value.shape for each in found for leaf, value in found[0].items())
        shapes = [[list(leaf), list(value.shape)] for leaf, value in found[0].items()]
        return {
            "needed": [list(leaf) for leaf in needed],
            "bytes": size / len(found),
            "alike": shapes if alike else None,
        }


def shape_of(batch: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, tuple(value.shape)) for name, value in batch.items() if isinstance(value, torch.Tensor)
    )


def joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch of several of equal shapes."""
    joined: dict[str, Any] = {}
    for name, first in batches[0].items():
        if isinstance(first, torch.Tensor):
            joined[name] = torch.cat([batch[name] for batch in batches])
        elif isinstance(first, list):
            joined[name] = [entry for batch in batches for entry in batch[name]]
        else:
            joined[name] = first
    return joined


def _padded(found: list[dict[Leaf, torch.Tensor]]) -> Given:
    """What the frozen rungs give for these examples together."""
    shapes: dict[Leaf, tuple[int, ...]] = {}
    values: dict[Leaf, torch.Tensor] = {}
    for leaf, first in found[0].items():
        own = [each[leaf].shape for each in found]
        shapes[leaf] = tuple(max(sizes) for sizes in zip(*own, strict=True))
        values[leaf] = torch.zeros((len(found), *shapes[leaf]), dtype=first.dtype)
        for row, each in zip(values[leaf], found, strict=True):
            row[tuple(slice(size) for size in each[leaf].shape)] = each[leaf]
    return Given(len(found), shapes, values)


def _close(ours: Any, theirs: Any, tolerance: float) -> bool:
    """Equal, and numbers equal but for rounding; NaN equals nothing."""
    if isinstance(theirs, float):
        return isinstance(ours, float) and abs(ours - theirs) <= tolerance * (1 + abs(theirs))
    if isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(_close(ours[k], theirs[k], tolerance) for k in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(
            _close(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
        )
    return bool(ours == theirs)
