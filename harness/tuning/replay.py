"""Replays a recorded sweep: the same campaign, scheduler and race, with the records as what trials came to.

Nothing is trained, but for confirm trials that a replay asks for and nobody has run, if that is wanted. Each
replay takes configurations in another order and numbers seeds anew within tuning and within confirming, so it
is a run of the same sweep that might have been.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.analysis.study import Study, load_study
from harness.analysis.verdicts import judge
from harness.errors import bad
from harness.outline import as_dict
from harness.plan import SOURCE, Cell, Plan, Trial, make_plan
from harness.prepare import ModelFacts, Prepared, prepare
from harness.records.lock import hold
from harness.records.paths import ResultPaths
from harness.records.record import Record, read_record, write_record
from harness.records.seal import write_sealed
from harness.search.base import key
from harness.spec import Sweep, load
from harness.tasks.base import Facts
from harness.training.data import encode
from harness.training.run import run_trial
from harness.training.workspace import workspace_of
from harness.tuning.campaign import Campaign
from harness.tuning.halving import Halving

Train = Callable[[Trial], Record]


@dataclass(frozen=True)
class Spent:
    """Device seconds and FLOPs of trials; a stopped one costs the share of its epochs that it ran."""

    trials: int
    device_s: float
    flops: float


@dataclass(frozen=True)
class Place:
    """How a replay ended on one task.

    Attributes:
        lost: members of the full grid's tie set that are not in the replay's.
        leader_lost: whether the full grid's leader is among them.
    """

    tie_set: list[str]
    full_tie_set: list[str]
    raced_out: dict[str, Any]
    lost: list[str]
    leader_lost: bool

    @property
    def same(self) -> bool:
        return set(self.tie_set) == set(self.full_tie_set)


@dataclass(frozen=True)
class Replay:
    """One replay. `stand_ins` counts confirm trials that nobody has run and the recorded winner's stood in
    for."""

    order: int
    spent: Spent
    tasks: dict[str, Place]
    stand_ins: int

    @property
    def same(self) -> bool:
        return all(place.same for place in self.tasks.values())

    @property
    def superset(self) -> bool:
        return not any(place.lost for place in self.tasks.values())


@dataclass(frozen=True)
class Replays:
    """Replays of one sweep, and what its full grid took."""

    full: Spent
    runs: list[Replay]

    def as_dict(self) -> dict[str, Any]:
        """What `harness replay --json` prints; `compute` is the part of the full grid's that was spent."""
        return {
            "full": asdict(self.full),
            "replays": [{**asdict(r), "same": r.same, "compute": self.compute(r)} for r in self.runs],
            "same": sum(run.same for run in self.runs),
            "superset": sum(run.superset for run in self.runs),
            "leader_lost": sum(any(p.leader_lost for p in run.tasks.values()) for run in self.runs),
        }

    def compute(self, run: Replay) -> dict[str, float]:
        return {
            "device_s": run.spent.device_s / self.full.device_s,
            "flops": run.spent.flops / self.full.flops,
        }


def recorded_sweep(paths: ResultPaths, assignments: Sequence[str]) -> Plan:
    """The plan of a recorded sweep, made anew from sweep.yaml with some settings changed (the race, the
    scheduler) and the facts in plan.json: data and models are not looked at.

    Raises: InputError if the folder holds no finished sweep that can be replayed.
    """
    study = load_study(paths)
    sweep = load(paths.sweep, assignments)
    plan = make_plan(sweep, _facts(sweep, study.plan))
    mistakes = []
    if study.unfinished:
        mistakes.append(f"{len(study.unfinished)} of its {len(study.cells)} cells are not done")
    if lacking := int(study.frame["status"].isin(["missing", "unreadable"]).sum()):
        mistakes.append(f"{lacking} of its records are missing")
    if (study.plan["search"]["scheduler"], study.plan.get("racing")) != (None, None):
        mistakes.append("it was recorded with a scheduler or a race, and is no full grid")
    if any(cell.configurations is None for cell in plan.cells):
        mistakes.append(
            "its search decides as it goes: other configurations than the recorded were asked for"
        )
    if not plan.confirm_seeds:
        mistakes.append("it has no confirm phase")
    if any(not paths.trial(trial).exists() for cell in plan.cells for trial in cell.trials):
        mistakes.append("a changed setting, or another version of the program, makes other trials of it")
    if mistakes:
        raise bad(str(paths.root), f"cannot be replayed: {'; '.join(mistakes)}")
    return plan


