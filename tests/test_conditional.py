"""A hyper-parameter that is there only where an option is chosen, from the sweep file to the report."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import records, start, wait_for
from rich.console import Console
from test_plan import ids as planned_ids
from test_plan import only, planned
from test_report import drawn, table, tuned
from test_search import finished, study
from test_spec import ids, load, mistakes
from test_tensorboard import backend

from harness import console, document, space, spec
from harness.analysis.cells import Configuration
from harness.analysis.importance import importances
from harness.analysis.study import load_study
from harness.cli import main
from harness.errors import InputError
from harness.outline import as_dict, count
from harness.plan import hyperparameters, make_plan
from harness.published import search_space
from harness.recipe import default_of
from harness.records.paths import ResultPaths
from harness.search.base import SearchSpace
from harness.search.optuna import Optuna
from harness.tuning.recorded import asked_for
from harness.tuning.replay import recorded_sweep, replays

L2SP = {"name": "l2-sp", "strength": {"grid": [0.1, 1.0]}}
REGULARIZER: dict[str, Any] = {"choice": ["none", "l2", L2SP]}
SGD = {"name": "sgd", "learning_rate": {"loguniform": [1e-3, 1.0]}, "momentum": {"choice": [0, 0.9]}}
ADAMW = {"name": "adamw", "learning_rate": {"grid": [1e-3, 4e-5]}}
OPTIMIZER: dict[str, Any] = {"choice": [SGD, ADAMW]}


def axes_of(**strategy: Any) -> SearchSpace:
    sweep = load(strategies={"s": strategy}, search={"algorithm": "random", "trials": 2})
    [entry] = sweep.strategies
    return search_space(sweep.tree(sweep.tasks[0], entry), entry)


def names(**strategy: Any) -> list[str]:
    return [".".join(path) for path in axes_of(**strategy).axes]


def default(**strategy: Any) -> dict[str, Any]:
    return hyperparameters(axes_of(**strategy).default)


# -- names ---------------------------------------------------------------------------------------


def test_an_axis_goes_by_its_place_and_by_its_option_where_several_have_one() -> None:
    assert names(regularizer=REGULARIZER) == ["regularizer", "regularizer.strength"]
    assert names(optimizer=OPTIMIZER) == [
        "optimizer", "optimizer[sgd].learning_rate", "optimizer.momentum", "optimizer[adamw].learning_rate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (["none", L2SP], ["none", "l2-sp"]),
        (["l2-sp", L2SP], ["l2-sp", "l2-sp(strength)"]),
        (
            [{**L2SP, "mode": "loss"}, {**L2SP, "mode": "decoupled"}],
            ["l2-sp(strength,mode=loss)", "l2-sp(strength,mode=decoupled)"],
        ),
        ([{"name": "l2", "strength": 3}, L2SP], ["l2", "l2-sp"]),  # one label, all labels
        (
            [{"strength": {"grid": [1]}}, {"strength": 3, "mode": {"grid": [1]}}],
            ["strength", "strength=3,mode"],
        ),
        ([0, {"uniform": [1, 2]}, {"uniform": [5, 6]}], [0, "uniform", "uniform'"]),
        ([{"x": {"grid": [1]}}, "x"], ["x'", "x"]),
        ([{}, {"x": {"grid": [1]}}], ["()", "x"]),
        ([{"name": "l2"}, {"name": "l2-sp"}], [{"name": "l2"}, {"name": "l2-sp"}]),  # none: as it always was
    ],
)
def test_an_option_is_called_by_what_tells_it_apart(options: list[Any], labels: list[Any]) -> None:
    axis = space.parse({"choice": options}, "x")
    assert axis is not None and list(axis.values) == labels
    assert axis.as_dict() == {"choice": options}


def test_options_nest_to_any_depth() -> None:
    deep = {"choice": ["none", {**L2SP, "strength": {"choice": [0, {"loguniform": [1e-3, 1.0]}]}}]}
    outer = {"choice": [{"optimizer": "sgd", "regularizer": deep}, {"regularizer": deep}]}
    found = space.spaces({"x": outer})
    assert [".".join(path) for path in found] == [
        "x",
        *(
            f"x[{option}].regularizer{rest}"
            for option in ("optimizer=sgd,regularizer", "regularizer")
            for rest in ("", ".strength", ".strength.loguniform")
        ),
    ]
    assert {axis.at for axis in found.values()} == {
        ("x",), ("x", "regularizer"), ("x", "regularizer", "strength"),
    }  # fmt: skip


# -- the published default -----------------------------------------------------------------------


def test_the_default_is_the_published_plug_in_with_its_published_settings() -> None:
    assert default(optimizer=OPTIMIZER) == {"optimizer": "adamw", "optimizer[adamw].learning_rate": 4e-5}
    assert default(regularizer={"choice": [L2SP, "l2", "none"]}) == {"regularizer": "none"}
    assert default(regularizer={"choice": [L2SP, "l2"]}) == {
        "regularizer": "l2-sp", "regularizer.strength": 0.1,
    }  # fmt: skip
    assert default(optimizer={"choice": [SGD, {"name": "adam", "beta1": {"grid": [0.9]}}]}) == {
        "optimizer": "sgd",
        "optimizer.learning_rate": 0.01,
        "optimizer.momentum": 0.9,
    }  # fmt: skip  neither is the published one


def test_what_a_ready_strategy_says_of_one_plug_in_is_not_said_of_another() -> None:
    rates = {"grid": [1e-4, 1e-3, 1e-2, 1e-1]}
    both = {"choice": [{"name": "sgd", "learning_rate": rates}, {"name": "adamw", "learning_rate": rates}]}
    [first, *_] = axes_of(use="head-only", optimizer=both).default.values()
    assert first == "adamw"
    only_sgd = {"choice": [{"name": "sgd", "learning_rate": rates}]}
    plain = default(optimizer={"choice": [{"name": "sgd", "learning_rate": rates}]})
    assert default(use="head-only", optimizer=only_sgd) == plain


def test_a_default_inside_a_range_among_the_options_stays() -> None:
    strength = {"choice": [0, {"loguniform": [1e-3, 1.0]}]}
    found = default(regularizer={"name": "l2-sp", "strength": strength})
    published = default_of({"regularizer": "l2-sp"}, ("regularizer", "strength"))
    assert found == {"regularizer.strength": "loguniform", "regularizer.strength.loguniform": published}


# -- the file ------------------------------------------------------------------------------------

WRONG = """
name: wrong
backbones: [minilm-l6]
tasks: [bbc-topics]
optimizer:
  choice:
    - {name: sgd, momentum: {uniform: [0.5, 7]}}
