"""What one run of the loop works on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from harness.recipe import Recipe
from harness.tasks.base import Facts, Task
from harness.training.data import Split
from harness.training.model import FineTuned
from harness.training.prefix import Prefix

Point: TypeAlias = dict[str, Any]


def at_a_time(batch_size: int, accumulation: int, halvings: int) -> int:
    """So many examples of a step are computed at a time, after so many halvings."""
    return max(1, math.ceil(batch_size / accumulation) >> halvings)


@dataclass(frozen=True)
class Job:
    """Attributes:
    flops: forward FLOPs of one example per rung, then of the head.
    prefix: what frozen rungs give, where it is stored.
    halvings: so often the examples that are computed at a time are halved; a step's are the same.
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

    @property
    def at_a_time(self) -> int:
        """So many examples of a step are computed at a time."""
        settings = self.recipe.training
        return at_a_time(settings.batch_size, settings.accumulation, self.halvings)

    @property
    def at_a_time_evaluating(self) -> int:
        return max(1, self.recipe.training.evaluation_batch_size >> self.halvings)

    def above(self, depth: int, split: Split, name: str) -> Split:
        """The split with what the first `depth` rungs gave, which have to be as they were before training;
        from now on the model takes batches of it."""
        if self.prefix is None:
            return split
        if self.tuned.depth != depth:
            self.tuned.cut_at(depth, self.prefix.cut(self.tuned.model, depth))
        return self.prefix.over(split, name, depth)
