"""The campaign: what is owed is handed out once, whatever happened before; and halving within each cell.

No training here: records are written as a trial would write them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import document, spec
from harness.plan import Plan, Trial, make_plan
from harness.prepare import ModelFacts, Prepared
from harness.records.paths import ResultPaths
from harness.records.record import Record, Status, read_record, write_record
from harness.search.base import Asha
from harness.tasks.base import Facts
from harness.tuning.campaign import Campaign, Event
from harness.tuning.cells import Summary
from harness.tuning.halving import Halving

# Tests of the campaign alone: accuracy is higher-is-better, `error_rate` and `percent` are test plug-ins.
BASE: dict[str, Any] = {
    "name": "small",
    "tasks": [{"name": "one", "use": "bbc-topics"}],
    "backbones": [{"name": "small", "use": "minilm-l6"}],
    "optimizer": {"learning_rate": {"grid": [2e-5, 1e-4, 1e-3]}},
    "strategies": {"full": {"freeze": 0}, "top": {"freeze": 5}},
    "seeds": {"tune": 2, "confirm": 3},
}
TWO_TASKS = [{"name": "one", "use": "bbc-topics"}, {"name": "two", "use": "tweet-sentiment"}]


def planned(**changes: Any) -> Plan:
    content = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    sweep = spec.from_document(document.read(document.dump(content), "f.yaml"), [])
    facts = Facts({"train": 64, "validation": 32, "test": 32}, ["a", "b"], "data")
    model = ModelFacts("bert", [f"r{i}" for i in range(7)], [10] * 8, [5.0] * 8, "weights")
    models = {(task.name, backbone.name): model for task in sweep.tasks for backbone in sweep.backbones}
    return make_plan(sweep, Prepared({task.name: facts for task in sweep.tasks}, models))


@pytest.fixture
def paths(tmp_path: Path) -> ResultPaths:
    return ResultPaths(tmp_path / "results")


def record(
    trial: Trial,
    score: float | None = 0.5,
    status: Status = "finished",
    metric: str = "accuracy",
    epochs: int = 2,
) -> Record:
    """A complete record, as a trial that ended so would write it."""
    validation = None if score is None else {metric: score}
    return {
        "format": 1,
        "trial_id": trial.trial_id,
        "phase": trial.phase,
        "task": trial.task,
        "kind": "text-classification",
        "backbone": trial.backbone,
        "strategy": trial.strategy,
        "hyperparameters": trial.hyperparameters,
        "recipe": trial.recipe,
        "seed": trial.seed,
        "status": status,
        "reason": "",
        "metrics": {"validation": validation, "test": validation if trial.phase == "confirm" else None},
        "curve": [{"epoch": e + 1.0, "step": e, "validation": validation} for e in range(epochs)]
        if validation
        else [],
        "cost": {
            "wall_s": 1.0, "device_s": 1.0, "flops": 1.0, "steps": 8, "trainable_params": 10,
            "peak_memory_mb": 1.0,
        },
        "drift": {"relative_l2": None},
        "attempts": 0,
        "notes": [],
        "provenance": {},
    }  # fmt: skip


Ends = Callable[[Trial], Record]


def ends(campaign: Campaign, trial: Trial, made: Record) -> None:
    write_record(campaign.paths, made)
    campaign.finish(trial, made)


def chance(trial: Trial) -> float:
    """A score that only the trial decides."""
    return random.Random(trial.trial_id).random()


def by_chance(trial: Trial) -> Record:
    return record(trial, chance(trial))


class Run:
    """Runs a campaign with some workers that finish in any order; keeps what was handed out."""

    def __init__(
        self, plan: Plan, paths: ResultPaths, how: Ends = by_chance, workers: int = 1, order: int = 0
    ) -> None:
        self.events: list[Event] = []
        self.started: list[Trial] = []
        self.replayed: list[tuple[Trial, Summary]] = []
        self.campaign = Campaign(plan, paths, self.events.append, lambda *seen: self.replayed.append(seen))
        self.how, self.workers, self.rng = how, workers, random.Random(order)
        self.active: list[Trial] = []

    def step(self) -> bool:
        """Fill the workers, end one trial; False if nothing runs any more."""
        while len(self.active) < self.workers and (trial := self.campaign.next()) is not None:
            self.active.append(trial)
            self.started.append(trial)
        if not self.active:
            return False
        trial = self.active.pop(self.rng.randrange(len(self.active)))
        ends(self.campaign, trial, self.how(trial))
        return True

    def to_the_end(self) -> Run:
        while self.step():
            assert len(self.started) < 1000, "hands out without end"
        return self

    @property
    def ids(self) -> list[str]:
        return [trial.trial_id for trial in self.started]


def run(plan: Plan, paths: ResultPaths, how: Ends = by_chance, workers: int = 1, order: int = 0) -> Run:
    return Run(plan, paths, how, workers, order).to_the_end()


def cells(paths: ResultPaths) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in paths.cells.glob("*.json")]
    return {f"{cell['task']}/{cell['strategy']}": cell for cell in found}


def learning_rate(tree: dict[str, Any]) -> Any:
    return tree["hyperparameters"]["optimizer.learning_rate"]


def of(trials: list[Trial], phase: str) -> list[Trial]:
    return [trial for trial in trials if trial.phase == phase]


# -- what is handed out --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 100])
@pytest.mark.parametrize("search", [{}, {"algorithm": "random", "trials": 2}])
def test_exactly_the_planned_trials_are_handed_out_once(
    paths: ResultPaths, workers: int, search: Any
) -> None:
    plan = planned(tasks=TWO_TASKS, search=search)
    done = run(plan, paths, workers=workers)
    assert max(Counter(done.ids).values()) == 1
    assert {t.trial_id for t in of(done.started, "tune")} == {t.trial_id for t in plan.planned()}
    assert Counter(t.cell for t in of(done.started, "confirm")) == {cell.id: 3 for cell in plan.cells}
    assert done.campaign.done
    assert done.campaign.running == {}
    assert {path.stem for path in paths.trials.glob("*.json")} == set(done.ids)


def test_running_again_when_all_is_done_hands_out_nothing(paths: ResultPaths) -> None:
    first = run(planned(), paths)
    before = cells(paths)
    again = run(planned(), paths)
    assert again.started == []
    assert again.campaign.done
    assert Counter(event.what for event in again.events) == {"known": len(first.started)}
    assert cells(paths) == before


def test_tasks_come_in_file_order_and_long_cells_first(paths: ResultPaths) -> None:
    """A long trial that starts last would keep the other workers waiting."""
    plan = planned(tasks=TWO_TASKS, strategies={"head": {"freeze": "all"}, "full": {"freeze": 0}})
    order = dict.fromkeys((t.task, t.strategy) for t in of(run(plan, paths, workers=100).started, "tune"))
    assert list(order) == [("one", "full"), ("one", "head"), ("two", "full"), ("two", "head")]


def test_without_confirm_seeds_there_is_no_confirm_phase(paths: ResultPaths) -> None:
    done = run(planned(seeds={"tune": 1, "confirm": 0}), paths)
    assert of(done.started, "confirm") == []
    assert done.campaign.done
    assert {cell["state"] for cell in cells(paths).values()} == {"done"}
    assert all(cell["winner"] is not None for cell in cells(paths).values())


def test_events_tell_a_view_what_happens(paths: ResultPaths) -> None:
    done = run(planned(), paths)
    seen = Counter(event.what for event in done.events)
    assert seen == {"started": len(done.started), "ended": len(done.started)}


# -- shared trials -------------------------------------------------------------------------------

SHARED = {
    "strategies": {
        "plain": {"freeze": 0},
        "zero": {"freeze": 0.0, "regularizer": {"name": "l2", "strength": 0}},
    }
}


@pytest.mark.parametrize("workers", [1, 2, 5, 100])
def test_a_shared_trial_runs_once_and_serves_both_cells(paths: ResultPaths, workers: int) -> None:
    done = run(planned(**SHARED), paths, workers=workers)
    assert max(Counter(done.ids).values()) == 1
    assert len(done.started) == 3 * 2 + 3
    one, two = cells(paths)["one/plain"], cells(paths)["one/zero"]
    for phase in ("tune", "confirm"):
        assert [entry["trial_id"] for entry in one[phase]] == [entry["trial_id"] for entry in two[phase]]
    assert one["winner"] == two["winner"]
    assert one["state"] == two["state"] == "done"


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.integers(0, 10**6), workers=st.integers(1, 6))
def test_shared_trials_run_once_in_any_order_of_ends(
    tmp_path_factory: pytest.TempPathFactory, order: int, workers: int
) -> None:
    paths = ResultPaths(tmp_path_factory.mktemp("results"))
    strategies = {
        "wide": {"freeze": 0},
        "narrow": {"freeze": 0.0, "optimizer": {"learning_rate": {"grid": [2e-5, 1e-3]}}},
        "single": {"optimizer": {"learning_rate": 1e-3}},
    }
    done = run(
        planned(strategies=strategies, seeds={"tune": 1, "confirm": 3}), paths, workers=workers, order=order
    )
    assert max(Counter(done.ids).values()) == 1
    assert done.campaign.done


def test_a_confirm_trial_that_another_cell_ran_meanwhile_is_not_run_again(paths: ResultPaths) -> None:
    """The second cell is ready first and has its confirm trials queued while the first one runs them."""
    strategies = {"wide": {"freeze": 0}, "narrow": {"optimizer": {"learning_rate": 1e-3}}}
    grid = {"learning_rate": {"grid": [2e-5, 1e-3]}}
    plan = planned(strategies=strategies, optimizer=grid, seeds={"tune": 1, "confirm": 3})
    campaign = Campaign(plan, paths, lambda event: None)
    slow, shared = campaign.next(), campaign.next()
    assert slow is not None and shared is not None
    ends(campaign, shared, record(shared, 0.9))
    first = campaign.next()  # of the narrow cell, whose two others wait
    assert first is not None and (first.phase, first.strategy) == ("confirm", "narrow")
    ends(campaign, slow, record(slow, 0.1))
    rest = [campaign.next(), campaign.next()]
    for trial in rest:
        assert trial is not None and trial.strategy == "wide"
        ends(campaign, trial, record(trial))
    assert campaign.next() is None
    ends(campaign, first, record(first))
    assert campaign.next() is None
    assert campaign.done


# -- winners and the confirm phase ---------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.integers(0, 10**6), workers=st.integers(1, 8))
def test_confirm_starts_when_its_cell_is_tuned_and_retrains_the_best(
    tmp_path_factory: pytest.TempPathFactory, order: int, workers: int
) -> None:
    paths = ResultPaths(tmp_path_factory.mktemp("results"))
    plan = planned()
    going = Run(plan, paths, workers=workers, order=order)
    tune = {cell.id: [t for t in plan.planned() if t.cell == cell.id] for cell in plan.cells}
    seen = 0
    while going.step():
        for trial in going.started[seen:]:
            if trial.phase == "confirm":
                ended = [t for t in tune[trial.cell] if paths.trial(t.trial_id).exists()]
                assert len(ended) == len(tune[trial.cell])
        seen = len(going.started)
    for cell in plan.cells:
        means: dict[float, list[float]] = {}
        for trial in tune[cell.id]:
            means.setdefault(trial.hyperparameters["optimizer.learning_rate"], []).append(chance(trial))
        best = max(means, key=lambda rate: fmean(means[rate]))
        confirm = [t for t in going.started if t.phase == "confirm" and t.cell == cell.id]
        assert {t.hyperparameters["optimizer.learning_rate"] for t in confirm} == {best}
        assert [t.seed for t in confirm] == list(plan.confirm_seeds)


def test_a_cell_confirms_while_others_are_still_tuned(paths: ResultPaths) -> None:
    plan = planned(seeds={"tune": 1, "confirm": 2})
    campaign = Campaign(plan, paths, lambda event: None)
    tuned = [campaign.next() for _ in range(6)]
    assert campaign.next() is None
    for trial in tuned[:3]:
        assert trial is not None
        ends(campaign, trial, record(trial))
    following = campaign.next()
    assert following is not None
    assert (following.phase, following.strategy) == ("confirm", "full")


def test_a_campaign_that_still_owes_its_confirm_phase_is_not_done(paths: ResultPaths) -> None:
    """An interruption between the last tuning trial and the first confirm trial leaves work to do."""
    plan = planned(strategies={"full": {"freeze": 0}}, seeds={"tune": 1, "confirm": 2})
    campaign = Campaign(plan, paths, lambda event: None)
    trials = [campaign.next() for _ in range(4)]
    assert trials[3] is None
    for trial in trials[:3]:
        assert trial is not None
        ends(campaign, trial, record(trial))
    assert not campaign.done
    assert cells(paths)["one/full"]["state"] != "done"


def choose(scores: dict[float, list[Any]]) -> Ends:
    """Ends by learning rate and tune seed: a number is a finished trial's score, a text its status."""

    def how(trial: Trial) -> Record:
        if trial.phase == "confirm":
            return record(trial)
        said = scores[trial.hyperparameters["optimizer.learning_rate"]][trial.seed]
        if isinstance(said, str):
            return record(trial, 0.99, said)  # type: ignore[arg-type]
        return record(trial, said)

    return how


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ({2e-5: [0.5, 0.5], 1e-4: [0.9, 0.7], 1e-3: [1.0, 0.5]}, 1e-4),  # the best mean, not the best run
        ({2e-5: [0.7, 0.7], 1e-4: [0.8, 0.6], 1e-3: [0.7, 0.7]}, 2e-5),  # a tie goes to the earlier one
        ({2e-5: [0.1, 0.1], 1e-4: [0.9, "diverged"], 1e-3: ["failed", 0.9]}, 2e-5),
        ({2e-5: ["stopped", 0.9], 1e-4: [0.2, 0.2], 1e-3: [0.9, "infeasible"]}, 1e-4),
        ({2e-5: [0.1, 0.1], 1e-4: [0.9, None], 1e-3: [0.0, 0.0]}, 2e-5),  # a score that is no number is none
    ],
)
def test_the_winner_is_the_best_mean_among_configurations_whose_every_seed_finished(
    paths: ResultPaths, scores: Any, winner: float
) -> None:
    plan = planned(strategies={"full": {"freeze": 0}}, search={"scheduler": "asha"})
    done = run(plan, paths, choose(scores))
    assert {learning_rate(t.as_dict()) for t in of(done.started, "confirm")} == {winner}
    assert cells(paths)["one/full"]["winner"] == {"optimizer.learning_rate": winner}


