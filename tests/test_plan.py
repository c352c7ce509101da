"""The plan: what a trial's id depends on, what is merged, and what a sweep costs."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import document, spec
from harness.errors import InputError
from harness.outline import as_dict, count, notes, predicted
from harness.plan import Plan, Trial, digest, make_plan
from harness.prepare import ModelFacts, Prepared
from harness.recipe import parse
from harness.tasks.base import Facts

RUNGS = 7
BASE: dict[str, Any] = {
    "name": "small",
    "tasks": [{"name": "one", "use": "bbc-topics"}],
    "backbones": [{"name": "small", "use": "minilm-l6"}],
    "strategies": {"full": {"freeze": 0}},
    "seeds": {"tune": 1, "confirm": 3},
}


def planned(data: str = "data", weights: str = "weights", **changes: Any) -> Plan:
    """The plan of a sweep on made-up facts: every task has the same data, every backbone the same weights."""
    content = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    sweep = spec.from_document(document.read(document.dump(content), "f.yaml"), [])
    facts = Facts({"train": 640, "validation": 32, "test": 64}, ["a", "b"], data)
    model = ModelFacts(
        "bert", [f"r{i}" for i in range(RUNGS)], [10] * (RUNGS + 1), [5.0] * (RUNGS + 1), weights
    )
    models = {(task.name, backbone.name): model for task in sweep.tasks for backbone in sweep.backbones}
    return make_plan(sweep, Prepared({task.name: facts for task in sweep.tasks}, models))


def trials(plan: Plan) -> list[Trial]:
    return list(plan.planned())


def ids(plan: Plan) -> set[str]:
    return {trial.trial_id for trial in trials(plan)}


def only(**strategy: Any) -> Trial:
    """The one trial of a sweep with one strategy without spaces."""
    [trial] = trials(planned(strategies={"s": strategy}))
    return trial


# -- what an id depends on -----------------------------------------------------------------------

LR = st.floats(1e-6, 1.0)
STRATEGIES = st.fixed_dictionaries(
    {},
    optional={
        "freeze": st.integers(0, RUNGS) | st.floats(0, 1) | st.just("all"),
        "optimizer": st.fixed_dictionaries(
            {"name": st.sampled_from(["adamw", "adam", "sgd"])},
            optional={"learning_rate": LR, "weight_decay": st.floats(0, 1), "head_multiplier": LR},
        ),
        "regularizer": st.none()
        | st.fixed_dictionaries(
            {"name": st.sampled_from(["l2", "l2-sp"])},
            optional={"strength": st.floats(0, 10), "mode": st.sampled_from(["loss", "decoupled"])},
        ),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 9), "batch_size": st.integers(1, 64), "warmup": st.floats(0, 1),
                "clip": st.none() | st.floats(0.1, 9), "schedule": st.sampled_from(["linear", "cosine"]),
            },
        ),
    },
)  # fmt: skip
PURE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def backwards(tree: Any) -> Any:
    return {k: backwards(v) for k, v in reversed(tree.items())} if isinstance(tree, dict) else tree


@PURE
@given(STRATEGIES)
def test_the_order_of_settings_does_not_matter(strategy: dict[str, Any]) -> None:
    assert only(**strategy).trial_id == only(**backwards(strategy)).trial_id


@PURE
@given(STRATEGIES, STRATEGIES)
def test_names_and_what_else_is_in_the_sweep_do_not_matter(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    crowded = planned(
        name="another",
        tasks=[{"name": "before", "use": "tweet-sentiment"}, {"name": "renamed", "use": "bbc-topics"}],
        backbones=[{"name": "elsewhere", "path": "some/model"}, {"name": "renamed", "use": "minilm-l6"}],
        strategies={"other": other, "renamed": one},
        baseline="other",
        seeds={"tune": 2, "confirm": 0},
        resources={"cpus": 2},
    )
    assert only(**one).trial_id in ids(crowded)


@PURE
@given(STRATEGIES)
def test_spelling_out_the_defaults_changes_nothing(strategy: dict[str, Any]) -> None:
    recipe = parse(strategy, "s").as_dict()
    assert only(**recipe).trial_id == only(**strategy).trial_id


@PURE
@given(STRATEGIES)
def test_a_trial_carries_a_recipe_that_is_its_own_canonical_form(strategy: dict[str, Any]) -> None:
    """A worker parses it back; a second round must not find anything left to simplify."""
    trial = only(**strategy)
    made = parse(json.loads(json.dumps(trial.recipe)), "s")
    assert made.as_dict() == trial.recipe
    assert made.canonical(RUNGS) == made


RECIPE = parse(
    {"freeze": 2, "optimizer": {"name": "sgd"}, "regularizer": {"name": "l2-sp", "head_strength": 0.5}}, "s"
).as_dict()
OTHER_VALUES: dict[tuple[str, ...], Any] = {
    ("freeze",): 3,
    ("optimizer", "learning_rate"): 0.5, ("optimizer", "head_multiplier"): 2.0,
    ("optimizer", "weight_decay"): 0.5, ("optimizer", "momentum"): 0.5, ("optimizer", "nesterov"): True,
    ("regularizer", "strength"): 0.7, ("regularizer", "mode"): "decoupled",
    ("regularizer", "head_strength"): 0.7,
    ("training", "epochs"): 4, ("training", "batch_size"): 8, ("training", "accumulation"): 2,
    ("training", "evaluation_batch_size"): 32, ("training", "max_length"): 64, ("training", "warmup"): 0.2,
    ("training", "schedule"): "cosine", ("training", "clip"): None, ("training", "precision"): "bf16",
    ("training", "bucketing"): True, ("training", "evaluate_every"): 5, ("training", "patience"): 2,
    ("training", "keep"): "last",
}  # fmt: skip


def test_every_setting_of_a_recipe_is_looked_at_below() -> None:
    settings_ = {
        (section, key) if isinstance(node, dict) else (section,)
        for section, node in RECIPE.items()
        for key in (node if isinstance(node, dict) else [""])
    }
    assert settings_ - {("optimizer", "name"), ("regularizer", "name")} == set(OTHER_VALUES)


@pytest.mark.parametrize("path", list(OTHER_VALUES), ids=".".join)
def test_an_id_depends_on_every_setting_of_the_recipe(path: tuple[str, ...]) -> None:
    changed = json.loads(json.dumps(RECIPE))
    if len(path) == 1:
        changed[path[0]] = OTHER_VALUES[path]
    else:
        changed[path[0]][path[1]] = OTHER_VALUES[path]
    assert only(**changed).trial_id != only(**RECIPE).trial_id


def test_an_id_depends_on_data_weights_seed_and_phase() -> None:
    plan = planned()
    [cell] = plan.cells
    made = [
        *trials(plan),
        *trials(planned(data="other")),
        *trials(planned(weights="other")),
        plan.trial(cell, {}, 1, "tune"),
        plan.trial(cell, {}, 0, "confirm"),
        plan.trial(cell, {}, 1, "confirm"),
    ]
    assert len({trial.trial_id for trial in made}) == len(made)


def test_an_id_depends_on_what_the_task_makes_of_its_data() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"metrics": ["f1"]},
        {"metrics": ["accuracy", "f1"]},
        {"primary": "f1"},
    ]
    made = [ids(planned(tasks=[{"use": "bbc-topics", **change}])) for change in changes]
    assert len(set.union(*made)) == len(changes)


def test_an_id_does_not_depend_on_how_the_data_got_there() -> None:
    """Sizes and places are in the content's fingerprint; a delta decides no result."""
    for change in ({"train_size": 9}, {"delta": 0.5}):
        assert ids(planned(tasks=[{"use": "bbc-topics", **change}])) == ids(planned())


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False))
)
def test_a_digest_does_not_depend_on_the_order_of_keys(tree: dict[str, Any]) -> None:
    assert digest(tree) == digest(backwards(tree))