strategies:
  s:
    regularizer:
      choice:
        - none
        - {name: l2, strength: {grid: [1, -1]}}
        - name: l2-sp
          mode: lossy
          strength: {loguniform: [1, 0]}
        - {name: l3, strength: {grid: [1]}}
        - {name: l2, stength: 3, strength: {grid: []}}
        - name: l2
          strength: {choice: [{uniform: [3, 2]}, 1]}
    training: {epochs: {choice: [{each: [1, 2]}, 3]}}
search: {algorithm: random, trials: 3}
"""


def test_every_mistake_is_told_inside_the_option_that_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    with pytest.raises(InputError) as caught:
        spec.load(path)
    lines = {m.place.partition(": ")[0].rpartition(":")[2]: m for m in caught.value.mistakes}
    told = {m.place.partition(": ")[2]: m.reason for m in caught.value.mistakes}
    inside = "strategies.s.regularizer.choice"
    assert set(told) == {
        "optimizer.choice.0.momentum",
        f"{inside}.1.strength",
        f"{inside}.2.mode",
        f"{inside}.2.strength.loguniform",
        f"{inside}.3.name",
        f"{inside}.4.stength",
        f"{inside}.4.strength.grid",
        f"{inside}.5.strength.choice.0.uniform",
        "strategies.s.training.epochs.choice.0",
    }
    assert set(lines) == {"7", "13", "15", "16", "17", "18", "20", "21"}
    assert "cannot stand in a space" in told["strategies.s.training.epochs.choice.0"]
    assert "is empty" in told[f"{inside}.4.strength.grid"]


def test_axes_of_one_option_are_looked_at_together() -> None:
    either = {"name": {"grid": ["sgd", "adam"]}, "momentum": {"grid": [0.5, 0.9]}}
    assert list(mistakes(optimizer={"choice": ["adamw", either]})) == ["optimizer.choice.1.momentum"]


def test_a_value_inside_an_option_can_be_set_from_the_command_line() -> None:
    sweep = load(
        "regularizer.choice.2.strength.grid=[5]", "regularizer.choice.l2.strength.grid=[7, 8]",
        regularizer=REGULARIZER,
    )  # fmt: skip
    [entry] = sweep.strategies
    found = space.spaces(sweep.tree(None, entry))
    assert {".".join(path): axis.values for path, axis in found.items()} == {
        "regularizer": ("none", "l2", "l2-sp"),
        "regularizer[l2].strength": (7, 8),
        "regularizer[l2-sp].strength": (5,),
    }


def test_the_resolved_file_is_the_same_sweep() -> None:
    changes: dict[str, Any] = {
        "regularizer": REGULARIZER,
        "strategies": {"a": {"optimizer": OPTIMIZER}, "b": {"freeze": {"each": [0, 3]}}},
        "search": {"algorithm": "random", "trials": 9},
    }
    first = load(**changes)
    again = spec.from_document(document.read(document.dump(spec.resolved(first)), "f"), [])
    assert spec.resolved(again) == spec.resolved(first)
    assert ids(again) == ids(first)


def test_each_over_options_that_hold_spaces_makes_strategies_whose_spaces_are_tuned() -> None:
    plan = planned(strategies={"s": {"regularizer": {"each": ["none", L2SP, {"choice": ["l2", L2SP]}]}}})
    assert [cell.budget for cell in plan.cells] == [1, 2, 3]
    assert [list(map(".".join, cell.space.axes)) for cell in plan.cells] == [
        [], ["regularizer.strength"], ["regularizer", "regularizer.strength"],
    ]  # fmt: skip


def test_a_source_takes_no_options() -> None:
    source = {"task": "tweet-sentiment", "regularizer": REGULARIZER}
    found = mistakes(backbones=[{"name": "m", "use": "minilm-l6", "source": source}])
    assert any("one value" in reason for reason in found.values())


# -- the plan ------------------------------------------------------------------------------------


def test_a_grid_takes_the_product_of_the_axes_that_are_there() -> None:
    plan = planned(strategies={"s": {"regularizer": REGULARIZER, "training": {"epochs": {"grid": [3, 5]}}}})
    [cell] = plan.cells
    assert [tuple(hyperparameters(values).values()) for values in cell.configurations or []] == [
        ("none", 3), ("none", 5), ("l2", 3), ("l2", 5),
        ("l2-sp", 0.1, 3), ("l2-sp", 0.1, 5), ("l2-sp", 1.0, 3), ("l2-sp", 1.0, 5),
    ]  # fmt: skip
    assert cell.budget == cell.space.size == count(plan)["tune"] == 8


def test_a_chosen_option_trains_as_if_it_were_written_out() -> None:
    plan = planned(strategies={"s": {"regularizer": REGULARIZER, "optimizer": {"grid": ["sgd", ADAMW]}}})
    wanted = {
        only(regularizer=regularizer, optimizer=optimizer).trial_id
        for regularizer in ("none", "l2", {**L2SP, "strength": 0.1}, {**L2SP, "strength": 1.0})
        for optimizer in ("sgd", *({"name": "adamw", "learning_rate": rate} for rate in (1e-3, 4e-5)))
    }
    assert planned_ids(plan) == wanted and len(wanted) == 12


def test_options_that_train_the_same_way_are_one_trial() -> None:
    none = {"name": "l2-sp", "strength": {"grid": [0, 1]}}
    [cell] = planned(strategies={"s": {"regularizer": {"choice": ["none", none]}}}).cells
    assert (cell.budget, cell.repeated) == (2, 1)


def test_trials_evens_out_nested_spaces_too() -> None:
    plan = planned(
        strategies={"a": {"regularizer": REGULARIZER}, "b": {"optimizer": ADAMW}}, search={"trials": 2}
    )
    assert [cell.budget for cell in plan.cells] == [2, 2]
    assert all(cell.configurations and cell.configurations[0] == cell.space.default for cell in plan.cells)


def test_a_search_that_cannot_serve_what_an_option_holds_says_so() -> None:
    assert "continuous" in mistakes(search=None, optimizer=OPTIMIZER)["strategies.full"]
    many = {"choice": [{"epochs": 1}, {"batch_size": {"int": [1, 10**6]}}]}
    assert "1000001 configurations" in mistakes(search=None, training=many)["strategies.full"]


def test_the_plan_says_when_an_axis_is_there() -> None:
    plan = planned(strategies={"s": {"optimizer": OPTIMIZER}}, search={"algorithm": "random", "trials": 4})
    [cell] = json.loads(json.dumps(as_dict(plan)))["cells"]
    assert cell["space"] == {
        "optimizer": {"choice": ["sgd", "adamw"]},
        "optimizer[sgd].learning_rate": {"loguniform": [1e-3, 1.0], "when": {"optimizer": "sgd"}},
        "optimizer.momentum": {"choice": [0, 0.9], "when": {"optimizer": "sgd"}},
        "optimizer[adamw].learning_rate": {"grid": [1e-3, 4e-5], "when": {"optimizer": "adamw"}},
    }
    assert cell["default"] == {"optimizer": "adamw", "optimizer[adamw].learning_rate": 4e-5}
    shown = io.StringIO()
    console.show_plan(Console(file=shown, width=400), plan, None, 1.0)
    assert "optimizer.momentum choice [0, 0.9] if optimizer=sgd" in shown.getvalue()


def test_values_of_another_space_are_not_taken_for_this_one() -> None:
    plan = planned(strategies={"s": {"regularizer": REGULARIZER}})
    [cell] = plan.cells
    for trial in plan.planned():
        assert hyperparameters(cell.values_of(trial.hyperparameters)) == trial.hyperparameters
    for other in ({"regularizer": "l2-sp"}, {"regularizer": "l3"}, {}):
        with pytest.raises(KeyError):
            cell.values_of(other)


# -- searching -----------------------------------------------------------------------------------


BRANCHES = axes_of(optimizer=OPTIMIZER, regularizer=REGULARIZER)


def open_(search: Optuna, folder: Path, cell: str = "c") -> Any:
    return search.open(BRANCHES, cell, True, folder)


@pytest.mark.slow
def test_optuna_is_asked_for_nothing_but_the_axes_of_the_chosen_options(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And it models each branch: it warns where a value comes from a sampler that knows nothing of others."""
    asker, asked = open_(Optuna(trials=22, seed=1), tmp_path), []
    optuna.logging.enable_propagation()
    try:
        while (values := asker.ask()) is not None:
            asked.append(hyperparameters(values))
            asker.tell(values, finished(float(values["optimizer",] == "sgd")))
    finally:
        optuna.logging.disable_propagation()
    assert not [r for r in caplog.records if "independent" in r.getMessage()]
    assert [trial.params for trial in study(tmp_path, "c").trials] == asked
    for found in asked:
        own = {"optimizer[sgd].learning_rate", "optimizer.momentum"}
        assert (own & found.keys()) == (own if found["optimizer"] == "sgd" else set())
        assert ("optimizer[adamw].learning_rate" in found) == (found["optimizer"] == "adamw")
        assert ("regularizer.strength" in found) == (found["regularizer"] == "l2-sp")
    assert {found["optimizer"] for found in asked} == {"sgd", "adamw"}
    late = [found["optimizer"] for found in asked[11:]]
    assert late.count("sgd") > len(late) / 2, "it has learnt which branch is better"