def test_a_metric_to_minimise_is_minimised(paths: ResultPaths) -> None:
    plan = planned(
        tasks=[{"name": "one", "use": "bbc-topics", "metrics": ["error_rate", "accuracy"]}],
        strategies={"full": {"freeze": 0}},
    )
    errors = {2e-5: 0.3, 1e-4: 0.1, 1e-3: 0.2}
    done = run(
        plan,
        paths,
        lambda t: record(t, errors[t.hyperparameters["optimizer.learning_rate"]], metric="error_rate"),
    )
    assert {learning_rate(t.as_dict()) for t in of(done.started, "confirm")} == {1e-4}
    again = Run(plan, paths)
    again.to_the_end()
    assert {score for _, seen in again.replayed for _, score in seen.curve} == {-0.3, -0.1, -0.2}


@pytest.mark.parametrize("status", ["failed", "diverged", "infeasible"])
def test_a_cell_of_which_nothing_finished_is_done_without_a_winner(
    paths: ResultPaths, status: Status
) -> None:
    done = run(planned(), paths, lambda t: record(t, None, status) if t.strategy == "full" else record(t))
    assert done.campaign.done
    assert {t.strategy for t in of(done.started, "confirm")} == {"top"}
    assert (cells(paths)["one/full"]["winner"], cells(paths)["one/full"]["state"]) == (None, "done")