# -- same thing, same trial ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"freeze": 0}, {}),
        ({"freeze": 0.0}, {}),
        ({"freeze": 0.05}, {}),  # rounds to no rung
        ({"freeze": 1.0}, {"freeze": "all"}),
        ({"freeze": RUNGS}, {"freeze": "all"}),
        ({"freeze": 0.5}, {"freeze": 4}),  # half of seven, rounded half up
        ({"regularizer": {"name": "l2", "strength": 0}}, {}),
        ({"regularizer": {"name": "l2-sp", "strength": 0.0}}, {}),
        ({"regularizer": "none"}, {}),
        ({"regularizer": None}, {}),
        ({"regularizer": {"name": "l2-sp", "strength": 3}, "freeze": "all"}, {"freeze": "all"}),
        ({"regularizer": {"name": "l2-sp", "strength": 3}, "freeze": RUNGS}, {"freeze": 1.0}),
        (
            {"regularizer": {"name": "l2-sp", "strength": 3, "head_strength": 1}, "freeze": "all"},
            {"regularizer": {"name": "l2-sp", "strength": 0, "head_strength": 1}, "freeze": "all"},
        ),
        ({"optimizer": "adamw"}, {}),
        ({"optimizer": {"learning_rate": 1}}, {"optimizer": {"name": "adamw", "learning_rate": 1.0}}),
        ({"use": "full"}, {}),
    ],
)
def test_what_trains_the_same_way_is_one_trial(one: Any, other: Any) -> None:
    assert only(**one).trial_id == only(**other).trial_id
    plan = planned(strategies={"a": one, "b": other})
    assert plan.merged == {only(**one).trial_id: tuple(cell.id for cell in plan.cells)}
    assert count(plan)["tune"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"freeze": 1}, {"freeze": 1.0}),
        ({"freeze": RUNGS - 1}, {"freeze": "all"}),
        ({"regularizer": {"name": "l2-sp", "strength": 1}, "freeze": RUNGS - 1}, {"freeze": RUNGS - 1}),
        ({"regularizer": {"name": "l2", "strength": 1}, "freeze": "all"}, {"freeze": "all"}),
        ({"regularizer": {"name": "l2-sp", "head_strength": 1}, "freeze": "all"}, {"freeze": "all"}),
        ({"regularizer": {"name": "l2", "strength": 1}}, {"regularizer": {"name": "l2-sp", "strength": 1}}),
    ],
)
def test_what_trains_in_another_way_is_another_trial(one: Any, other: Any) -> None:
    assert only(**one).trial_id != only(**other).trial_id
    assert planned(strategies={"a": one, "b": other}).merged == {}