def _facts(sweep: Sweep, stored: Mapping[str, Any]) -> Prepared:
    tasks = {
        task["name"]: Facts(
            task["splits"], task["classes"], task["data"], task["constant"] or {}, task["skipped"]
        )
        for task in stored["tasks"]
    }
    models = {
        backbone["name"]: ModelFacts(
            backbone["model_type"],
            backbone["rungs"],
            [0] * (len(backbone["rungs"]) + 1),
            [0.0] * (len(backbone["rungs"]) + 1),  # FLOPs are counted from the records
            backbone["weights"],
        )
        for backbone in stored["backbones"]
    }
    pairs = [(task.name, backbone.name) for task, backbone in sweep.pairs]
    return Prepared(tasks, {(task, backbone): models[backbone] for task, backbone in pairs})


def replays(
    paths: ResultPaths, assignments: Sequence[str], orders: int, train: Train | None = None
) -> Replays:
    """Replay a recorded sweep in so many orders, with some of its settings changed.

    Args:
        train: runs a confirm trial that nobody has run and gives its record. Without it the cell's recorded
            winner stands in, which spares a replay that chose a worse one its due.

    Raises: InputError as `recorded_sweep` does.
    """
    plan = recorded_sweep(paths, assignments)
    study = load_study(paths)
    trials = study.frame[study.frame["phase"] != SOURCE].drop_duplicates("trial_id")
    full = Spent(len(trials), float(trials["device_s"].sum()), float(trials["flops"].sum()))
    return Replays(full, [_Replay(plan, study, paths, order, train).run() for order in range(orders)])


@contextmanager
def training(paths: ResultPaths, assignments: Sequence[str]) -> Iterator[Train]:
    """Trains in this process what a replay asks for. The records stay with those of the sweep, so that the
    next replay finds them.

    Raises: InputError if data and models are not what they were; ResultsLockedError if a run holds the
        folder.
    """
    sweep = load(paths.sweep, assignments)
    with hold(paths):
        plan = make_plan(sweep, prepare(sweep))
        workspace = workspace_of(plan, paths.root)
        cells = {cell.id: cell for cell in plan.cells}

        def train(trial: Trial) -> Record:
            cell = cells[trial.cell]
            found = plan.trial(cell, cell.values_of(trial.hyperparameters), trial.seed, trial.phase)
            if found.trial_id != trial.trial_id:
                raise bad(trial.task, "its data or its model are not those of the recorded sweep")
            encode(workspace, found.task, found.backbone, found.recipe["training"]["max_length"])
            run = run_trial(found.as_dict(), workspace)
            while True:
                try:
                    next(run)
                except StopIteration as ended:
                    return ended.value  # type: ignore[no-any-return]

        yield train


