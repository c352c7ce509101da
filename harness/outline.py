"""A plan as data, what it will take, and what is to be said of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from harness import space
from harness.entries import BackboneEntry
from harness.metrics.scorer import bounds
from harness.plan import FIRST_CONFIRM_SEED, FORMAT, Plan, Trial
from harness.records.record import finite
from harness.search.base import SearchSpace
from harness.spec import Sweep
from harness.tasks.base import Task


def notes(plan: Plan) -> list[str]:
    """What a reader of the plan should know before running it."""
    said: list[str] = []
    budgets: dict[str, set[int]] = {}
    for cell in plan.cells:
        budgets.setdefault(cell.task, set()).add(cell.budget)
    if any(len(found) > 1 for found in budgets.values()):
        said.append(
            "strategies get different tuning budgets, as their grids differ in size; "
            "`search.trials: n` makes them equal"
        )
    if plan.sweep.seeds.confirm == 0:
        said.append(
            "there is no confirm phase (seeds.confirm: 0): the report can show validation scores only"
        )
    elif plan.sweep.seeds.confirm < 3:
        said.append("fewer than 3 confirm seeds: no interval can be given")
    for entry in plan.sweep.tasks:
        if plan.sweep.racing and bounds(entry.task.primary_metric) is None:
            said.append(
                f"{entry.name} is not raced: {entry.task.primary_metric} has no bounds, so that nobody knows "
                "how far test may be from validation"
            )
        for split, left_out in plan.prepared.tasks[entry.name].skipped.items():
            said.append(f"{entry.name}: {left_out} faulty examples of the {split} split are left out")
    for name, trial in plan.sources.items():
        said += [
            f"the source of {name} is trained with {axis} = {value}: a space is not searched for it"
            for axis, value in trial.hyperparameters.items()
        ]
    for (task_name, backbone), model in plan.prepared.models.items():
        said.extend(f"{task_name} on {backbone}: {remark}" for remark in model.remarks)
    if plan.sweep.search.configurations(SearchSpace({}, {}), "") is None:
        said.append("the search decides as it goes: trials are known cell by cell, not beforehand")
    return said


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as data: what `harness plan --json` prints and `plan.json` holds."""
    sweep = plan.sweep
    return {
        "format": FORMAT,
        "name": sweep.name,
        "baseline": sweep.baseline,
        "seeds": {"tune": sweep.seeds.tune, "confirm": sweep.seeds.confirm},
        "search": {
            "algorithm": sweep.search.name,
            **sweep.search.model_dump(mode="json"),
            "scheduler": {"name": sweep.scheduler.name, **sweep.scheduler.model_dump()}
            if sweep.scheduler
            else None,
        },
        "racing": sweep.racing.model_dump() if sweep.racing else None,
        "resources": sweep.resources.model_dump(mode="json"),
        "tasks": [
            {
                "name": entry.name,
                "kind": entry.task.kind,
                "primary": entry.task.primary_metric,
                "direction": "max" if entry.task.higher_is_better else "min",
                "metrics": list(entry.task.metric_names),
                "forms": entry.task.forms(plan.prepared.tasks[entry.name]),
                "best": _best(entry.task),
                "delta": entry.task.delta,
                "margin": entry.task.margin,
                "constant": finite(plan.prepared.tasks[entry.name].constant),
                "skipped": plan.prepared.tasks[entry.name].skipped,
                "splits": plan.prepared.tasks[entry.name].sizes,
                "classes": plan.prepared.tasks[entry.name].classes,
                "data": plan.prepared.tasks[entry.name].fingerprint,
            }
            for entry in sweep.tasks
        ],
        "backbones": [
            {
                "name": entry.name,
                "model_type": model.model_type,
                "rungs": model.rungs,
                "parameters": sum(model.sizes[:-1]),
                "weights": model.fingerprint,
            }
            for entry in sweep.backbones
            for model in [plan.prepared.models[_first_task(sweep, entry), entry.name]]
        ],
        "sources": [
            {
                "backbone": backbone,
                "task": trial.task,
                "trial_id": trial.trial_id,
                "kind": plan.tasks[trial.task].kind,
                "primary": plan.tasks[trial.task].primary_metric,
                "direction": "max" if plan.tasks[trial.task].higher_is_better else "min",
            }
            for backbone, trial in plan.sources.items()
        ],
        "strategies": [
            {"name": entry.name, "definition": space.merge(entry.preset, entry.settings)}
            for entry in sweep.strategies
        ],
        "cells": [
            {
                "id": cell.id,
                "task": cell.task,
                "backbone": cell.backbone,
                "strategy": cell.strategy,
                "budget": cell.budget * sweep.seeds.tune,
                "configurations": cell.budget,
                "repeated": cell.repeated,
                "space": cell.space.as_dict(),
                "default": {".".join(path): value for path, value in cell.space.default.items()},
                "trials": list(cell.trials),
            }
            for cell in plan.cells
        ],
        "merged": [{"trial_id": trial, "cells": list(cells)} for trial, cells in plan.merged.items()],
        "trials": count(plan),
        "predicted": predicted(plan),
        "notes": notes(plan),
    }


