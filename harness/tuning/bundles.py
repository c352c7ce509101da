"""Which trials run together in one worker: those that train the head alone on the same frozen backbone, and
differ in rates, regularisation and seed. Most bundles hold one trial."""

from __future__ import annotations

import math
from collections.abc import Hashable

from harness.plan import SOURCE, Plan, Trial
from harness.recipe import SECTIONS
from harness.registry import plugins
from harness.stage import Stage
from harness.strategies.base import Part

# Settings of the loop in which the trials of a bundle may differ.
_FREE = ("warmup", "schedule", "power", "floor", "clip", "keep", "patience")
# Measured on two cores of an EPYC: what one more head adds to a step of a bundle, and what a worker takes to
# start.
_STEP_SECONDS = 1e-3
_WORKER_SECONDS = 5.0


def bundle_key(plan: Plan, trial: Trial) -> Hashable:
    """Equal for trials that may run together; None for one that runs alone.

    A trial that a scheduler may stop runs alone, as Tune stops bundles whole; so does one whose examples are
    varied, since nothing is stored for it, and one in fp16, which scales each trial's loss by itself.
    """
    settings = trial.recipe["training"]
    rungs = len(plan.prepared.models[trial.task, trial.backbone].rungs)
    head_only = all(Stage(**stage).only_head(rungs) for stage in trial.stages)
    known = plugins("strategies", Part)
    parts = [known[key] for key in trial.recipe if key not in SECTIONS]
    apart = trial.phase == SOURCE or plan.tasks[trial.task].augments or not all(p.bundles for p in parts)
    if not plan.sweep.resources.share or not head_only or apart:
        return None
    if settings["precision"] == "fp16" or settings["accumulation"] > 1:
        return None
    shared = tuple(sorted((name, value) for name, value in settings.items() if name not in _FREE))
    stages = tuple(stage["epochs"] for stage in trial.stages)
    return (trial.task, trial.backbone, trial.phase, stages, shared)


def at_once(plan: Plan, slots: int) -> int:
    """How many workers the planned trials keep busy, `slots` at most."""
    if plan.sweep.scheduler is not None or any(cell.configurations is None for cell in plan.cells):
        return slots  # nobody knows yet what will be asked for
    found: dict[Hashable, list[Trial]] = {}
    for trial in plan.planned():
        found.setdefault(bundle_key(plan, trial), []).append(trial)
        if len(found.get(None, [])) >= slots:
            return slots
    workers = len(found.pop(None, []))
    for trials in found.values():
        most = plan.sweep.resources.bundle
        workers += -(-len(trials) // size(len(trials), steps(plan, trials[0]), most, slots))
    return max(1, min(slots, workers))


def steps(plan: Plan, trial: Trial) -> int:
    """Of its training."""
    settings, examples = trial.recipe["training"], plan.prepared.tasks[trial.task].sizes["train"]
    return int(settings["epochs"] * -(-examples // settings["batch_size"]))


def size(available: int, steps: int, most: int, slots: int) -> int:
    """How many trials of one key a bundle takes: as many as every other slot's, where that is worth a worker.

    Args:
        available: those that wait and those that run.
        steps: of each.
    """
    worth = available * steps * _STEP_SECONDS > _WORKER_SECONDS
    return max(1, min(most, math.ceil(available / max(1, slots)) if worth else available))
