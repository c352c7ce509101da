"""The plan: a sweep and the facts about its data and models become cells and trials.

Pure: the same sweep and facts give the same plan, and nothing is read or written here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from harness import axes, space
from harness.backbones.flops import training_flops
from harness.cache import digest
from harness.entries import BackboneEntry, StrategyEntry, TaskEntry
from harness.metrics.scorer import bounds
from harness.prepare import ModelFacts, Prepared
from harness.published import search_space
from harness.recipe import Recipe, parse
from harness.records.record import finite
from harness.search.base import SearchSpace, Values
from harness.space import Path, Space, Tree
from harness.spec import Sweep
from harness.tasks.base import Task

FORMAT = 1
# Confirm seeds are fresh: no tune seed reaches them.
FIRST_CONFIRM_SEED = 1000
# The phase of the trials that train a backbone on its source task, before any cell.
SOURCE = "source"


@dataclass(frozen=True)
class Trial:
    """One fully specified run, as plain values: this is what travels to a worker.

    `trial_id` is a hash of exactly what decides the result: the content of the data and of the pretrained
    weights, the canonical recipe, seed and phase. Names are not part of it. `stages` follow from the recipe
    on this ladder: what trains when (`stage.Stage`).
    """

    trial_id: str
    phase: str
    seed: int
    cell: str
    task: str
    backbone: str
    strategy: str
    hyperparameters: dict[str, Any]
    recipe: Tree
    stages: list[dict[str, Any]]
    flops: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """task × backbone × strategy: the unit that competes.

    Attributes:
        budget: configurations that are tried.
        configurations: the distinct ones, default first, if the search knows them beforehand.
        repeated: configurations that came out equal to an earlier one of the cell.
        trials: ids of the tune trials that are known beforehand: by configuration, then by seed.
        flops: of all tune trials that run to their end, but for those that an earlier cell asks for too.
            Those of an open search are taken to cost what the default configuration does.
    """

    id: str
    task: str
    backbone: str
    strategy: str
    tree: Tree = field(repr=False)
    space: SearchSpace = field(repr=False)
    budget: int
    configurations: list[Values] | None = field(repr=False)
    repeated: int = 0
    trials: tuple[str, ...] = field(default=(), repr=False)
    flops: float = 0.0

    def values_of(self, hyperparameters: Mapping[str, Any]) -> Values:
        """The inverse of `Trial.hyperparameters`.

        Raises: KeyError if they are of another space: an axis has no value there, or a label that it lacks.
        """

        def given(path: Path, axis: Space) -> Any:
            value = hyperparameters[".".join(path)]
            if axis.labelled and value not in axis.values:
                raise KeyError(value)
            return value

        return axes.configuration(self.space.axes, given)


@dataclass(frozen=True)
class Plan:
    """Attributes:
    sources: by backbone the trial that trains it on its source task.
    merged: by trial the cells that share it.
    """

    sweep: Sweep
    prepared: Prepared
    sources: dict[str, Trial]
    cells: tuple[Cell, ...]
    merged: dict[str, tuple[str, ...]]

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Every task by name, source tasks included."""
        sources = [source.task for _, source in self.sweep.sources]
        return {entry.name: entry.task for entry in (*self.sweep.tasks, *sources)}

    @property
    def tune_seeds(self) -> range:
        return range(self.sweep.seeds.tune)

    @property
    def confirm_seeds(self) -> range:
        return range(FIRST_CONFIRM_SEED, FIRST_CONFIRM_SEED + self.sweep.seeds.confirm)

    def trials(self, cell: Cell, values: Values, seeds: Iterable[int], phase: str) -> list[Trial]:
        """The trials of a configuration, one per seed."""
        return _trials(self.prepared, self.tasks[cell.task], self.sources, cell, values, seeds, phase)

    def trial(self, cell: Cell, values: Values, seed: int, phase: str) -> Trial:
        """The trial of a configuration on one seed."""
        return self.trials(cell, values, [seed], phase)[0]

    def planned(self) -> Iterator[Trial]:
        """The tune trials that are known beforehand, cell by cell, equal ones repeated."""
        for cell in self.cells:
            for values in cell.configurations or []:
                yield from self.trials(cell, values, self.tune_seeds, "tune")


