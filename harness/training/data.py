"""Encoded data: made once per (task, backbone), kept on disk as Arrow, memory-mapped by every worker."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from harness.errors import bad
from harness.plan import digest
from harness.tasks.base import Batch, Collate, content_hash
from harness.tasks.splits import SPLITS
from harness.training.workspace import Workspace

# Batches that bucketing sorts by length together: the larger, the less padding and the less random.
BUCKET = 50


@dataclass(frozen=True)
class Split:
    """One encoded split.

    Attributes:
        rows: an Arrow-backed data set of model inputs.
        lengths: shape (examples,), the cost of each in the units that padding wastes.
    """

    rows: Any
    lengths: np.ndarray[Any, Any]
    collate: Collate

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: list[int]) -> Batch:
        return self.collate(self.rows.__getitems__(indices))


def encoding_key(workspace: Workspace, task: str, backbone: str, max_length: int | None) -> str:
    """Hash of everything that decides the encoded rows."""
    return digest(
        {
            "data": workspace.facts[task].fingerprint,
            "task": workspace.task(task).identity(),
            "processor": workspace.models[task, backbone].fingerprint,
            "max_length": max_length,
            "versions": [metadata.version(p) for p in ("transformers", "tokenizers", "datasets")],
        }
    )


def encode(workspace: Workspace, task_name: str, backbone_name: str, max_length: int | None) -> Path:
    """The folder of the encoded splits, written if it is not there. Safe to call from many processes."""
    folder = Path(workspace.cache) / "encoded" / encoding_key(workspace, task_name, backbone_name, max_length)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        task, facts = workspace.task(task_name), workspace.facts[task_name]
        processor = workspace.backbone(backbone_name).processor(task.processor_class)
        splits = task.load(task_name)
        if content_hash(splits) != facts.fingerprint:
            raise bad(task_name, "the data is no longer what it was when the sweep was planned")
        # not `mkdtemp`: its folders are private to their owner, and a machine's cache may be shared
        temporary = folder.with_name(f".writing.{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
        try:
            for name in SPLITS:
                task.encode(splits[name], processor, facts, max_length).save_to_disk(str(temporary / name))
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@lru_cache(maxsize=8)
def open_split(
    workspace: Workspace, task_name: str, backbone: str, max_length: int | None, split: str
) -> Split:
    """One encoded split, memory-mapped. Test is opened only by who asks for it."""
    import datasets

    datasets.disable_progress_bars()
    task = workspace.task(task_name)
    rows = datasets.load_from_disk(str(encode(workspace, task_name, backbone, max_length) / split))
    return Split(
        rows=rows.remove_columns("length"),
        lengths=np.asarray(rows["length"][:]),
        collate=task.collate(workspace.backbone(backbone).processor(task.processor_class)),
    )


def train_batches(split: Split, size: int, seed: int, bucketing: bool) -> list[list[int]]:
    """The batches of one epoch: a permutation drawn from `seed`, cut into pieces; the last may be short.

    With bucketing, examples of similar length meet: each group of BUCKET batches is sorted by length, and
    the batches are shuffled.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(split))
    if not bucketing:
        return [order[start : start + size].tolist() for start in range(0, len(order), size)]
    batches: list[list[int]] = []
    for start in range(0, len(order), size * BUCKET):
        group = order[start : start + size * BUCKET]
        group = group[np.argsort(split.lengths[group], kind="stable")]
        batches += [group[i : i + size].tolist() for i in range(0, len(group), size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def evaluation_batches(split: Split, size: int) -> list[list[int]]:
    """Batches of similar length, longest first: the least padding, and too long for memory shows at once."""
    order = np.argsort(-split.lengths, kind="stable")
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]