def test_a_configuration_equal_to_an_earlier_one_of_its_cell_is_not_tried_again() -> None:
    plan = planned(
        strategies={
            "s": {
                "freeze": {"grid": ["all", 6]},
                "regularizer": {"name": "l2-sp", "strength": {"grid": [0, 1, 10]}},
            }
        }
    )
    [cell] = plan.cells
    assert (cell.budget, cell.repeated) == (4, 2)  # λ makes no difference to a frozen ladder
    assert len(trials(plan)) == len(ids(plan)) == 4


def test_only_cells_on_the_same_data_and_weights_share() -> None:
    plan = planned(
        strategies={"a": {"freeze": 0}, "b": {"freeze": 0.0}}, tasks=["bbc-topics", "tweet-sentiment"]
    )
    assert len(plan.merged) == 2
    cells = {cell.id: cell for cell in plan.cells}
    for shared in plan.merged.values():
        assert {cells[cell].strategy for cell in shared} == {"a", "b"}
        assert len({cells[cell].task for cell in shared}) == 1


# -- counts and budgets --------------------------------------------------------------------------

GRID = {
    "optimizer": {"learning_rate": {"grid": [2e-5, 1e-4, 1e-3]}},
    "strategies": {
        "plain": {"freeze": 0},
        "l2sp": {"freeze": 0, "regularizer": {"name": "l2-sp", "strength": {"grid": [0.1, 1.0]}}},
    },
}


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("trials_", [None, 1, 2, 5, 100])
def test_cells_times_budget_times_seeds_is_what_is_planned(seeds: int, trials_: int | None) -> None:
    plan = planned(
        **GRID,
        tasks=["bbc-topics", "tweet-sentiment"],
        seeds={"tune": seeds, "confirm": 4},
        search={"algorithm": "grid", **({"trials": trials_} if trials_ else {})},
    )
    by_cell = Counter(trial.cell for trial in trials(plan))
    assert by_cell == {cell.id: cell.budget * seeds for cell in plan.cells}
    assert count(plan) == {"source": 0, "tune": len(ids(plan)), "confirm": 4 * len(plan.cells)}
    sizes = {"plain": 3, "l2sp": 6}
    assert all(cell.budget == min(trials_ or 100, sizes[cell.strategy]) for cell in plan.cells)