class _Replay:
    """One replay: the records as what its trials come to.

    Attributes:
        seeds: by phase, which recorded seed a seed of the replay is.
    """

    def __init__(self, plan: Plan, study: Study, paths: ResultPaths, order: int, train: Train | None) -> None:
        self._paths, self._order, self._train = paths, order, train
        self._cells = {cell.id: cell for cell in plan.cells}
        rng = random.Random(order)
        self._seeds = {
            phase: dict(zip(seeds, rng.sample(seeds, len(seeds)), strict=True))
            for phase, seeds in (("tune", plan.tune_seeds), ("confirm", plan.confirm_seeds))
        }
        self._recorded = plan
        self._plan = replace(plan, cells=tuple(_shuffled(cell, rng) for cell in plan.cells))
        self._winners = {cell.id: cell.winner for cell in study.cells}
        self._stand_ins = 0
        self._study = study
        self._originals: dict[str, str] = {}  # the trial whose record stands for one of the replay

    def run(self) -> Replay:
        """The replay, and the full grid in the same order: of configurations with equal scores the earlier
        one wins, so another order alone may end elsewhere."""
        sweep = self._plan.sweep
        grid = replace(self._plan, sweep=replace(sweep, scheduler=None, racing=None))
        full, _ = self._campaign(grid)
        self._stand_ins = 0
        judged, spent = self._campaign(self._plan)
        return Replay(
            self._order,
            Spent(
                len(spent),
                sum(record["cost"]["device_s"] for record in spent),
                sum(record["cost"]["flops"] for record in spent),
            ),
            {name: _place(task, full["tasks"][name]) for name, task in judged["tasks"].items()},
            self._stand_ins,
        )

    def _campaign(self, plan: Plan) -> tuple[dict[str, Any], list[Record]]:
        """The verdicts that a campaign comes to, and the records of what it ran."""
        with tempfile.TemporaryDirectory(prefix="harness-replay-") as folder:
            paths = ResultPaths(Path(folder))
            write_sealed(paths.plan, as_dict(plan))
            halving = Halving(plan.sweep.scheduler)
            campaign = Campaign(plan, paths, lambda event: None, halving.replay)
            run = [self._end(trial, campaign, halving) for trial in iter(campaign.next, None)]
            campaign.close()
            return judge(replace(load_study(paths), examples=self._examples)), run

    def _examples(self, trial_id: str, metric: str) -> Any:
        return self._study.examples(self._originals[trial_id], metric)

    def _end(self, trial: Trial, campaign: Campaign, halving: Halving) -> Record:
        """What an executor does, with a record in place of a run."""
        whole = self._outcome(trial)
        last = len(whole["curve"])
        for length in range(1, last + 1) if whole["status"] == "finished" else ():
            draft = _cut(whole, length)
            campaign.point(trial, draft)
            if campaign.stops(trial, draft, halving.judge):
                campaign.stop(trial, draft)
                return draft
        write_record(campaign.paths, whole)
        campaign.finish(trial, whole)
        return whole

    def _outcome(self, trial: Trial) -> Record:
        cell, plan = self._cells[trial.cell], self._recorded
        seed = self._seeds[trial.phase][trial.seed]
        asked = plan.trial(cell, cell.values_of(trial.hyperparameters), seed, trial.phase)
        record = read_record(self._paths.trial(asked.trial_id))
        if record is None and self._train is not None:
            record = self._train(asked)
        winner = self._winners[cell.id]
        if record is None and trial.phase == "confirm" and winner is not None:
            self._stand_ins += 1
            stand_in = plan.trial(cell, cell.values_of(winner), seed, "confirm")
            record = read_record(self._paths.trial(stand_in.trial_id))
        if record is None:
            raise bad(str(self._paths.root), f"has no record of trial {asked.trial_id}")
        self._originals[trial.trial_id] = record["trial_id"]
        record["trial_id"], record["seed"] = trial.trial_id, trial.seed
        return record


def _shuffled(cell: Cell, rng: random.Random) -> Cell:
    configurations = sorted(cell.configurations or [], key=key)
    return replace(cell, configurations=rng.sample(configurations, len(configurations)))


def _cut(record: Record, length: int) -> Record:
    """The record as it stood after so many evaluations."""
    draft = deepcopy(record)
    draft["curve"] = draft["curve"][:length]
    share = draft["curve"][-1]["epoch"] / record["curve"][-1]["epoch"]
    for name in ("wall_s", "device_s", "flops"):
        draft["cost"][name] *= share
    draft["status"], draft["reason"] = "stopped", "stopped by the scheduler"
    draft["metrics"] = {"validation": draft["curve"][-1]["validation"], "test": None}
    return draft


def _place(task: Mapping[str, Any], full: Mapping[str, Any]) -> Place:
    lost = [name for name in full["tie_set"] if name not in task["tie_set"]]
    return Place(task["tie_set"], full["tie_set"], task["raced_out"], lost, full["leader"] in lost)
