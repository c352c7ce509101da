"""The plan: a sweep and the facts about its data and models become cells and trials.

Pure: the same sweep and facts give the same plan, and nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from harness import axes
from harness.backbones.flops import training_flops
from harness.cache import digest
from harness.entries import BackboneEntry, StrategyEntry, TaskEntry
from harness.prepare import ModelFacts, Prepared
from harness.published import search_space
from harness.recipe import Recipe, parse
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
