"""A trial's own checkpoint, from which it starts again after a kill."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.cache import checksum
from harness.records import remote
from harness.records.paths import ResultPaths, remove_file, replace_file
from harness.records.quarantine import set_aside
from harness.records.sound import sound
from harness.training.memory import out_of_memory


class Place(NamedTuple):
    """The next batch to train on; `epoch` counts within the stage."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0

    def next_epoch(self) -> Place:
        return Place(self.stage, self.epoch + 1)

    def next_stage(self) -> Place:
        return Place(self.stage + 1)


@dataclass
class Progress:
    """How far a trial has come. Everything here is in its checkpoint.

    Attributes:
        steps: optimiser steps so far.
        flops: of training and evaluation so far, counted per example.
        curve: one entry per evaluation.
        best: index into `curve` of the best evaluation so far.
        wall_s: seconds spent by earlier attempts and this one, up to the last evaluation.
    """

    place: Place = field(default_factory=Place)
    steps: int = 0
    flops: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: int | None = None
    wall_s: float = 0.0
    attempts: int = 1
    peak_memory_mb: float = 0.0
    trainable_params: int = 0


# Ends a checkpoint, with its checksum: PyTorch's reader verifies none, and passes over what follows.
_MARK = b"crc32"


class Checkpoints:
    """Saves at most every `seconds`, beside the place and renamed.

    Args:
        most: bytes that all checkpoints of a results folder may take; what would be more is not written.

    Attributes:
        remarks: what went wrong with checkpoints, for the trial's record.
    """

    def __init__(self, paths: ResultPaths, trial_id: str, seconds: float, most: float = math.inf) -> None:
        self.path = paths.checkpoint(trial_id)
        self.remarks: list[str] = []
        self._paths, self._seconds, self._most = paths, seconds, most
        self._saved = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved >= self._seconds

    def save(self, progress: Progress, tensors: dict[str, Any]) -> None:
        """Where there is no room, the trial does without: it starts again from its checkpoint before, if it
        has one."""
        content = {"progress": {**vars(progress), "place": tuple(progress.place)}, "tensors": tensors}
        try:
            if self._others() + _bytes(tensors) > self._most:
                self._remark(f"no more than {self._most / 1e9:g} GB of checkpoints (resources.checkpoint_gb)")
            else:
                replace_file(self.path, lambda path: _write(path, content))
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises the latter where a disk is full
            self._remark(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        self._saved = time.monotonic()

    def _others(self) -> int:
        """Bytes of the checkpoints of all other trials."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path.parent) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name != self.path.name)
        return 0

    def _remark(self, why: str) -> None:
        if not self.remarks:
            self.remarks.append(f"a checkpoint was not written: {why}")

    def load(self) -> tuple[Progress, dict[str, Any]] | None:
        """What was saved last, tensors on the CPU; None if there is nothing, or it is damaged, which is set
        aside. Raises: StorageError if it cannot be read."""
        remote.latest(self.path)
        try:
            return sound(self.path, _read)
        except FileNotFoundError:
            return None
        except ValueError as error:
            set_aside(self._paths, self.path, f"{error}; its trial begins anew")
            self.remarks.append(f"its checkpoint was damaged, so that it began anew: {error}")
            return None

    def remove(self) -> None:
        remove_file(self.path)


def _write(path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path)
    found = checksum(path)
    with path.open("ab") as file:
        file.write(_MARK + found.encode())


def _read(path: Path) -> tuple[Progress, dict[str, Any]]:
    """Raises: OSError; ValueError if it is not what was written."""
    if why := _fault(path):
        raise ValueError(why)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        progress = Progress(**content["progress"])
        progress.place = Place(*progress.place)
        return progress, content["tensors"]
    except Exception as error:  # whatever a truncated or foreign file makes the reader raise
        number = error.errno if isinstance(error, OSError) else None
        if out_of_memory(error) or number not in (None, errno.EINVAL):  # that is to look before its beginning
            raise
        raise ValueError(f"cannot be read: {error}") from error


def _fault(path: Path) -> str:
    """Why a checkpoint is not what was written; empty if it is, or is of before there were checksums."""
    with path.open("rb") as file:
        length = len(_MARK) + 8
        size = file.seek(0, os.SEEK_END) - length
        if size < 0:
            return "it is too short"
        file.seek(size)
        end = file.read()
    said = end.removeprefix(_MARK).decode(errors="replace")
    return (
        "its checksum is not that of its content"
        if end.startswith(_MARK) and checksum(path, size) != said
        else ""
    )


def _bytes(tensors: Any) -> int:
    """Of a tree of tensors."""
    if isinstance(tensors, torch.Tensor):
        return tensors.numel() * tensors.element_size()
    if isinstance(tensors, dict):
        return sum(map(_bytes, tensors.values()))
    return sum(map(_bytes, tensors)) if isinstance(tensors, (list, tuple)) else 0