def test_trials_equalises_budgets_and_the_plan_says_when_they_differ() -> None:
    unequal, equal = planned(**GRID), planned(**GRID, search={"trials": 3})
    assert {cell.budget for cell in unequal.cells} == {3, 6}
    assert {cell.budget for cell in equal.cells} == {3}
    assert any("different tuning budgets" in note for note in notes(unequal))
    assert not any("different tuning budgets" in note for note in notes(equal))


@pytest.mark.parametrize("search", [{}, {"trials": 2}, {"algorithm": "random", "trials": 4, "seed": 5}])
def test_the_default_configuration_is_the_first_of_every_cell(search: Any) -> None:
    plan = planned(
        strategies={
            "full": {
                "freeze": {"grid": [3, 0]},
                "optimizer": {"learning_rate": {"grid": [1e-2, 1e-3, 3e-5]}},
            },
            "sgd": {"optimizer": {"name": "sgd", "learning_rate": {"grid": [1.0, 0.02]}}},
        },
        search=search,
    )
    full, sgd = plan.cells
    assert full.configurations is not None and sgd.configurations is not None
    assert full.configurations[0] == {("freeze",): 0, ("optimizer", "learning_rate"): 3e-5}
    assert sgd.configurations[0] == {("optimizer", "learning_rate"): 0.02}
    assert full.configurations[0] == full.space.default


def test_an_open_search_has_a_budget_and_no_list() -> None:
    plan = planned(**GRID, search={"algorithm": "optuna", "trials": 4})
    assert [cell.configurations for cell in plan.cells] == [None, None]
    assert [cell.budget for cell in plan.cells] == [3, 4]  # a smaller space is used up
    assert trials(plan) == []
    assert count(plan) == {"source": 0, "tune": 7, "confirm": 6}
    assert any("decides as it goes" in note for note in notes(plan))


def test_confirm_seeds_are_fresh_and_shared_by_all_strategies() -> None:
    plan = planned(**GRID, seeds={"tune": 1000, "confirm": 1000}, search={"trials": 1})
    assert not set(plan.tune_seeds) & set(plan.confirm_seeds)
    assert (len(plan.tune_seeds), len(plan.confirm_seeds)) == (1000, 1000)


def test_more_confirm_seeds_keep_the_ones_there_were() -> None:
    few, many = planned(seeds={"confirm": 3}), planned(seeds={"confirm": 5, "tune": 4})
    assert list(many.confirm_seeds)[:3] == list(few.confirm_seeds)


# -- growing a sweep -----------------------------------------------------------------------------

GROWN: dict[str, dict[str, Any]] = {
    "a value": {"optimizer": {"learning_rate": {"grid": [1e-2, 2e-5, 1e-4, 1e-3]}}},
    "another axis's default made explicit": {"training": {"epochs": {"grid": [3, 5]}}},
    "tune seeds": {"seeds": {"tune": 3, "confirm": 3}},
    "confirm seeds": {"seeds": {"tune": 1, "confirm": 9}},
    "a strategy": {"strategies": {"new": {"freeze": 3}, **GRID["strategies"]}},
    "a task": {"tasks": ["tweet-sentiment", "bbc-topics"]},
    "a backbone": {"backbones": ["some/model", "minilm-l6"]},
    "names and resources": {"name": "x", "baseline": "plain", "resources": {"cpus": 0.5}, "search": "grid"},
}


@pytest.mark.parametrize("what", list(GROWN))
def test_growing_a_sweep_leaves_its_trials_as_they_were(what: str) -> None:
    """So that running it again runs only what is new."""
    assert ids(planned(**GRID)) <= ids(planned(**{**GRID, **GROWN[what]}))