@pytest.mark.parametrize("given", [1, 2, 3])
def test_a_kill_between_the_choice_and_what_hangs_on_it_costs_no_trial(tmp_path: Path, given: int) -> None:
    open_(Optuna(trials=3), tmp_path).ask()
    half = study(tmp_path, "c").ask()
    suggest = [
        lambda: half.suggest_categorical("optimizer", ["sgd", "adamw"]),
        lambda: (
            half.suggest_float("optimizer[sgd].learning_rate", 1e-3, 1.0, log=True)
            if half.params["optimizer"] == "sgd"
            else half.suggest_categorical("optimizer[adamw].learning_rate", [1e-3, 4e-5])
        ),
        lambda: half.suggest_categorical("regularizer", ["none", "l2", "l2-sp"]),
    ]
    for one in suggest[:given]:
        one()
    asker = open_(Optuna(trials=3), tmp_path)
    after = [hyperparameters(values) for values in iter(asker.ask, None)]
    assert len(after) == 3
    assert half.params.items() <= after[1].items()


def test_another_setting_inside_an_option_is_another_study(tmp_path: Path) -> None:
    """What the option is called stays, but not what it trains."""
    for decay in (0.0, 0.1):
        space_ = axes_of(optimizer={"choice": [{**SGD, "weight_decay": decay}, ADAMW]})
        Optuna(trials=2).open(space_, "c", True, tmp_path).ask()
    names_ = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'optuna.db'}")
    assert len(names_) == 2


