"""Frozen prefixes: what frozen rungs give, computed once per machine and kept for all trials of a sweep.

One pass over a split emits every boundary that the plan needs. Examples pass without padding, those of equal
shape together, so that what is stored of one does not depend on its neighbours. Where the model cannot be
cut, where storing would not pay or goes wrong, the frozen rungs run in every step, and a note in the record
says why.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch

from harness import __version__, pulse
from harness.backbones.base import Backbone
from harness.cache import digest, discard, seal, whole, written_once
from harness.records import provenance
from harness.records.quarantine import remark
from harness.records.sound import folder_fault
from harness.training.cut import Cut, Leaf
from harness.training.data import Split, encoding_key, open_split
from harness.training.model import pretrained
from harness.training.rate import bandwidth, training_rate
from harness.training.runner import Runner, joined, shape_of
from harness.training.store import Damaged, Store, Writer, groups, open_store
from harness.training.workspace import Workspace

# To be raised when what is stored changes.
_FORMAT = 1
# Whose code computes what is stored, beside our own.
_LIBRARIES = ("torch", "transformers", "timm")
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
    """Where the pretrained model is cut at a depth: the pattern for the models of trials.

    Attributes:
        alike: the one shape of every leaf on which the cut was tried; None if it was tried on several.
    """

    cut: Cut
    alike: dict[Leaf, tuple[int, ...]] | None


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
    run: Runner
    boundaries: dict[int, Boundary] = field(default_factory=dict)
    remarks: dict[int, str] = field(default_factory=dict)
    ended: Event | None = None
    _stores: dict[tuple[str, int], Store] = field(default_factory=dict)

    def cut(self, model: Any, depth: int) -> Cut | None:
        """The same cut of a trial's own model."""
        boundary = self.boundaries.get(depth)
        return None if boundary is None else boundary.cut.of(model)

    def over(self, split: Split, name: str, depth: int) -> Split:
        """The split, with what the frozen rungs gave. Examples that are varied have nothing stored, nor has a
        test split that is read once."""
        once = name == "test" and self.workspace.tests.get(self.where, {}).get(depth, 0) < 2
        if depth not in self.boundaries or split.augmented or once:
            return split
        try:
            stored = split.with_store(self._store(name, depth), self.boundaries[depth].alike)
        except InterruptedError:
            raise
        except Exception as error:  # a full disk, a folder that another process clears away
            self.remarks[depth] = f"what they give cannot be stored ({type(error).__name__}: {error})"
            return split
        self.remarks.pop(depth, None)  # of a time when there was no room
        return stored

    def _store(self, name: str, depth: int) -> Store:
        if (name, depth) not in self._stores:
            folder = folder_of(self.workspace, self.where) / _depths(self.boundaries) / name
            for attempt in range(2):
                written_once(folder, lambda path: self._build(path, name))
                try:
                    opened = {d: self._open(folder / str(d), d) for d in self.boundaries}
                    os.utime(folder)  # what was used last is deleted last
                    break
                except (Damaged, FileNotFoundError) as error:
                    if attempt:
                        raise
                    remark(self.workspace.paths, folder, str(error))
                    discard(folder)
            self._stores |= {(name, d): store.to(self.run.device) for d, store in opened.items()}
        return self._stores[name, depth]

    def _open(self, folder: Path, depth: int) -> Store:
        store, cut = open_store(folder), self.boundaries[depth].cut
        if store.kinds != cut.kinds or store.needed != cut.needed:
            raise Damaged(f"{folder} is of another model")
        return store

    def _build(self, folder: Path, name: str) -> None:
        """One pass over a split for all depths."""
        split = open_split(self.workspace, *self.where[:3], name)
        make_room(self.workspace, sum(b.cut.bytes for b in self.boundaries.values()) * len(split))
        writers = {
            depth: Writer(folder / str(depth), len(split), boundary.cut.kinds, boundary.cut.needed)
            for depth, boundary in self.boundaries.items()
        }
        # Inputs are made twice: those of all examples would not fit into memory.
        for indices in groups((shape_of(self._alone(split, index)) for index in range(len(split))), _BATCH):
            batch = joined([self._alone(split, index) for index in indices])
            seen: dict[int, dict[Leaf, torch.Tensor]] = {depth: {} for depth in self.boundaries}
            with ExitStack() as watched:
                for depth, boundary in self.boundaries.items():
                    watched.enter_context(boundary.cut.watching(seen[depth].__setitem__))
                self.run(batch)
            for depth, writer in writers.items():
                writer.add(indices, {leaf: seen[depth][leaf] for leaf in self.boundaries[depth].cut.kinds})
        for writer in writers.values():
            writer.close()

    def _alone(self, split: Split, index: int) -> dict[str, Any]:
        if self.ended is not None and self.ended.is_set():
            raise InterruptedError("nobody needs it any more")
        pulse.come_round()
        return self.run.alone(split, index)