def _trials(
    prepared: Prepared, task: Task, sources: Mapping[str, Trial], cell: Cell, values: Values,
    seeds: Iterable[int], phase: str,
) -> list[Trial]:  # fmt: skip
    """What a recipe takes to read is shared by its seeds: a plan of many trials is mostly made of this."""
    model = prepared.models[cell.task, cell.backbone]
    recipe = parse(axes.settings(cell.tree, cell.space.axes, values), cell.strategy).canonical(
        len(model.rungs)
    )
    source = sources.get(cell.backbone)
    settings = recipe.as_dict()
    named = hyperparameters(values)
    stages = [asdict(stage) for stage in recipe.stages(len(model.rungs))]
    flops = predicted_flops(recipe, model, prepared.tasks[cell.task].sizes, phase)
    identity = {
        "format": FORMAT,
        "data": prepared.tasks[cell.task].fingerprint,
        "classes": prepared.tasks[cell.task].classes,  # what the numbers in the data mean
        "task": task.identity(),
        # weights that are trained on a source task are what that trial makes of those before it
        "weights": model.fingerprint if source is None else source.trial_id,
        "recipe": settings,
        "phase": phase,
    }
    return [
        Trial(
            trial_id=digest({**identity, "seed": seed}),
            phase=phase,
            seed=seed,
            cell=cell.id,
            task=cell.task,
            backbone=cell.backbone,
            strategy=cell.strategy,
            hyperparameters=named,
            recipe=settings,
            stages=stages,
            flops=flops,
        )
        for seed in seeds
    ]


def hyperparameters(values: Values) -> dict[str, Any]:
    """Values by the dotted names under which records and reports show them: of the axes that are there."""
    return {".".join(path): value for path, value in values.items()}


def predicted_flops(recipe: Recipe, model: ModelFacts, sizes: Mapping[str, int], phase: str) -> float:
    """FLOPs of a trial that runs to its end: training steps, evaluations each epoch, one test."""
    total = 0.0
    for stage in recipe.stages(len(model.rungs)):
        total += stage.epochs * sizes["train"] * training_flops(model.flops, stage) * recipe.passes
        total += stage.epochs * sizes["validation"] * sum(model.flops)
    return total + (0 if phase == "tune" else sizes["test"] * sum(model.flops))


def make_plan(sweep: Sweep, prepared: Prepared) -> Plan:
    """Cells and trials of a sweep; configurations that train the same way become one trial."""
    sources: dict[str, Trial] = {}
    for backbone, source in sweep.sources:
        cell = _cell(sweep, source.task, backbone, source.strategy)
        [sources[backbone.name]] = _trials(
            prepared, source.task.task, {}, cell, cell.space.default, [source.seed], SOURCE
        )
    plan = Plan(sweep, prepared, sources, (), {})
    users: dict[str, list[str]] = {}
    cells = tuple(
        _distinct(plan, _cell(sweep, task, backbone, strategy), users)
        for task, backbone in sweep.pairs
        for strategy in sweep.strategies
    )
    merged = {trial: tuple(cells_) for trial, cells_ in users.items() if len(cells_) > 1}
    return replace(plan, cells=cells, merged=merged)


def _cell(sweep: Sweep, task: TaskEntry, backbone: BackboneEntry, strategy: StrategyEntry) -> Cell:
    tree = sweep.tree(task, strategy)
    found = search_space(tree, strategy)
    name = digest([task.name, backbone.name, strategy.name], 12)
    budget = sweep.search.budget(found)
    return Cell(name, task.name, backbone.name, strategy.name, tree, found, budget, None)


def _distinct(plan: Plan, cell: Cell, users: dict[str, list[str]]) -> Cell:
    """The cell with its configurations, each different trial once, and what they come to."""
    listed = plan.sweep.search.configurations(cell.space, cell.id)
    if listed is None:
        default = plan.trial(cell, cell.space.default, 0, "tune")
        return replace(cell, flops=cell.budget * len(plan.tune_seeds) * default.flops)
    kept: list[Values] = []
    own: dict[str, None] = {}
    flops = 0.0
    for values in listed:
        made = plan.trials(cell, values, plan.tune_seeds, "tune")
        if made[0].trial_id in own:
            continue
        kept.append(values)
        for trial in made:
            own[trial.trial_id] = None
            asking = users.setdefault(trial.trial_id, [])
            flops += 0.0 if asking else trial.flops
            asking.append(cell.id)
    repeated = len(listed) - len(kept)
    return replace(
        cell, budget=len(kept), configurations=kept, repeated=repeated, trials=tuple(own), flops=flops
    )


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


def work(plan: Plan) -> dict[tuple[str, str], float]:
    """FLOPs of all trials of each task and backbone. Confirm trials, and those of an open search, are taken
    to cost what the default configuration does."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for trial in {t.trial_id: t for t in plan.sources.values()}.values():
        found[trial.task, trial.backbone] += trial.flops
    for cell in plan.cells:
        found[cell.task, cell.backbone] += cell.flops
        if plan.confirm_seeds:
            confirm = plan.trial(cell, cell.space.default, FIRST_CONFIRM_SEED, "confirm")
            found[cell.task, cell.backbone] += len(plan.confirm_seeds) * confirm.flops
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