# -- what earlier runs left ----------------------------------------------------------------------


def test_a_failed_trial_is_tried_again_by_the_next_run_and_not_by_this_one(paths: ResultPaths) -> None:
    plan = planned(strategies={"full": {"freeze": 0}})
    broken = next(iter(plan.planned())).trial_id
    first = run(plan, paths, lambda t: record(t, None, "failed") if t.trial_id == broken else record(t))
    assert first.ids.count(broken) == 1
    again = run(plan, paths, lambda t: record(t, -1.0))  # too bad to change what won
    assert again.ids == [broken]
    assert run(plan, paths).ids == []


def test_a_configuration_that_heals_may_win_and_is_then_confirmed(paths: ResultPaths) -> None:
    plan = planned(strategies={"full": {"freeze": 0}})
    run(plan, paths, choose({2e-5: [0.5, 0.5], 1e-4: [0.9, "failed"], 1e-3: [0.1, 0.1]}))
    assert cells(paths)["one/full"]["winner"] == {"optimizer.learning_rate": 2e-5}
    again = run(plan, paths, lambda t: record(t, 0.9))
    assert [t.phase for t in again.started] == ["tune", "confirm", "confirm", "confirm"]
    assert cells(paths)["one/full"]["winner"] == {"optimizer.learning_rate": 1e-4}