def _best(task: Task) -> float | None:
    """The score of perfect predictions in the primary metric, where it has one."""
    reach = bounds(task.primary_metric)
    return None if reach is None else reach[1 if task.higher_is_better else 0]


def _first_task(sweep: Sweep, backbone: BackboneEntry) -> str:
    return next(task.name for task, used in sweep.pairs if used is backbone)


def predicted(plan: Plan) -> dict[str, float]:
    """What the plan will take if every trial runs to its end.

    Returns: `flops` of all trials; `disk_bytes` of records, curves, predictions and one checkpoint.
    """
    parameters = max((sum(plan.prepared.models[c.task, c.backbone].sizes) for c in plan.cells), default=0)
    trials = count(plan)
    tested = max(facts.sizes["test"] for facts in plan.prepared.tasks.values())
    per_trial = 12_000  # measured: a record and its curves in TensorBoard, three evaluations
    predictions = trials["confirm"] * tested * 60  # measured: five classes, compressed
    checkpoint = parameters * 4 * 4  # weights, best weights, two moments
    sources = trials["source"] * parameters * 4
    disk = sum(trials.values()) * per_trial + predictions + checkpoint + sources
    return {"flops": sum(work(plan).values()), "disk_bytes": disk}


class Load(NamedTuple):
    """What decides how many FLOP/s a trial reaches: trials with the same are alike in that."""

    task: str
    backbone: str
    precision: str


def load_of(trial: Trial) -> Load:
    return Load(trial.task, trial.backbone, trial.recipe["training"]["precision"])


def work(plan: Plan) -> dict[Load, float]:
    """FLOPs of all trials that are alike. Confirm trials, and those of an open search, are taken to be what
    the default configuration is."""
    found: dict[Load, float] = defaultdict(float)
    for trial in {t.trial_id: t for t in plan.sources.values()}.values():
        found[load_of(trial)] += trial.flops
    for cell in plan.cells:
        confirm = plan.trial(cell, cell.space.default, FIRST_CONFIRM_SEED, "confirm")
        found[load_of(confirm)] += cell.flops + len(plan.confirm_seeds) * confirm.flops
    return found


def count(plan: Plan) -> dict[str, int]:
    """Trials of each phase; shared ones once, where they are known."""
    asked = sum(cell.budget * plan.sweep.seeds.tune for cell in plan.cells)
    shared = sum(len(cells) - 1 for cells in plan.merged.values())
    return {
        "source": len({trial.trial_id for trial in plan.sources.values()}),
        "tune": asked - shared,
        "confirm": len(plan.cells) * plan.sweep.seeds.confirm,
    }
