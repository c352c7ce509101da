"""Frozen prefixes: what frozen rungs give, computed once per machine and kept for all trials of a sweep.

One pass over a split emits every boundary that the plan needs. Examples pass without padding, those of equal
shape together, so that what is stored of one does not depend on its neighbours. Where the model cannot be
cut, or where storing would not pay, the frozen rungs run in every step, and a note in the record says why.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch

from harness.backbones.forward import accepted
from harness.backbones.ladder import build_ladder
from harness.cache import digest, written_once
from harness.records import provenance
from harness.tasks.base import to_device
from harness.training.cut import Cut, Given, Leaf, reduced
from harness.training.data import Split, encoding_key, open_split
from harness.training.model import pretrained
from harness.training.precision import autocast
from harness.training.rate import bandwidth, training_rate
from harness.training.store import Damaged, Store, Writer, groups, open_store
from harness.training.workspace import Workspace

# To be raised when what is stored changes.
_FORMAT = 1
_SAMPLE = 4  # examples on which a cut is tried: the shortest, the longest and two between
# Copies of one example by which a dimension is known for that of the batch: a number of layers is rarely 5.
_COPIES = 5
# Whose code computes what is stored.
_LIBRARIES = ("torch", "transformers", "timm")
# Relative; sums of float32 in another order differ by some 1e-6, those of bfloat16 by 1e-2.
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
# Examples per pass of a build, whatever trials are evaluated with: no gradients are kept.
_BATCH = 64


class Where(NamedTuple):
    """What the stored values depend on, beside the split and the depth."""

    task: str
    backbone: str
    max_length: int | None
    precision: str


@dataclass(frozen=True)
class Boundary:
    """What the rest reads above a depth: `cut` is of the pretrained model, a pattern for those of trials."""

    cut: Cut
    bytes: float  # per example


@dataclass
class Prefix:
    """The frozen prefixes of a backbone on a task, for the depths that the plan names.

    Attributes:
        boundaries: by depth, where the model can be cut and storing pays.
        remarks: by depth, why it is not.
        ended: set when a build is to be given up.
    """

    workspace: Workspace
    where: Where
    device: torch.device
    boundaries: dict[int, Boundary] = field(default_factory=dict)
    remarks: dict[int, str] = field(default_factory=dict)
    ended: Event | None = None
    _open: dict[tuple[str, int], Store] = field(default_factory=dict)

    def cut(self, model: Any, depth: int) -> Cut | None:
        """The same cut of a trial's own model."""
        boundary = self.boundaries.get(depth)
        return None if boundary is None else boundary.cut.of(model)

    def over(self, split: Split, name: str, depth: int) -> Split:
        """The split, with what the frozen rungs gave. Examples that are varied have nothing stored."""
        if depth not in self.boundaries or split.augmented:
            return split
        return split.with_store(self._store(name, depth))

    def _store(self, name: str, depth: int) -> Store:
        if (name, depth) not in self._open:
            folder = folder_of(self.workspace, self.where) / _depths(self.boundaries) / name
            for attempt in range(2):
                written_once(folder, lambda path: self._build(path, name))
                try:
                    opened = {d: open_store(folder / str(d)) for d in self.boundaries}
                    break
                except Damaged:
                    if attempt:
                        raise
                    shutil.rmtree(folder, ignore_errors=True)
            os.utime(folder)  # what was used last is deleted last
            self._open |= {(name, d): store.to(self.device) for d, store in opened.items()}
        return self._open[name, depth]

    def _build(self, folder: Path, name: str) -> None:
        """One pass over a split for all depths."""
        split = open_split(self.workspace, *self.where[:3], name)
        run = Runner(self.workspace, self.where, self.device)
        make_room(self.workspace, sum(b.bytes for b in self.boundaries.values()) * len(split))
        writers = {
            depth: Writer(folder / str(depth), len(split), boundary.cut.kinds, boundary.cut.needed)
            for depth, boundary in self.boundaries.items()
        }
        alone = [run.alone(split, index) for index in range(len(split))]
        for indices in groups((_shape(batch) for batch in alone), _BATCH):
            if self.ended is not None and self.ended.is_set():
                raise InterruptedError("nobody needs it any more")
            batch = _joined([alone[index] for index in indices])
            seen: dict[int, dict[Leaf, torch.Tensor]] = {depth: {} for depth in self.boundaries}
            with ExitStack() as watched:
                for depth, boundary in self.boundaries.items():
                    watched.enter_context(boundary.cut.watching(seen[depth].__setitem__))
                run(batch)
            for depth, writer in writers.items():
                writer.add(indices, {leaf: seen[depth][leaf] for leaf in self.boundaries[depth].cut.kinds})
        for writer in writers.values():
            writer.close()


@lru_cache(maxsize=2)
def open_prefix(workspace: Workspace, where: Where, device: torch.device) -> Prefix | None:
    """None if no planned trial freezes anything there, or if the sweep shares nothing."""
    passes = workspace.passes.get(where)
    if not passes:
        return None
    prefix = Prefix(workspace, where, device)
    run = Runner(workspace, where, device)
    split = open_split(workspace, *where[:3], "train")
    flops = workspace.models[where.task, where.backbone].flops
    for depth in sorted(passes):
        try:
            boundary = run.boundary(split, depth)
            if boundary is None:
                prefix.remarks[depth] = "the model cannot be cut there"
            elif reason := _against(workspace, boundary.bytes, sum(flops[:depth]), passes[depth], len(split)):
                prefix.remarks[depth] = reason
            else:
                prefix.boundaries[depth] = boundary
        except Exception as error:  # a model that does not bear being looked at trains as it always did
            prefix.remarks[depth] = f"the model cannot be cut there ({type(error).__name__}: {error})"
    return prefix