# -- what is made of the results -----------------------------------------------------------------


def settings_(count_: int) -> list[dict[str, Any]]:
    """So many settings over three optimisers, two of which have axes of their own."""
    rng = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for index in range(count_):
        decay = {"decay": float(rng.random())}
        rate = float(10 ** rng.uniform(-3, 0))
        found.append([
            {"optimizer": "sgd", "optimizer[sgd].rate": rate, **decay},
            {"optimizer": "adam", "optimizer[adam].rate": rate, **decay},
            {"optimizer": "plain", **decay},
        ][index % 3])  # fmt: skip
    return found


def test_responses_are_drawn_for_the_settings_that_have_the_axis(tmp_path: Path) -> None:
    study_ = tuned(tmp_path, [(setting, 0.5 + i / 100, 1.0) for i, setting in enumerate(settings_(12))])
    figures = drawn("responses", study_)
    shown = {row["strategy"]: figure for figure in figures for row in table(figure)}
    assert set(shown) == {"a (optimizer=sgd)", "a (optimizer=adam)", "a (optimizer=plain)"}
    assert "against decay and optimizer[sgd].rate" in shown["a (optimizer=sgd)"].caption
    assert "against decay, means" in shown["a (optimizer=plain)"].caption
    assert {label: len(table(figure)) for label, figure in shown.items()} == dict.fromkeys(shown, 4)


