"""What a worker is told besides the trial, as plain values: it resolves plug-ins itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.backbones.base import Backbone
from harness.cache import cache_folder
from harness.plan import Plan
from harness.prepare import ModelFacts
from harness.records.paths import ResultPaths
from harness.registry import build, plugins
from harness.tasks.base import Facts, Task


@dataclass(frozen=True, eq=False)
class Workspace:
    """Names resolve to (plug-in name, settings). Everything here pickles without the plug-ins.

    `sources` are the trials that train a backbone on its source task, by the backbone's name.

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

    @property
    def paths(self) -> ResultPaths:
        return ResultPaths(Path(self.results))

    def task(self, name: str) -> Task:
        plugin, settings = self.task_settings[name]
        return build(plugins("tasks", Task)[plugin], settings, name)

    def backbone(self, name: str) -> Backbone:
        plugin, settings = self.backbone_settings[name]
        return build(plugins("backbones", Backbone)[plugin], settings, name)


def workspace_of(plan: Plan, results: Path) -> Workspace:
    sweep = plan.sweep
    return Workspace(
        results=str(results.resolve()),
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
    )
