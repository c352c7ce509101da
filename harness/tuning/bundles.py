"""Which trials run together in one worker: those that train the head alone on the same frozen backbone, and
differ in rates, regularisation and seed. Most bundles hold one trial."""

from __future__ import annotations

import math
from collections.abc import Hashable

from harness.plan import SOURCE, Plan, Trial

# Settings of the loop in which the trials of a bundle may differ.
_FREE = ("warmup", "schedule", "clip", "keep", "patience")


def bundle_key(plan: Plan, trial: Trial) -> Hashable:
    """Equal for trials that may run together; None for one that runs alone.

    A trial that a scheduler may stop runs alone, as Tune stops bundles whole; so does one whose examples are
    varied, since nothing is stored for it, and one in fp16, which scales each trial's loss by itself.
    """
    settings = trial.recipe["training"]
    rungs = len(plan.prepared.models[trial.task, trial.backbone].rungs)
    head_only = all(stage["frozen"] == rungs for stage in trial.stages)
    apart = trial.phase == SOURCE or plan.tasks[trial.task].augments
    if not plan.sweep.resources.share or not head_only or apart:
        return None
    if settings["precision"] == "fp16" or settings["accumulation"] > 1:
        return None
    shared = tuple(sorted((name, value) for name, value in settings.items() if name not in _FREE))
    stages = tuple((stage["epochs"], stage["frozen"]) for stage in trial.stages)
    return (trial.task, trial.backbone, trial.phase, stages, shared)


def size(available: int, most: int, slots: int) -> int:
    """How many of the trials that could run together do, so that every slot has work."""
    return max(1, min(most, math.ceil(available / max(1, slots))))