class Runner:
    """Runs the pretrained model as it is in evaluation."""

    def __init__(self, workspace: Workspace, where: Where, device: torch.device) -> None:
        self._task = workspace.task(where.task)
        self._facts = workspace.facts[where.task]
        self._where, self._device = where, device
        self.model = pretrained(workspace, where.task, where.backbone, device)
        self.ladder = build_ladder(self.model)

    def __call__(self, batch: dict[str, Any], gradients: bool = False) -> Any:
        self.model.eval()
        with torch.set_grad_enabled(gradients), autocast(self._where.precision, self._device):
            return self.model(**accepted(self.model, to_device(batch, self._device)))

    def alone(self, split: Split, index: int) -> dict[str, Any]:
        """The inputs of one example, without padding and without labels."""
        batch = split.collate(split.examples([index]), None)
        return {name: value for name, value in batch.items() if "labels" not in name}

    def boundary(self, split: Split, depth: int) -> Boundary | None:
        """Where to cut; None if the model cannot be cut there."""
        order = split.lengths.argsort(kind="stable")
        chosen = order[torch.linspace(0, len(order) - 1, min(_SAMPLE, len(order))).long().numpy()].tolist()
        cut = Cut(self.model, self.ladder, depth)
        copies = _joined([self.alone(split, chosen[0])] * _COPIES)
        self.ladder.freeze(depth)
        cut.trace(lambda: self(copies, gradients=True), _COPIES)
        found: list[dict[Leaf, torch.Tensor]] = []
        for index in chosen:
            seen: dict[Leaf, torch.Tensor] = {}
            with cut.watching(seen.__setitem__):
                self(self.alone(split, index))
            found.append({leaf: seen[leaf][0].cpu() for leaf in cut.kinds})
        given = _padded(found)
        examples = split.examples(chosen)
        together = split.collate(examples, None)

        def said() -> tuple[float, list[Any]]:
            outputs = self(together)
            return float(outputs.loss), self._task.predict(outputs, examples, self._facts)

        expected = said()

        def same(tried: Given) -> bool:
            try:
                with cut.giving(tried.to(self._device)):
                    return _close(said(), expected, _TOLERANCE[self._where.precision])
            except Exception:
                return False

        cut.attach()
        try:
            needed = reduced(cut, given, same)
        finally:
            cut.detach()
        if needed is None:
            return None
        cut.needed = needed
        size = sum(given.values[leaf][0].numel() * given.values[leaf].itemsize for leaf in needed)
        return Boundary(cut, float(size))


def build(workspace: Workspace, device: torch.device, ended: Event) -> None:
    """Store what the planned trials will read, but for test splits, which stay sealed until they are
    confirmed, and for backbones that still have to be trained on their source task.

    Args:
        ended: set when nobody needs it any more.
    """
    for where in workspace.passes:
        if where[1] in workspace.sources or ended.is_set():
            continue
        prefix = open_prefix(workspace, Where(*where), device)
        if prefix is None:
            continue
        prefix.ended = ended
        for name in ("train", "validation"):
            split = open_split(workspace, *where[:3], name)
            for depth in prefix.boundaries:
                prefix.over(split, name, depth)


def _against(workspace: Workspace, size: float, flops: float, passes: int, examples: int) -> str:
    """Why storing does not pay; empty if it does.

    Args:
        size: bytes per example.
        flops: of the frozen rungs, per example.
        passes: how often the planned trials go through the split.
    """
    write, read = bandwidth(Path(workspace.cache))
    again = flops / training_rate(max(1, int(workspace.cpus)))
    if passes * again <= again + size / write + passes * size / read:
        return "running them again is cheaper than storing what they give"
    if size * examples > workspace.store_bytes:
        return f"what they give takes {size * examples / 1e9:.1f} GB (resources.store_gb)"
    return ""


def folder_of(workspace: Workspace, where: Where) -> Path:
    source = workspace.sources.get(where.backbone)
    trained = source is not None and source["task"] != where.task
    key = {
        "format": _FORMAT,
        "inputs": encoding_key(workspace, *where[:3]),
        "weights": source["trial_id"]
        if source is not None and trained
        else workspace.models[where.task, where.backbone].fingerprint,
        "precision": where.precision,
        "versions": {
            n: v for n, v in provenance.versions().items() if n in ("torch", "transformers", "timm")
        },
    }
    return _stores(workspace) / digest(key)


def _stores(workspace: Workspace) -> Path:
    return Path(workspace.cache) / "prefixes"


def _depths(depths: Mapping[int, Any]) -> str:
    return "-".join(str(depth) for depth in sorted(depths))


def make_room(workspace: Workspace, wanted: float) -> None:
    """Delete what was used longest ago until `wanted` more bytes are below the cap. Who has it mapped keeps
    it; who comes later builds it again."""
    splits = [path for path in _stores(workspace).glob("*/*/*") if path.is_dir()]
    sizes = {path: sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for path in splits}
    for path in sorted(splits, key=lambda path: path.stat().st_mtime):
        if sum(sizes.values()) + wanted <= workspace.store_bytes:
            return
        shutil.rmtree(path, ignore_errors=True)
        del sizes[path]


def release(workspace: Workspace, task: str, backbone: str) -> None:
    """No planned trial will read what this machine has stored of a backbone on a task."""
    for where in workspace.passes:
        if where[:2] == (task, backbone):
            shutil.rmtree(folder_of(workspace, Where(*where)), ignore_errors=True)


def _shape(batch: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, tuple(value.shape)) for name, value in batch.items() if isinstance(value, torch.Tensor)
    )


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
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