@pytest.mark.parametrize("status", ["diverged", "infeasible", "stopped"])
def test_how_a_trial_ended_by_itself_is_final(paths: ResultPaths, status: Status) -> None:
    plan = planned(search={"scheduler": "asha"})
    first = next(iter(plan.planned())).trial_id
    run(plan, paths, lambda t: record(t, 0.5, status) if t.trial_id == first else record(t))
    assert run(plan, paths).started == []


def test_stopped_trials_run_to_their_end_once_the_sweep_has_no_scheduler(paths: ResultPaths) -> None:
    first = next(iter(planned().planned())).trial_id
    run(
        planned(search={"scheduler": "asha"}),
        paths,
        lambda t: record(t, 0.5, "stopped") if t.trial_id == first else record(t),
    )
    again = [trial for trial in run(planned(), paths).started if trial.phase == "tune"]
    assert again[0].trial_id == first
    # and the seeds of its configuration that had not been run because it was stopped
    assert len({json.dumps(trial.hyperparameters) for trial in again}) == 1
    assert [trial.seed for trial in again] == [0, 1]


def test_only_the_first_seed_competes_and_the_others_follow_it(paths: ResultPaths) -> None:
    """Were each seed halved on its own, hardly any configuration would keep all its seeds: none could win."""
    plan = planned(search={"scheduler": "asha"}, seeds={"tune": 3, "confirm": 1})
    bad = plan.cells[0].configurations[0]  # type: ignore[index]
    stopped = plan.trial(plan.cells[0], bad, 0, "tune")
    done = run(
        plan, paths, lambda t: record(t, 0.5, "stopped") if t.trial_id == stopped.trial_id else record(t)
    )
    same = [
        t for t in done.started if t.cell == stopped.cell and t.hyperparameters == stopped.hyperparameters
    ]
    assert [t.seed for t in same if t.phase == "tune"] == [0]
    listed = json.loads(paths.cell(stopped.cell).read_text())
    assert listed["winner"] is not None and listed["state"] == "done"
    assert {entry["trial_id"] for entry in listed["tune"]} <= set(done.ids)
    campaign = Campaign(plan, paths, lambda event: None)
    assert campaign.may_stop(stopped)
    assert not campaign.may_stop(plan.trial(plan.cells[0], bad, 1, "tune"))
    assert not campaign.may_stop(plan.trial(plan.cells[0], bad, 1000, "confirm"))
    assert run(plan, paths).started == []