def test_importance_compares_axes_only_where_they_are(tmp_path: Path) -> None:
    space_ = {
        "optimizer": {"choice": ["sgd", "adam", "plain"]},
        "optimizer[sgd].rate": {"loguniform": [1e-3, 1], "when": {"optimizer": "sgd"}},
        "optimizer[adam].rate": {"loguniform": [1e-3, 1], "when": {"optimizer": "adam"}},
        "decay": {"uniform": [0, 1]},
    }
    configurations = [
        Configuration(s, np.log10(s.get("optimizer[sgd].rate", 1)) + 5 * (s["optimizer"] == "adam"), {})
        for s in settings_(60)
    ]
    whole, sgd, adam = [*importances(space_, configurations, 1), None][:3]
    assert whole is not None and sgd is not None and adam is None  # all score alike with adam
    assert (whole.configurations, whole.where) == (60, {})
    assert set(whole.share) == {"optimizer", "decay"} and whole.share["optimizer"] > 0.8
    assert set(whole.left_out) == {"optimizer[sgd].rate", "optimizer[adam].rate"}
    assert (sgd.configurations, sgd.where, sgd.left_out) == (20, {"optimizer": "sgd"}, ())
    assert set(sgd.share) == {"optimizer[sgd].rate", "decay"} and sgd.share["optimizer[sgd].rate"] > 0.8
    one = [c for c in configurations if c.hyperparameters["optimizer"] == "sgd"]
    assert [found.where for found in importances(space_, one, 1)] == [{}], "nothing is said twice"


# -- a sweep -------------------------------------------------------------------------------------

