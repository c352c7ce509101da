"""A trial's own checkpoint, from which it starts again after a kill."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.records import remote
from harness.records.paths import remove_file, replace_file


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


class Checkpoints:
    """Saves at most every `seconds`, beside the place and renamed; a damaged file counts as none."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self._seconds = seconds
        self._saved = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved >= self._seconds

    def save(self, progress: Progress, tensors: dict[str, Any]) -> None:
        content = {"progress": {**vars(progress), "place": tuple(progress.place)}, "tensors": tensors}
        replace_file(self.path, lambda path: torch.save(content, path))
        self._saved = time.monotonic()

    def load(self) -> tuple[Progress, dict[str, Any]] | None:
        """What was saved last, tensors on the CPU; None if there is nothing that can be read."""
        remote.latest(self.path)
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            progress = Progress(**content["progress"])
            progress.place = Place(*progress.place)
            return progress, content["tensors"]
        except FileNotFoundError:
            return None
        except Exception:  # whatever a truncated or foreign file makes the reader raise
            self.remove()
            return None

    def remove(self) -> None:
        remove_file(self.path)