def test_a_seed_that_ended_before_its_configuration_was_stopped_stays_in_the_cell(paths: ResultPaths) -> None:
    plan = planned(search={"scheduler": "asha"}, strategies={"full": {"freeze": 0}})
    first, second, *_ = plan.planned()
    campaign = Campaign(plan, paths, lambda event: None)
    assert [campaign.next(), campaign.next()] == [first, second]
    ends(campaign, second, record(second))
    campaign.stop(first, record(first, 0.1, "stopped"))
    last = run(plan, paths)
    assert not {first.trial_id, second.trial_id} & set(last.ids)
    assert len(cells(paths)["one/full"]["tune"]) == 6
    assert last.campaign.done


def test_a_trial_that_several_cells_share_is_never_stopped(paths: ResultPaths) -> None:
    """One cell's rungs say nothing of what another cell needs."""
    base: dict[str, Any] = {"seeds": {"tune": 1, "confirm": 1}, "search": {"scheduler": "asha"}}
    rates = {"grid": [2e-5, 1e-4]}
    alone = planned(**base, strategies={"tuned": {"optimizer": {"learning_rate": rates}}})
    trial = alone.trial(alone.cells[0], alone.cells[0].space.default, 0, "tune")
    assert Campaign(alone, paths, lambda event: None).may_stop(trial)
    strategies = {
        "tuned": {"optimizer": {"learning_rate": rates}},
        "base": {"optimizer": {"learning_rate": 2e-5}},
    }
    shared = planned(**base, strategies=strategies)
    assert trial.trial_id in shared.merged
    assert not Campaign(shared, paths, lambda event: None).may_stop(trial)
    # and one that an earlier, smaller sweep stopped is run to its end
    run(alone, paths, lambda t: record(t, 0.5, "stopped") if t.trial_id == trial.trial_id else record(t))
    assert trial.trial_id in run(shared, paths).ids


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"trial_id": "another", "status": "finished"}'])
def test_a_record_that_cannot_be_read_is_owed_again(paths: ResultPaths, damage: str) -> None:
    plan = planned()
    first = run(plan, paths)
    paths.trial(first.ids[0]).write_text(damage)
    assert run(plan, paths).ids == [first.ids[0]]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kills=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    workers=st.integers(1, 4),
    order=st.integers(0, 10**6),
    algorithm=st.sampled_from(["grid", "random"]),
)
def test_however_often_a_run_is_killed_it_ends_with_the_planned_records_and_repeats_none(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], workers: int, order: int, algorithm: str
) -> None:
    """What was running at the kill has no record and starts again; what had ended does not."""
    paths = ResultPaths(tmp_path_factory.mktemp("results"))
    plan = planned(search={"algorithm": algorithm, "trials": 3}, seeds={"tune": 1, "confirm": 2})
    finished: list[str] = []
    for steps in kills:
        going = Run(plan, paths, workers=workers, order=order)
        for _ in range(steps):
            going.step()
        running = {trial.trial_id for trial in going.active}
        finished += [trial for trial in going.ids if trial not in running]
    last = run(plan, paths, workers=workers, order=order)
    assert last.campaign.done
    assert max(Counter([*finished, *last.ids]).values()) == 1
    whole = ResultPaths(tmp_path_factory.mktemp("whole"))
    assert sorted([*finished, *last.ids]) == sorted(run(plan, whole).ids)
    assert cells(paths) == cells(whole)


GROWN: dict[str, tuple[dict[str, Any], Callable[[Trial], bool]]] = {
    "a tune seed": (
        {"seeds": {"tune": 3, "confirm": 3}},
        lambda t: t.seed == 2,
    ),
    "a confirm seed": ({"seeds": {"tune": 2, "confirm": 4}}, lambda t: t.seed == 1003),
    "a strategy": (
        {"strategies": {"new": {"freeze": 3}, **BASE["strategies"]}},
        lambda t: t.strategy == "new",
    ),
    "a value": (
        {"optimizer": {"learning_rate": {"grid": [2e-5, 1e-4, 1e-3, 0.5]}}},
        lambda t: t.hyperparameters["optimizer.learning_rate"] == 0.5,
    ),
    "a task": ({"tasks": TWO_TASKS}, lambda t: t.task == "two"),
}


@pytest.mark.parametrize("what", list(GROWN))
def test_a_sweep_that_grows_runs_only_what_is_new(paths: ResultPaths, what: str) -> None:
    changes, new = GROWN[what]
    steady = {2e-5: 0.9, 1e-4: 0.5, 1e-3: 0.5, 0.5: 0.1}

    def how(trial: Trial) -> Record:
        return record(trial, steady[trial.hyperparameters["optimizer.learning_rate"]])

    run(planned(), paths, how)
    grown = run(planned(**changes), paths, how)
    assert grown.started
    assert all(new(trial) for trial in grown.started)


