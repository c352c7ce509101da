"""What a worker is told besides the trial, as plain values: it resolves plug-ins itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.backbones.base import Backbone
from harness.cache import cache_folder
from harness.plan import Plan, Trial
from harness.prepare import ModelFacts
from harness.records import remote
from harness.records.paths import ResultPaths, opened
from harness.records.stores import is_uri
from harness.registry import build, plugins
from harness.stage import Stage, untouched
from harness.tasks.base import Facts, Task


@dataclass(frozen=True)
class Terms:
    """What is different where trials are tried again. A result may change by rounding, and with `halvings`
    by what averages over the examples at a time (BatchNorm, a mean over tokens): the record says so.

    Attributes:
        halvings: so often the examples that are computed at a time are halved.
        times: so many times a trial's resources are reserved.
        lost: so often the worker was lost that tried them.
    """

    halvings: int = 0
    times: int = 1
    lost: int = 0


FIRST = Terms()


@dataclass(frozen=True, eq=False)
class Workspace:
    """Names resolve to (plug-in name, settings). Everything here pickles without the plug-ins.

    `sources` are the trials that train a backbone on its source task, by the backbone's name; `passes` says
    how often the planned trials go through train above each depth, by (task, backbone, max_length,
    precision), and `tests` how many of them read the test split. `share` is off where a sweep wants
    everything to be computed as if each trial were alone.

    `results` is a folder, or the URI that results are on, for which each node has a folder of its own.

    Compared by identity: a process holds one, and its caches of weights and data are keyed by it.
    """

    results: str
    cache: str
    task_settings: dict[str, tuple[str, dict[str, Any]]]
    backbone_settings: dict[str, tuple[str, dict[str, Any]]]
    facts: dict[str, Facts]
    models: dict[tuple[str, str], ModelFacts]
    cpus: float
    gpus: float
    checkpoint_seconds: float
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    passes: dict[tuple[str, str, int | None, str], dict[int, int]] = field(default_factory=dict)
    tests: dict[tuple[str, str, int | None, str], dict[int, int]] = field(default_factory=dict)
    share: bool = True
    store_bytes: float = 0
    checkpoint_bytes: float = math.inf

    @property
    def paths(self) -> ResultPaths:
        return opened(remote.place_of(self.results))

    def sees_results(self) -> bool:
        """Whether the folder is the driver's, which has written the plan there."""
        return is_uri(self.results) or self.paths.plan.exists()

    def trained(self, source: str) -> Path:
        """The folder of a backbone that a source trial has trained, perhaps on another node."""
        return remote.latest_folder(self.paths.source(source))

    def task(self, name: str) -> Task:
        plugin, settings = self.task_settings[name]
        return build(plugins("tasks", Task)[plugin], settings, name)

    def backbone(self, name: str) -> Backbone:
        plugin, settings = self.backbone_settings[name]
        return build(plugins("backbones", Backbone)[plugin], settings, name)


def _where(trial: Trial) -> tuple[str, str, int | None, str]:
    """On what, beside split and depth, it depends what frozen rungs give."""
    settings = trial.recipe["training"]
    return trial.task, trial.backbone, settings["max_length"], settings["precision"]


def passes(plan: Plan) -> dict[tuple[str, str, int | None, str], dict[int, int]]:
    """How often the planned trials go through train above each depth at which rungs keep their pretrained
    weights. Confirm trials, and those of an open search, are taken to be the default configuration's."""
    found: dict[tuple[str, str, int | None, str], Counter[int]] = {}

    def count(trial: Trial, times: int = 1) -> None:
        depths = untouched([Stage(**stage) for stage in trial.stages])
        for stage, depth in zip(trial.stages, depths, strict=True):
            if depth > 0:
                found.setdefault(_where(trial), Counter())[depth] += times * stage["epochs"]

    for trial in {trial.trial_id: trial for trial in plan.planned()}.values():
        count(trial)
    for cell in plan.cells:
        default = plan.trial(cell, cell.space.default, 0, "tune")
        listed = cell.configurations is not None
        count(default, len(plan.confirm_seeds) + (0 if listed else cell.budget * len(plan.tune_seeds)))
    return {where: {depth: n for depth, n in depths.items() if n} for where, depths in found.items()}


def tests(plan: Plan) -> dict[tuple[str, str, int | None, str], dict[int, int]]:
    """The confirm trials by what they read and by the rungs that none of their stages trains; again taken to
    be the default configurations'."""
    found: dict[tuple[str, str, int | None, str], Counter[int]] = {}
    for cell in plan.cells:
        trial = plan.trial(cell, cell.space.default, 0, "tune")
        frozen = min(untouched([Stage(**stage) for stage in trial.stages]))
        found.setdefault(_where(trial), Counter())[frozen] += len(plan.confirm_seeds)
    return {where: dict(depths) for where, depths in found.items()}


def workspace_of(plan: Plan, results: Path) -> Workspace:
    sweep = plan.sweep
    return Workspace(
        results=remote.shown(results) if remote.mirror(results) else str(results.resolve()),
        cache=str(cache_folder()),
        task_settings={
            name: (task.__class__.name, task.model_dump(mode="json")) for name, task in plan.tasks.items()
        },
        backbone_settings={
            e.name: (e.backbone.__class__.name, e.backbone.pinned(e.place).model_dump(mode="json"))
            for e in sweep.backbones
        },
        facts=plan.prepared.tasks,
        models=plan.prepared.models,
        cpus=sweep.resources.cpus,
        gpus=sweep.resources.gpus,
        checkpoint_seconds=sweep.resources.checkpoint_seconds,
        sources={name: trial.as_dict() for name, trial in plan.sources.items()},
        passes=passes(plan) if sweep.resources.share else {},
        tests=tests(plan),
        share=sweep.resources.share,
        store_bytes=sweep.resources.store_gb * 1e9,
        checkpoint_bytes=sweep.resources.checkpoint_gb * 1e9,
    )