@lru_cache(maxsize=1)  # a sweep goes task by task, and stores may fill an accelerator's memory
def open_prefix(workspace: Workspace, where: Where, device: torch.device) -> Prefix | None:
    """None if no planned trial freezes anything there, or if the sweep shares nothing."""
    passes = workspace.passes.get(where)
    if not passes:
        return None
    prefix = Prefix(workspace, where, Runner(workspace, where.task, where.backbone, where.precision, device))
    split = open_split(workspace, *where[:3], "train")
    asked = digest([sorted(passes.items()), workspace.store_bytes])
    folder = folder_of(workspace, where) / f"cuts-{asked}"
    try:
        # Judged once: rates that each worker measured for itself would come to different answers.
        judge = partial(_judge, prefix=prefix, split=split)
        whole(folder, judge, partial(remark, workspace.paths), look=folder_fault)
        judged = json.loads((folder / "cuts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        prefix.remarks = dict.fromkeys(passes, f"what they give cannot be stored ({error})")
        return prefix
    for depth in sorted(passes):
        found = judged[str(depth)]
        if "remark" in found:
            prefix.remarks[depth] = found["remark"]
            continue
        cut = prefix.run.traced(split, depth)
        cut.needed = [Leaf(*leaf) for leaf in found["needed"]]
        cut.bytes = found["bytes"]
        alike = found["alike"]
        shapes = None if alike is None else {Leaf(*leaf): tuple(shape) for leaf, shape in alike}
        prefix.boundaries[depth] = Boundary(cut, shapes)
    return prefix


def _judge(folder: Path, prefix: Prefix, split: Split) -> None:
    """Write down in `cuts.json` for each planned depth where to cut, or why not."""
    workspace, where = prefix.workspace, prefix.where
    passes, flops = workspace.passes[where], workspace.models[where.task, where.backbone].flops
    examples = sum(workspace.facts[where.task].sizes.values())
    judged: dict[str, dict[str, Any]] = {}
    taken = 0.0
    for depth in sorted(passes):
        try:
            found = prefix.run.tried(split, depth)
        except Exception as error:  # a model that does not bear being looked at trains as it always did
            judged[str(depth)] = {
                "remark": f"the model cannot be cut there ({type(error).__name__}: {error})"
            }
            continue
        if found is None:
            judged[str(depth)] = {"remark": "the model cannot be cut there"}
            continue
        size = found["bytes"]
        if not _pays(workspace, where.precision, size, sum(flops[:depth]), passes[depth]):
            reason = "running them again is cheaper than storing what they give"
            judged[str(depth)] = {"remark": reason}
        elif taken + size * examples > workspace.store_bytes:
            gigabytes = (taken + size * examples) / 1e9
            judged[str(depth)] = {"remark": f"what they give takes {gigabytes:.1f} GB (resources.store_gb)"}
        else:
            taken += size * examples
            judged[str(depth)] = found
    (folder / "cuts.json").write_text(json.dumps(judged), encoding="utf-8")
    seal(folder)


def _pays(workspace: Workspace, precision: str, size: float, flops: float, passes: int) -> bool:
    """Args:
    size: bytes per example.
    flops: of the frozen rungs, per example.
    passes: how often the planned trials go through the split.
    """
    write, read = bandwidth(Path(workspace.cache))
    again = flops / training_rate(max(1, int(workspace.cpus)), precision)
    return passes * again > again + size / write + passes * size / read


def build(workspace: Workspace, device: torch.device, ended: Event) -> None:
    """Store what the planned trials will read, but for test splits, which stay sealed until they are
    confirmed, and for backbones that still have to be trained on their source task.

    Args:
        ended: set when nobody needs it any more.
    """
    for where in workspace.passes:
        if where[1] in workspace.sources or ended.is_set():
            continue
        # whoever needs it tries again and says why; a run that ends needs none
        with contextlib.suppress(Exception, pulse.Halted):
            prefix = open_prefix(workspace, Where(*where), device)
            if prefix is None:
                continue
            prefix.ended = ended
            for name in ("train", "validation"):
                split = open_split(workspace, *where[:3], name)
                for depth in prefix.boundaries:
                    prefix.over(split, name, depth)
    open_prefix.cache_clear()
    pretrained.cache_clear()


def folder_of(workspace: Workspace, where: Where) -> Path:
    source = workspace.sources.get(where.backbone)
    weights = workspace.models[where.task, where.backbone].fingerprint
    if source is not None and source["task"] != where.task:
        weights = Backbone(path=str(workspace.trained(source["trial_id"]))).fingerprint()
    key = {
        "format": _FORMAT,
        "inputs": encoding_key(workspace, *where[:3]),
        "weights": weights,
        "precision": where.precision,
        "harness": __version__,
        "versions": {name: v for name, v in provenance.versions().items() if name in _LIBRARIES},
    }
    return Path(workspace.cache) / "prefixes" / digest(key)


def _depths(depths: Mapping[int, Any]) -> str:
    return "-".join(str(depth) for depth in sorted(depths))


def make_room(workspace: Workspace, wanted: float) -> None:
    """Delete what was used longest ago until `wanted` more bytes are below the cap. Who has it mapped keeps
    it; who comes later builds it again."""
    used: list[tuple[float, float, Path]] = []
    for path in _splits(Path(workspace.cache) / "prefixes", "*/*/*"):
        with contextlib.suppress(OSError):  # others delete, too
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            used.append((path.stat().st_mtime, size, path))
    total = sum(size for _, size, _ in used) + wanted
    for _, freed, path in sorted(used):
        if total <= workspace.store_bytes:
            return
        discard(path)
        total -= freed


def release(workspace: Workspace, task: str, backbone: str) -> None:
    """No planned trial will read what this machine has stored of a backbone on a task."""
    for where in workspace.passes:
        if where[:2] == (task, backbone):
            with contextlib.suppress(Exception):  # a source that was never trained has no weights to name
                for path in _splits(folder_of(workspace, Where(*where)), "*/*"):
                    discard(path)


def _splits(folder: Path, pattern: str) -> list[Path]:
    """The stored splits, without those that are being written."""
    return [path for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith(".")]