def test_renaming_tasks_and_strategies_keeps_every_result(paths: ResultPaths) -> None:
    """Names are no part of a trial; its record may still carry the old ones."""
    run(planned(), paths)
    renamed = planned(
        tasks=[{"name": "renamed", "use": "bbc-topics"}],
        strategies={"all of it": {"freeze": 0}, "the top": {"freeze": 5}},
    )
    before = cells(paths)
    assert run(renamed, paths).started == []
    after = cells(paths)
    assert after["renamed/all of it"]["winner"] == before["one/full"]["winner"] is not None
    assert after["renamed/the top"]["confirm"] == before["one/top"]["confirm"]


# -- what the report reads -----------------------------------------------------------------------


def test_a_cells_file_says_which_trials_are_its_own_and_what_won(paths: ResultPaths) -> None:
    plan = planned(strategies={"full": {"freeze": 0}})
    campaign = Campaign(plan, paths, lambda event: None)
    first = campaign.next()
    assert first is not None
    early = cells(paths)["one/full"]
    assert (early["state"], early["winner"], early["confirm"]) == ("tuning", None, [])
    assert first.trial_id in [entry["trial_id"] for entry in early["tune"]]
    run(plan, paths, choose({2e-5: [0.5, 0.5], 1e-4: [0.9, 0.9], 1e-3: [0.1, 0.1]}))
    late = cells(paths)["one/full"]
    assert set(late) == {
        "id",
        "task",
        "backbone",
        "strategy",
        "tune",
        "confirm",
        "winner",
        "state",
        "checksum",
    }
    assert (late["id"], late["backbone"], late["state"]) == (plan.cells[0].id, "small", "done")
    assert [(entry["trial_id"], entry["seed"]) for entry in late["tune"]] == [
        (t.trial_id, t.seed) for t in plan.planned()
    ]
    assert [entry["seed"] for entry in late["confirm"]] == [1000, 1001, 1002]
    assert {learning_rate(entry) for entry in late["confirm"]} == {1e-4}
    assert all(paths.trial(entry["trial_id"]).exists() for entry in late["tune"] + late["confirm"])


def test_a_cell_under_confirmation_says_so(paths: ResultPaths) -> None:
    going = Run(planned(strategies={"full": {"freeze": 0}}), paths)
    for _ in range(7):
        going.step()
    assert cells(paths)["one/full"]["state"] == "confirming"


def test_a_stopped_trial_leaves_its_record_and_no_checkpoint(paths: ResultPaths) -> None:
    campaign = Campaign(planned(search={"scheduler": "asha"}), paths, lambda event: None)
    trial = campaign.next()
    assert trial is not None
    checkpoint = paths.checkpoint(trial.trial_id)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("state")
    campaign.stop(trial, record(trial, 0.4, "stopped"))
    kept = read_record(paths.trial(trial.trial_id))
    assert kept is not None and kept["status"] == "stopped"
    assert not checkpoint.exists()
    assert trial.trial_id not in campaign.running


# -- an open search ------------------------------------------------------------------------------

OPEN: dict[str, Any] = {
    "optimizer": {"learning_rate": {"loguniform": [1e-5, 1e-2]}},
    "search": {"algorithm": "optuna", "trials": 4},
    "strategies": {"full": {"freeze": 0}},
    "seeds": {"tune": 1, "confirm": 2},
}


def studies(paths: ResultPaths) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = f"sqlite:///{paths.root / 'optuna.db'}"
    return {
        name: optuna.load_study(study_name=name, storage=storage).trials
        for name in optuna.get_all_study_names(storage)
    }


def test_an_open_search_spends_the_budget_of_every_cell_and_confirms_the_best(paths: ResultPaths) -> None:
    strategies = {"full": {"freeze": 0}, "top": {"freeze": 5}}
    done = run(planned(**{**OPEN, "strategies": strategies}), paths, workers=2)
    assert Counter((t.strategy, t.phase) for t in done.started) == {
        ("full", "tune"): 4, ("full", "confirm"): 2, ("top", "tune"): 4, ("top", "confirm"): 2,
    }  # fmt: skip
    for name, trials in studies(paths).items():
        assert name.startswith(("one | small | full", "one | small | top"))
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
        best = max(trials, key=lambda trial: trial.value or 0)
        cell = cells(paths)["one/full" if "full" in name else "one/top"]
        assert cell["winner"] == best.params


def test_an_open_search_tells_its_study_how_trials_ended(paths: ResultPaths) -> None:
    said: list[Status] = ["finished", "stopped", "failed", "diverged"]
    plan = planned(**{**OPEN, "search": {**OPEN["search"], "scheduler": "asha"}})
    left = iter(said)
    run(plan, paths, lambda t: record(t, 0.5, next(left) if t.phase == "tune" else "finished"))
    [trials] = studies(paths).values()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 6])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_open_search_that_is_killed_anywhere_carries_on(
    paths: ResultPaths, steps: int, workers: int
) -> None:
    plan = planned(**OPEN)
    going = Run(plan, paths, workers=workers)
    for _ in range(steps):
        going.step()
    running = {trial.trial_id for trial in going.active}
    finished = [trial for trial in going.ids if trial not in running]
    last = run(plan, paths, workers=workers)
    assert last.campaign.done
    everything = [*finished, *last.ids]
    assert max(Counter(everything).values()) == 1
    assert running <= set(last.ids), "what was running is asked again, not replaced"
    assert len(everything) == 4 + 2
    cell = cells(paths)["one/full"]
    assert len(cell["tune"]) == 4, "a resumed search knows all it had tried"
    assert cell["winner"] is not None
    assert cell["state"] == "done"
    [trials] = studies(paths).values()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4


