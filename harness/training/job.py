"""What one run of the loop works on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch

from harness import pulse
from harness.backbones.ladder import build_ladder
from harness.recipe import Recipe
from harness.stage import Stage, first_run
from harness.tasks.base import Batch, Facts, Task, to_device
from harness.training.data import Split, cut, train_batches
from harness.training.model import FineTuned
from harness.training.prefix import Boundary, Prefix
from harness.training.seeds import SAMPLE, derive

Point: TypeAlias = dict[str, Any]


def at_a_time(batch_size: int, accumulation: int, halvings: int) -> int:
    """So many examples of a step are computed at a time, after so many halvings."""
    return max(1, math.ceil(batch_size / accumulation) >> halvings)


def sampled(split: Split, count: int, size: int, seed: int, device: torch.device) -> Iterator[Batch]:
    """Up to `count` examples of a split, drawn from a seed, as batches of `size` on the device."""
    chosen = np.random.default_rng(seed).permutation(len(split))[:count].tolist()
    for indices in cut(chosen, size):
        pulse.come_round()
        yield to_device(split.collated(split.examples(indices), indices), device)


@dataclass(frozen=True)
class Job:
    """Attributes:
    flops: forward FLOPs of one example per rung, then of the head.
    prefix: what frozen rungs give, where it is stored.
    halvings: so often the examples that are computed at a time are halved; a step's are the same.
    start: gives the model as it came from disk.
    source: gives the model of the backbone's source task, and batches of that task's training examples.
    """

    recipe: Recipe
    task: Task
    facts: Facts
    tuned: FineTuned
    train: Split
    validation: Split
    seed: int
    device: torch.device
    flops: list[float]
    prefix: Prefix | None = None
    halvings: int = 0
    start: Callable[[], Any] | None = None
    source: Callable[[], tuple[Any, Iterator[Batch]] | None] = lambda: None

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.recipe.stages(len(self.tuned.ladder.rungs))

    @cached_property
    def steps_per_epoch(self) -> int:
        settings = self.recipe.training
        return len(train_batches(self.train, settings.batch_size, 0, settings.bucketing))

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * sum(stage.epochs for stage in first_run(self.stages))

    def origin(self) -> Any:
        """The model as it came from disk, on the device, in evaluation; never to be changed."""
        assert self.start is not None
        return self.start().eval()

    def laddered(self, model: Any) -> FineTuned:
        """A model that is not trained here, with its ladder, to be called with batches."""
        return FineTuned(model, build_ladder(model), {})

    def sample(self, count: int) -> Iterator[Batch]:
        """Up to `count` training examples, drawn from the trial's seed, as batches on the device."""
        return sampled(self.train, count, self.at_a_time, derive(self.seed, SAMPLE), self.device)

    @property
    def at_a_time(self) -> int:
        """So many examples of a step are computed at a time."""
        settings = self.recipe.training
        return at_a_time(settings.batch_size, settings.accumulation, self.halvings)

    @property
    def at_a_time_evaluating(self) -> int:
        return max(1, self.recipe.training.evaluation_batch_size >> self.halvings)

    def boundary(self, depth: int) -> Boundary | None:
        """Where the model is cut above its first `depth` rungs, if it is cut there now."""
        cut = self.tuned.cut is not None and self.tuned.depth == depth
        return self.prefix.boundaries[depth] if cut and self.prefix is not None else None

    def above(self, depth: int, split: Split, name: str) -> Split:
        """The split with what the first `depth` rungs gave, which have to be as they were before training;
        from now on the model takes batches of it."""
        if self.prefix is None:
            return split
        if self.tuned.depth != depth:
            self.tuned.cut_at(depth, self.prefix.cut(self.tuned.model, depth))
        return self.prefix.over(split, name, depth)