SWEEP: dict[str, Any] = {
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    "regularizer": {"choice": ["none", "l2", {"name": "l2-sp", "strength": {"loguniform": [1e-3, 1.0]}}]},
    "training": {"epochs": 1, "batch_size": 16, "max_length": 16},
    "strategies": {"full": {"freeze": 0}},
    "baseline": None,
    "search": {"algorithm": "optuna", "trials": 7, "seed": 2},
    "seeds": {"tune": 1, "confirm": 3},
}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_optuna_sweep_is_killed_in_the_middle_and_carries_on(sweep: Any, tmp_path: Path) -> None:
    path = sweep(**SWEEP)
    folder = tmp_path / "out" / "small"
    process = start(path, tmp_path / "out", "--local")
    wait_for(process, folder, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = records(folder)
    assert 3 <= len(before) < 10, "killed too late to show anything"
    assert main(["run", str(path), "--results", str(tmp_path / "out"), "--local"]) == 0
    after = records(folder)
    assert {trial_id: after[trial_id] for trial_id in before} == before

    [cell] = [json.loads(file.read_text()) for file in (folder / "cells").glob("*.json")]
    assert (len(cell["tune"]), len(cell["confirm"]), cell["state"]) == (7, 3, "done")
    tuned_ = [entry["hyperparameters"] for entry in cell["tune"]]
    assert tuned_[0] == {"regularizer": "none"}
    assert {"none", "l2-sp"} <= {found["regularizer"] for found in tuned_}
    assert all(("regularizer.strength" in found) == (found["regularizer"] == "l2-sp") for found in tuned_)
    for entry in cell["tune"]:
        record = after[entry["trial_id"]]
        assert record["hyperparameters"] == entry["hyperparameters"]
        chosen, trained = entry["hyperparameters"], record["recipe"].get("regularizer", {"name": "none"})
        assert trained["name"] == chosen["regularizer"]
        assert "regularizer.strength" not in chosen or trained["strength"] == chosen["regularizer.strength"]
    [name] = optuna.get_all_study_names(f"sqlite:///{folder / 'optuna.db'}")
    held = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'optuna.db'}").trials
    assert [trial.params for trial in held] == tuned_
    assert [trial.state.name for trial in held] == ["COMPLETE"] * 7

    paths = ResultPaths(folder)
    found = load_study(paths)
    tried = [*tuned_, *[cell["winner"]] * 3]
    assert found.frame["hp.regularizer.strength"].notna().sum() == sum(
        "regularizer.strength" in t for t in tried
    )
    assert "regularizer=l2-sp, regularizer.strength=" in (folder / "report.md").read_text()
    shows_hparams(folder, after)
    again = spec.load(paths.sweep)
    [strategy] = again.strategies
    assert list(search_space(again.tree(again.tasks[0], strategy), strategy).axes) == [
        ("regularizer",), ("regularizer", "strength"),
    ]  # fmt: skip
    assert main(["run", str(path), "--results", str(tmp_path / "out"), "--local"]) == 0
    assert records(folder) == after, "nothing is left to do"


def shows_hparams(folder: Path, made: dict[str, dict[str, Any]]) -> None:
    """TensorBoard's table has a column for every axis, and leaves it empty where a trial has none."""
    from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups

    _, hparams, request = backend(folder / "tb")
    experiment = get_experiment.Handler(request, hparams, "", api_pb2.GetExperimentRequest()).run()
    columns = {info.name for info in experiment.hparam_infos}
    assert {"regularizer", "regularizer.strength"} <= columns
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING],
        col_params=[api_pb2.ColParams(hparam=name) for name in ("regularizer", "regularizer.strength")],
    )
    groups = list_session_groups.Handler(request, hparams, "", asked).run().session_groups
    shown = [
        (
            group.hparams["phase"].string_value,
            group.hparams["regularizer"].string_value,
            group.hparams["regularizer.strength"].number_value or None,
        )
        for group in groups
    ]
    wanted = {
        (r["phase"], r["hyperparameters"]["regularizer"], r["hyperparameters"].get("regularizer.strength"))
        for r in made.values()
    }
    assert set(shown) == wanted
    assert len(shown) == len(wanted)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_grid_of_options_is_run_reported_replayed_and_remembered(sweep: Any, tmp_path: Path) -> None:
    options = {"choice": [{"name": "sgd", "learning_rate": {"grid": [0.1, 0.01]}}, "adamw"]}
    strategies = {"full": {"freeze": 0, "optimizer": options}}
    path = sweep(**{**SWEEP, "strategies": strategies, "regularizer": None, "search": "grid"})
    given = ["--results", str(tmp_path / "out")]
    assert main(["run", str(path), *given, "--local"]) == 0
    paths = ResultPaths(tmp_path / "out" / "small")
    assert all(run.same for run in replays(paths, [], 2).runs)
    assert main(["report", str(paths.root)]) == 0
    assert "optimizer=sgd, optimizer.learning_rate=0.01" in (paths.root / "report.md").read_text()
    plan = recorded_sweep(paths, [])
    [cell] = plan.cells
    assert asked_for(plan, paths, cell) == cell.configurations
    # one more optimiser with a rate: `optimizer.learning_rate` is now `optimizer[sgd].learning_rate`
    more = ["strategies.full.optimizer.choice.adamw.learning_rate.grid=[0.001, 0.0005]"]
    plan = make_plan(spec.load(paths.sweep, more), plan.prepared)
    assert [hyperparameters(v) for v in asked_for(plan, paths, plan.cells[0])] == []