def test_the_grid_of_the_design_is_one_short_file() -> None:
    """task × depth × learning rate × λ, at two seeds."""
    text = """
name: grid
tasks: [bbc-topics, tweet-sentiment]
backbones: [minilm-l6]
optimizer: {learning_rate: {grid: [2e-5, 1e-4, 5e-4]}}
regularizer: {name: l2-sp, strength: {grid: [0, 1e-2, 1e-1]}}
strategies:
  depth: {freeze: {each: [0, 3, 6, all]}}
seeds: {tune: 2, confirm: 5}
"""
    plan = planned(**document.read(text, "f").content)
    assert len(plan.cells) == 2 * 4
    assert {trial.hyperparameters["regularizer.strength"] for trial in trials(plan)} == {0, 1e-2, 1e-1}
    # below `all` nothing that trains has a reference: the three λ are one
    assert count(plan)["tune"] == 2 * (3 * 3 * 3 + 3) * 2
    assert len(ids(plan)) == count(plan)["tune"]


# -- what it costs -------------------------------------------------------------------------------


def test_predicted_compute_grows_with_epochs_and_shrinks_with_depth() -> None:
    by_epochs = [only(training={"epochs": epochs}).flops for epochs in (1, 2, 5)]
    by_depth = [only(freeze=depth).flops for depth in range(RUNGS + 1)]
    assert by_epochs == sorted(set(by_epochs))
    assert by_depth == sorted(set(by_depth), reverse=True)


def test_predicted_compute_by_hand() -> None:
    """Three epochs of 640 training examples (forward and twice that backward) and 32 validation examples, at
    5 FLOPs for each of 7 rungs and the head."""
    forward = 5 * (RUNGS + 1)
    assert only(freeze=0).flops == 3 * (640 * 3 * forward + 32 * forward)
    assert only(freeze="all").flops == 3 * (640 * (forward + 2 * 5) + 32 * forward)
    plan = planned()
    confirm = plan.trial(plan.cells[0], {}, 1000, "confirm")
    assert confirm.flops == only(freeze=0).flops + 64 * forward
    assert predicted(plan)["flops"] == only(freeze=0).flops + 3 * confirm.flops


def test_a_shared_trial_is_paid_once() -> None:
    one = predicted(planned(seeds={"confirm": 0}))["flops"]
    two = planned(strategies={"a": {"freeze": 0}, "b": {"freeze": 0.0}}, seeds={"confirm": 0})
    assert predicted(two)["flops"] == one


@pytest.mark.parametrize("algorithm", ["grid", "random", "optuna"])
def test_the_plan_as_data_is_plain_json_and_adds_up(algorithm: str) -> None:
    plan = planned(
        **GRID, search={"algorithm": algorithm, "trials": 2, "scheduler": "asha"}, baseline="plain"
    )
    data = json.loads(json.dumps(as_dict(plan), allow_nan=False))
    assert data["trials"] == count(plan)
    assert {cell["budget"] for cell in data["cells"]} == {2}
    assert data["search"]["scheduler"]["name"] == "asha"
    listed = {trial for cell in data["cells"] for trial in cell["trials"]}
    assert listed == (set() if algorithm == "optuna" else ids(plan))
    assert data["tasks"][0]["direction"] == "max"


def test_hyperparameters_and_values_are_inverse() -> None:
    plan = planned(**GRID)
    for cell in plan.cells:
        for values in cell.configurations or []:
            assert cell.values_of(plan.trial(cell, values, 0, "tune").hyperparameters) == values


def test_too_few_confirm_seeds_are_noted() -> None:
    said = {seeds: " ".join(notes(planned(seeds={"confirm": seeds}))) for seeds in (0, 2, 3)}
    assert "no confirm phase" in said[0]
    assert "no interval" in said[2]
    assert said[3] == ""


def test_the_same_sweep_gives_the_same_plan() -> None:
    assert as_dict(planned(**GRID)) == as_dict(planned(**GRID))


def test_combinations_that_only_clash_together_are_an_input_error() -> None:
    """Axes are checked one at a time when the file is read; what is left is found here, before any trial."""
    with pytest.raises(InputError, match="momentum"):
        planned(strategies={"s": {"optimizer": {"name": {"grid": ["sgd", "adam"]}, "momentum": 0.5}}})


def test_trials_are_plain_values() -> None:
    plan = planned(**GRID)
    for trial in trials(plan):
        assert Trial(**json.loads(json.dumps(trial.as_dict()))) == trial
