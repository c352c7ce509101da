"""Encoded data: made once per (task, backbone), kept on disk as Arrow, memory-mapped by every worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.cache import digest, seal, whole
from harness.errors import bad
from harness.records import provenance
from harness.records.quarantine import remark
from harness.records.sound import folder_fault
from harness.tasks.base import LENGTH, REFERENCE, Batch, Collate, Example
from harness.tasks.content import content_hash
from harness.tasks.splits import SPLITS
from harness.training.cut import Leaf
from harness.training.store import Store
from harness.training.workspace import Workspace

# To be raised when the code that encodes changes what comes out.
_FORMAT = 2
# Libraries that have a hand in what an encoded example looks like.
_READERS = (
    "transformers", "tokenizers", "datasets", "pillow", "torchvision", "timm", "scipy", "soundfile",
)  # fmt: skip
# The entry of a batch that stands in for the frozen rungs.
GIVEN = "given"
# Bytes in Arrow; Python values take some five times as much.
_SMALL = 1 << 24
# Batches that bucketing sorts by length together: the larger, the less padding and the less random.
BUCKET = 50


@dataclass(frozen=True)
class Split:
    """One encoded split.

    Attributes:
        rows: model inputs: an Arrow-backed data set, or the same in memory where it is small.
        lengths: shape (examples,), the cost of each in the units that padding wastes.
        references: per example what is true, as the metrics take it.
        augmented: whether the task varies its training examples.
        store: what frozen rungs give for the examples, where that is stored.
        alike: the one shape of all its leaves for which that is known to be right; None if it is for any.
    """

    rows: Any
    lengths: np.ndarray[Any, Any]
    references: list[Any]
    collate: Collate
    augmented: bool = False
    store: Store | None = None
    alike: dict[Leaf, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def with_store(self, store: Store, alike: dict[Leaf, tuple[int, ...]] | None) -> Split:
        return replace(self, store=store, alike=alike)

    def examples(self, indices: list[int]) -> list[Example]:
        """Encoded examples."""
        found: list[Example] = self.rows.__getitems__(indices)
        return found

    def batch(self, indices: list[int], noise: int | None = None) -> Batch:
        """A batch as the model takes it. Examples are varied, where the task does that, by generators of
        their own that `noise` and the index seed: how an example looks does not depend on its neighbours."""
        rngs = None
        if self.augmented and noise is not None:
            rngs = [np.random.default_rng([noise, index]) for index in indices]
        return self.collated(self.examples(indices), indices, rngs)

    def collated(self, examples: list[Example], indices: list[int], rngs: Any = None) -> Batch:
        """A batch of examples that have been read."""
        batch = self.collate(examples, rngs)
        if self.store is None or not self.store.fits(indices, self.alike):
            return batch
        return {**batch, GIVEN: self.store.given(indices)}


def encoding_key(workspace: Workspace, task: str, backbone: str, max_length: int | None) -> str:
    """Hash of everything that decides the encoded rows."""
    return digest(
        {
            "data": workspace.facts[task].fingerprint,
            "task": workspace.task(task).identity(),
            "processor": workspace.models[task, backbone].fingerprint,
            "classes": workspace.facts[task].classes,
            "max_length": max_length,
            "format": _FORMAT,
            "versions": {name: v for name, v in provenance.versions().items() if name in _READERS},
        }
    )


def encode(
    workspace: Workspace,
    task_name: str,
    backbone_name: str,
    max_length: int | None,
    looked_at: Sequence[str] = SPLITS,
) -> Path:
    """The folder of the encoded splits, written if it is not there, or if one of those `looked_at` is not
    what was written. Safe to call from many processes."""
    key = encoding_key(workspace, task_name, backbone_name, max_length)

    def write(folder: Path) -> None:
        task, facts = workspace.task(task_name), workspace.facts[task_name]
        processor = task.processor(workspace.backbone(backbone_name))
        splits = task.load(task_name)
        if content_hash(splits) != facts.fingerprint:
            raise bad(task_name, "the data is no longer what it was when the sweep was planned")
        for name in SPLITS:
            rows = task.encode(splits[name], processor, facts, max_length)
            rows = rows.add_column(REFERENCE, task.references(splits[name], facts))
            rows.save_to_disk(str(folder / name))
            seal(folder / name)

    folder, told = Path(workspace.cache) / "encoded" / key, partial(remark, workspace.paths)
    return whole(folder, write, told, looked_at, folder_fault)


@lru_cache(maxsize=8)
def open_split(
    workspace: Workspace, task_name: str, backbone: str, max_length: int | None, split: str
) -> Split:
    """One encoded split, memory-mapped. Test is opened only by who asks for it."""
    import datasets

    datasets.disable_progress_bars()
    task = workspace.task(task_name)
    folder = encode(workspace, task_name, backbone, max_length, (split,))
    rows = datasets.load_from_disk(str(folder / split))
    inputs = rows.remove_columns([LENGTH, REFERENCE])
    return Split(
        rows=InMemory(inputs.to_list()) if inputs.data.nbytes <= _SMALL else inputs,
        lengths=np.asarray(rows[LENGTH][:]),
        references=list(rows[REFERENCE][:]),  # iterating over a column reads row by row
        collate=task.collate(task.processor(workspace.backbone(backbone))),
        augmented=task.augments and split == "train",
    )


class InMemory(list[Example]):
    """The rows of a small data set as Python values: reading a batch of them from Arrow takes longer than
    training a head on it."""

    def __getitems__(self, indices: list[int]) -> list[Example]:
        return [dict(self[index]) for index in indices]


def train_batches(split: Split, size: int, seed: int, bucketing: bool) -> list[list[int]]:
    """The batches of one epoch: a permutation drawn from `seed`, cut into pieces; the last may be short, but
    never of one example, which BatchNorm cannot take: that one joins the batch before.

    With bucketing, examples of similar length meet: each group of BUCKET batches is sorted by length, and
    the batches are shuffled.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(split))
    if not bucketing:
        return cut(order.tolist(), size)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * BUCKET):
        group = order[start : start + size * BUCKET]
        group = group[np.argsort(split.lengths[group], kind="stable")]
        batches += cut(group.tolist(), size)
    return [batches[index] for index in rng.permutation(len(batches))]


def cut(order: Sequence[int], size: int) -> list[list[int]]:
    """Pieces of `size`; the last may be shorter, but a single one joins the piece before it."""
    pieces = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if len(pieces) > 1 and size > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [pieces[-2] + pieces[-1]]
    return pieces


def evaluation_batches(split: Split, size: int) -> list[list[int]]:
    """Batches of similar length, longest first: the least padding, and too long for memory shows at once."""
    order = np.argsort(-split.lengths, kind="stable")
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]