def test_an_open_search_that_is_done_stays_as_it_is(paths: ResultPaths) -> None:
    plan = planned(**OPEN)
    run(plan, paths)
    before = cells(paths)
    assert run(plan, paths).started == []
    assert cells(paths) == before


def test_a_larger_budget_and_more_seeds_run_only_what_is_new(paths: ResultPaths) -> None:
    first = run(planned(**OPEN), paths)
    grown = {**OPEN, "search": {"algorithm": "optuna", "trials": 6}, "seeds": {"tune": 2, "confirm": 2}}
    second = run(planned(**grown), paths)
    assert not set(first.ids) & set(second.ids)
    assert len(of(second.started, "tune")) == 2 + 6
    assert len(cells(paths)["one/full"]["tune"]) == 12


def test_another_recipe_starts_another_study(paths: ResultPaths) -> None:
    """Scores after two epochs say nothing certain about five; the old ones would never be replaced."""
    run(planned(**OPEN), paths)
    run(planned(**OPEN, training={"epochs": 5}), paths)
    assert [len(trials) for trials in studies(paths).values()] == [4, 4]


# -- halving -------------------------------------------------------------------------------------

EPOCHS = 9
ASHA: dict[str, Any] = {
    "tasks": [
        {"name": "one", "use": "bbc-topics"},
        {"name": "hundred", "use": "tweet-sentiment", "metrics": ["percent"]},
    ],
    "training": {"epochs": EPOCHS},
    "optimizer": {"learning_rate": {"grid": [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 6e-5, 7e-5, 8e-5]}},
    "strategies": {"full": {"freeze": 0}},
    "search": {"scheduler": {"name": "asha", "grace": 1, "reduction": 3}},
    "seeds": {"tune": 1, "confirm": 2},
}


def curves(plan: Plan) -> dict[str, tuple[Trial, list[float]]]:
    """A rising curve per tune trial: from 0 to 1 on the one task, from 0 to 100 on the other."""
    found = {}
    for index, trial in enumerate(plan.planned()):
        level = random.Random(index).random() * (100 if trial.task == "hundred" else 1)
        epochs = trial.recipe["training"]["epochs"]
        found[trial.trial_id] = trial, [level * (1 - 0.5 ** (e + 1)) for e in range(epochs)]
    return found


def halved(halving: Halving, trial: Trial, curve: list[float]) -> int:
    """Epochs that a trial with this curve gets to run."""
    for epoch, score in enumerate(curve, start=1):
        if halving.stops(trial, float(epoch), score):
            return epoch
    return len(curve)


def test_two_tasks_on_different_scales_are_stopped_by_their_own_asha() -> None:
    """On one common ladder every trial of the task in 0–1 would lose to every one of the task in 0–100."""
    plan = planned(**ASHA)
    made = curves(plan)
    together = Halving(plan.sweep.scheduler)
    interleaved = sorted(made.values(), key=lambda entry: entry[0].recipe["optimizer"]["learning_rate"])
    reached = {trial.trial_id: halved(together, trial, curve) for trial, curve in interleaved}
    for task in ("one", "hundred"):
        own = [entry for entry in interleaved if entry[0].task == task]
        alone = Halving(plan.sweep.scheduler)
        assert [reached[t.trial_id] for t, _ in own] == [halved(alone, t, curve) for t, curve in own]
        stopped = [t for t, _ in own if reached[t.trial_id] < EPOCHS]
        assert 0 < len(stopped) < len(own)
        best = max(own, key=lambda entry: entry[1][-1])[0]
        assert reached[best.trial_id] == EPOCHS


def test_strategies_do_not_compete_for_budget_while_they_are_tuned() -> None:
    plan = planned(**{**ASHA, "strategies": {"full": {"freeze": 0}, "head": {"freeze": "all"}}})
    halving = Halving(plan.sweep.scheduler)
    for trial in plan.planned():  # each cell's trials equally good, one cell far behind
        level = 0.9 if trial.strategy == "full" else 0.1
        assert halved(halving, trial, [level] * EPOCHS) == EPOCHS


def test_trials_stop_only_at_the_rungs() -> None:
    plan = planned(**ASHA)
    halving = Halving(plan.sweep.scheduler)
    reached = {halved(halving, *entry) for entry in curves(plan).values()}
    assert reached <= {1, 3, 9}
    late = Halving(Asha(grace=2, reduction=2))
    assert {halved(late, *entry) for entry in curves(plan).values()} <= {2, 4, 8, 9}


def falling(plan: Plan) -> list[tuple[Trial, list[float]]]:
    """Every trial worse than all before it, at every epoch: whatever may be stopped is."""
    return [(t, [-float(i)] * t.recipe["training"]["epochs"]) for i, t in enumerate(plan.planned())]


def test_without_a_scheduler_nothing_is_stopped() -> None:
    plan = planned(**{**ASHA, "search": {}})
    halving = Halving(plan.sweep.scheduler)
    assert {halved(halving, *entry) for entry in falling(plan)} == {EPOCHS}


def test_confirm_trials_are_never_stopped_and_do_not_count() -> None:
    plan = planned(**ASHA)
    halving = Halving(plan.sweep.scheduler)
    cell = plan.cells[0]
    good = plan.trial(cell, cell.space.default, 1000, "confirm")
    bad = plan.trial(cell, cell.space.default, 1001, "confirm")
    assert halved(halving, good, [1.0] * EPOCHS) == halved(halving, bad, [0.0] * EPOCHS) == EPOCHS
    tuned = [entry for entry in curves(plan).values() if entry[0].cell == cell.id]
    fresh = Halving(plan.sweep.scheduler)
    assert [halved(halving, *entry) for entry in tuned] == [halved(fresh, *entry) for entry in tuned]


@pytest.mark.parametrize("epochs", [1, 3, 9])
def test_a_trial_that_has_had_its_last_epoch_is_finished_not_stopped(epochs: int) -> None:
    """Even where the last epoch is a rung: there is nothing left to save, and its score is a full one."""
    plan = planned(**{**ASHA, "training": {"epochs": epochs}})
    halving = Halving(plan.sweep.scheduler)
    for trial, curve in falling(plan):
        assert not halving.stops(trial, float(epochs), curve[-1])


def test_an_evaluation_without_a_score_stops_nothing() -> None:
    plan = planned(**ASHA)
    halving = Halving(plan.sweep.scheduler)
    for trial, curve in falling(plan):
        assert not halving.stops(trial, 1.0, None)
        halving.stops(trial, 1.0, curve[0])


def test_evaluations_within_epochs_wait_for_the_rung() -> None:
    plan = planned(**ASHA)
    halving = Halving(plan.sweep.scheduler)
    for trial, curve in falling(plan):
        assert not any(halving.stops(trial, part, curve[0]) for part in (0.25, 0.5, 0.75))
    trial, curve = falling(plan)[-1]
    assert not halving.stops(trial, 1.0, curve[0]), "the first to arrive on the rung has nobody to lose to"


@pytest.mark.parametrize("lengths", [[2, EPOCHS], [EPOCHS, 2]])
def test_where_epochs_are_tuned_the_rungs_do_not_depend_on_who_came_first(lengths: list[int]) -> None:
    plan = planned(**{**ASHA, "training": {"epochs": {"grid": lengths}}, "tasks": ASHA["tasks"][:1]})
    trials = sorted(plan.planned(), key=lambda t: lengths.index(t.recipe["training"]["epochs"]))
    halving = Halving(plan.sweep.scheduler)
    long = [t for t in trials if t.recipe["training"]["epochs"] == EPOCHS]
    for trial in trials:
        if trial not in long:
            halved(halving, trial, [0.5, 0.5])
    reached = [halved(halving, t, [1.0, 1.0, *[-float(i)] * (EPOCHS - 2)]) for i, t in enumerate(long)]
    assert reached == [EPOCHS, *[3] * (len(long) - 1)]


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_after_a_restart_the_same_trials_are_stopped(paths: ResultPaths, cut: int) -> None:
    """The records of an earlier run fill the rungs again."""
    plan = planned(**ASHA)
    made = curves(plan)

    def ran(halving: Halving) -> Ends:
        def how(trial: Trial) -> Record:
            curve = made[trial.trial_id][1] if trial.phase == "tune" else [0.5] * EPOCHS
            reached = halved(halving, trial, curve)
            metric = "percent" if trial.task == "hundred" else "accuracy"
            ended = record(trial, curve[reached - 1], "finished" if reached == EPOCHS else "stopped", metric)
            ended["curve"] = [
                {"epoch": float(e), "step": e, "validation": {metric: curve[e - 1]}}
                for e in range(1, reached + 1)
            ]
            return ended

        return how

    def statuses(where: ResultPaths) -> dict[str, tuple[str, int]]:
        found = {}
        for path in where.trials.glob("*.json"):
            kept = read_record(path)
            assert kept is not None
            found[path.stem] = kept["status"], len(kept["curve"])
        return found

    whole = ResultPaths(paths.root.parent / "whole")
    run(plan, whole, ran(Halving(plan.sweep.scheduler)))
    first = Run(plan, paths, ran(Halving(plan.sweep.scheduler)))
    for _ in range(cut):
        first.step()
    second = Halving(plan.sweep.scheduler)
    resumed = Run(plan, paths, ran(second))
    resumed.campaign = Campaign(plan, paths, lambda event: None, second.replay)
    resumed.to_the_end()
    assert statuses(paths) == statuses(whole)
    assert {"stopped", "finished"} == {status for status, _ in statuses(whole).values()}
