"""The sweep file: what it means, and what it says about every mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import document, entries, recipe, space, spec
from harness.errors import InputError
from harness.plan import make_plan
from harness.prepare import ModelFacts, Prepared
from harness.spec import Sweep
from harness.tasks.base import Facts

BASE: dict[str, Any] = {
    "name": "small",
    "tasks": ["bbc-topics"],
    "backbones": ["minilm-l6"],
    "strategies": {"full": {"freeze": 0}},
}


def load(*assignments: str, bases: tuple[Path, ...] = (), **changes: Any) -> Sweep:
    """A sweep of the base file with top-level settings changed (None takes one out)."""
    content = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    doc = document.assign(document.read(document.dump(content), "f.yaml"), assignments)
    return spec.from_document(doc, list(bases))


def mistakes(**changes: Any) -> dict[str, str]:
    """What is said about a file, by place."""
    with pytest.raises(InputError) as caught:
        load(**changes)
    return {m.place: f"{m.reason} ({m.hint})" for m in caught.value.mistakes}


def recipes(sweep: Sweep) -> dict[str, recipe.Recipe]:
    """The first recipe of every `task/strategy`."""
    return {
        f"{task.name}/{strategy.name}": recipe.parse(
            space.fill(tree, {path: axis.values[0] for path, axis in space.spaces(tree).items()}), ""
        )
        for task in sweep.tasks
        for strategy in sweep.strategies
        for tree in [sweep.tree(task, strategy)]
    }


def ids(sweep: Sweep) -> list[str]:
    """Ids of every planned trial, on made-up facts about data and models."""
    facts = Facts({"train": 64, "validation": 32, "test": 32}, ["a", "b"], "data")
    model = ModelFacts("bert", [f"r{i}" for i in range(7)], [10] * 8, [1.0] * 8, "weights")
    pairs = [*sweep.pairs, *((source.task, backbone) for backbone, source in sweep.sources)]
    prepared = Prepared(
        {task.name: facts for task, _ in pairs},
        {(task.name, backbone.name): model for task, backbone in pairs},
    )
    return [trial.trial_id for trial in make_plan(sweep, prepared).planned()]


# -- mistakes ------------------------------------------------------------------------------------


def test_a_file_with_many_mistakes_is_mended_in_one_go() -> None:
    """Every mistake has its place, a reason and, where a name is wrong, the nearest valid one."""
    found = mistakes(
        name="no/name",
        tasks=["bbc-topisc", {"name": "mine", "kind": "text-clasification", "dataset": {"path": "x"}}],
        backbones=["minilm-l7"],
        strategies={
            "full": {"frezee": 0, "optimizer": {"name": "adamv"}},
            "reg": {"regularizer": {"name": "l2-sp", "strenght": 1}},
            "depth": {"freeze": -1},
        },
        baseline="ful",
        training={"epochs": 0, "batchsize": 8},
        optimizer={"learning_rate": {"grid": []}},
        search={"algorithm": "gird"},
        seeds={"tune": 0, "confrim": 3},
        resources={"gpu": 1, "cpus": "two"},
        reports="all",
    )
    expected = {
        "name": "takes letters",
        "tasks.0": "did you mean 'bbc-topics'?",
        "tasks.1.kind": "did you mean 'text-classification'?",
        "backbones.0": "did you mean 'minilm-l6'?",
        "strategies.full.frezee": "did you mean 'freeze'?",
        "strategies.full.optimizer.name": "did you mean 'adam",
        "strategies.reg.regularizer.strenght": "did you mean 'strength'?",
        "strategies.depth.freeze": "a depth is not negative",
        "baseline": "did you mean 'full'?",
        "training.epochs": "greater than or equal to 1",
        "training.batchsize": "did you mean 'batch_size'?",
        "optimizer.learning_rate.grid": "is empty",
        "search.algorithm": "did you mean 'grid'?",
        "seeds.tune": "greater than or equal to 1",
        "seeds.confrim": "did you mean 'confirm'?",
        "resources.gpu": "did you mean 'gpus'?",
        "resources.cpus": "'two'",
        "reports": "there is no setting 'reports'",
    }
    assert set(found) == set(expected)
    for place, words in expected.items():
        assert words in found[place], (place, found[place])


def test_mistakes_carry_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\ntasks: [bbc-topics]\nbackbones: [minilm-l6]\nstrategies:\n  a: {freze: 1}\n")
    with pytest.raises(InputError) as caught:
        spec.load(path)
    assert str(caught.value).startswith(f"{path}:5: strategies.a.freze: there is no strategy setting 'freze'")


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path, what: str) -> None:
    path = tmp_path / "s.yaml"
    if what == "folder":
        path.mkdir()
    elif what == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError) as caught:
        spec.load(path)
    assert caught.value.mistakes[0].place == str(path)


def test_missing_and_empty_sections_are_told_at_once() -> None:
    found = mistakes(tasks=None, backbones=[], strategies={}, name=None)
    assert {place: reason.split(" (")[0] for place, reason in found.items()} == {
        "tasks": "is missing",
        "backbones": "is empty",
        "strategies": "is empty",
        "name": "takes letters, digits, '.', '_' and '-', not None",
    }


@pytest.mark.parametrize("node", [3, "bbc-topics", True])
def test_lists_are_lists(node: Any) -> None:
    for key in ("tasks", "backbones", "strategies"):
        assert "takes a list or a mapping" in mistakes(**{key: node})[key]


@pytest.mark.parametrize("key", ["seeds", "resources", "search", "training"])
@pytest.mark.parametrize("value", [0, False, [], 3])
def test_a_section_of_the_wrong_type_is_not_taken_for_an_absent_one(key: str, value: Any) -> None:
    assert "takes settings" in mistakes(**{key: value})[key]


def test_absent_sections_have_defaults() -> None:
    sweep = load()
    assert (sweep.seeds.tune, sweep.seeds.confirm, sweep.search.name) == (1, 5, "grid")
    assert (sweep.scheduler, sweep.baseline) == (None, None)
    assert recipes(sweep)["bbc-topics/full"].optimizer.name == "adamw"


@pytest.mark.parametrize(
    "name", ["..", ".", "../up", "a/b", "/abs", "-x", "", " x", "a b", "é", "x" * 65, "a\nb", 3, None, ["a"]]
)
def test_the_sweeps_name_is_a_plain_folder_name(name: Any) -> None:
    assert list(mistakes(name=name)) == ["name"]


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "/abs", "a\\b", "a\nb", "-x", "é", "x" * 200, "a:b"])
@pytest.mark.parametrize("key", ["tasks", "backbones", "strategies"])
def test_no_name_can_leave_the_results_folder(key: str, name: str) -> None:
    """Names become folders of curves and words of tables."""
    use = {"tasks": "bbc-topics", "backbones": "minilm-l6", "strategies": "full"}[key]
    assert "is no name" in mistakes(**{key: [{"name": name, "use": use}]})[f"{key}.0"]


@pytest.mark.parametrize(
    "name", ["a", "full l2-sp (0.1)", "x[freeze=3,λ]".replace("λ", "l"), "1e3", "A+B=C@D"]
)
def test_readable_names_are_fine(name: str) -> None:
    assert load(strategies=[{"name": name, "freeze": 0}]).strategies[0].name == name


def test_one_name_twice_is_refused_in_every_list() -> None:
    found = mistakes(
        tasks=["bbc-topics", {"use": "bbc-topics", "train_size": 5}],
        backbones=["minilm-l6", {"name": "minilm-l6", "path": "some/model"}],
        strategies=[{"name": "a", "freeze": 0}, {"name": "a", "freeze": 1}],
    )
    assert set(found) == {"tasks.1", "backbones.1", "strategies.1"}
    assert all("stands twice" in reason for reason in found.values())


def test_the_baseline_is_one_of_the_strategies() -> None:
    assert "there is no strategy 'all'" in mistakes(baseline="all")["baseline"]
    assert load(baseline="full").baseline == "full"
    assert load(strategies={"1": {"freeze": 0}}, baseline=1).baseline == "1"  # as YAML may write it


def test_a_grid_cannot_hold_a_continuous_range_and_says_what_can() -> None:
    found = mistakes(strategies={"a": {"optimizer": {"learning_rate": {"loguniform": [1e-5, 1e-3]}}}})
    assert "random or optuna" in found["strategies.a"]


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_sampling_search_needs_its_budget(algorithm: str) -> None:
    lr = {"learning_rate": {"loguniform": [1e-5, 1e-3]}}
    assert "needs `trials`" in mistakes(optimizer=lr, search=algorithm)["strategies.full"]
    assert load(optimizer=lr, search={"algorithm": algorithm, "trials": 4}).search.trials == 4


def test_a_grid_beyond_reason_is_refused_before_it_is_listed() -> None:
    found = mistakes(training={"batch_size": {"int": [1, 1000]}, "epochs": {"int": [1, 1000]}})
    assert "1000000 configurations" in found["strategies.full"]


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ({"freeze": {"grid": [0, "half"]}}, "freeze"),
        ({"freeze": {"grid": [0, 1.5]}}, "freeze"),
        ({"training": {"epochs": {"int": [0, 3]}}}, "training.epochs"),
        ({"optimizer": {"learning_rate": {"grid": [1e-3, -1e-3]}}}, "optimizer.learning_rate"),
        ({"optimizer": {"learning_rate": {"uniform": [0.1, 1000]}}}, "optimizer.learning_rate"),
        ({"optimizer": {"name": {"grid": ["sgd", "sdg"]}}}, "optimizer.name"),
        ({"regularizer": {"name": "l2-sp", "strength": {"grid": [1, "1e-3"]}}}, "regularizer.strength"),
    ],
)
def test_every_value_of_a_space_is_checked(setting: Any, place: str) -> None:
    """Not only the first: a trial that fails at 3 o'clock at night is a mistake of the file."""
    assert list(mistakes(strategies={"a": setting})) == [f"strategies.a.{place}"]


@pytest.mark.parametrize(
    "value", [True, "three", -1, 1.5, -0.1, [1], {"depth": 1}, None, float("nan"), 10**400]
)
def test_a_depth_is_a_count_a_fraction_or_all(value: Any) -> None:
    assert list(mistakes(strategies={"a": {"freeze": value}})) in (
        [["strategies.a.freeze"], ["strategies.a.freeze.depth"]]
    )


def test_a_mistake_stands_where_it_was_written() -> None:
    """In the sweep, the task or the strategy, though all three are merged before they are checked."""
    found = mistakes(
        tasks=[{"use": "bbc-topics", "training": {"epochs": 0}, "optimizer": 3}],
        training={"clip": -1},
        strategies={"a": {"training": {"warmup": 2}}},
    )
    assert "tasks.0.optimizer" in found
    found = mistakes(
        tasks=[{"use": "bbc-topics", "training": {"epochs": 0}}],
        training={"clip": -1},
        strategies={"a": {"training": {"warmup": 2}}},
    )
    assert set(found) == {"training.clip", "tasks.0.training.epochs", "strategies.a.training.warmup"}


@pytest.mark.parametrize("node", [{"grid": [1, 2]}, {"each": ["full", "head-only"]}, {"int": [1, 2]}])
def test_a_space_stands_in_place_of_a_value_not_of_an_entry(node: Any) -> None:
    found = mistakes(strategies={"a": node}, tasks=[node], backbones=[node])
    how = next(iter(node))
    assert set(found) == {f"strategies.a.{how}", f"tasks.0.{how}", f"backbones.0.{how}"}


@pytest.mark.parametrize("use", [["full"], {"a": 1}, 3, True])
def test_use_takes_a_name(use: Any) -> None:
    found = mistakes(strategies=[{"use": use}], tasks=[{"use": use}], backbones=[{"use": use}])
    assert set(found) == {"strategies.0.use", "tasks.0.use", "backbones.0.use"}


@pytest.mark.parametrize(
    ("search", "place"),
    [
        ({"scheduler": ["asha"]}, "search.scheduler"),
        ({"scheduler": 3}, "search.scheduler"),
        ({"scheduler": "ahsa"}, "search.scheduler.name"),
        ({"scheduler": {"name": "asha", "grace": 0}}, "search.scheduler.grace"),
        ({"scheduler": "grid"}, "search.scheduler.name"),  # a search is no scheduler
        ({"algorithm": "asha"}, "search.algorithm"),
        ({"trials": 0}, "search.trials"),
        ({"algorithm": ["grid"]}, "search.algorithm"),
    ],
)
def test_a_bad_search_is_told(search: Any, place: str) -> None:
    assert list(mistakes(search=search)) == [place]


# -- tasks and backbones -------------------------------------------------------------------------


def test_a_users_task_comes_from_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("x\ty\n")
    task = {
        "name": "mine", "kind": "text-classification",
        "dataset": {"path": "tsv", "data_files": {"train": "a.tsv"}}, "inputs": ["x"], "target": "y",
    }  # fmt: skip
    entry = load(tasks=[task], bases=(tmp_path,)).tasks[0]
    assert entry.name == "mine"
    assert entry.task.dataset == {
        "path": "csv",
        "sep": "\t",
        "data_files": {"train": str(tmp_path / "a.tsv")},
    }


def test_files_are_looked_for_beside_the_sweep_file_first(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("text,label\n")
    task = {"name": "m", "kind": "text-classification", "dataset": {"path": "csv", "data_files": "x.csv"}}
    entry = load(tasks=[task], bases=(tmp_path / "a", tmp_path / "b")).tasks[0]
    assert entry.task.dataset == {"path": "csv", "data_files": str(tmp_path / "a" / "x.csv")}


def test_what_is_wrong_with_a_task_is_told(tmp_path: Path) -> None:
    kind = "text-classification"
    found = mistakes(
        tasks=[
            {"name": "a", "kind": kind},
            {"name": "b", "kind": kind, "dataset": {"path": "csv", "data_files": {"train": "gone.csv"}}},
            {"name": "c"},
            {"use": "bbc-topics", "kind": "image-classification"},
            {"use": "bbc-topics", "train_size": 0},
            {"use": kind},
            7,
        ]
    )
    assert set(found) == {
        "tasks.0.dataset", "tasks.1.dataset.data_files.train", "tasks.2", "tasks.3.kind",
        "tasks.4.train_size", "tasks.5", "tasks.6",
    }  # fmt: skip


def test_several_backbones_by_name_folder_and_hub_id(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    sweep = load(
        backbones=[
            "minilm-l6",
            "model",
            {"name": "bert", "path": "google-bert/bert-base", "revision": "abc"},
        ],
        bases=(tmp_path,),
    )
    assert [entry.name for entry in sweep.backbones] == ["minilm-l6", "model", "bert"]
    assert sweep.backbones[1].backbone.path == str(tmp_path / "model")
    assert sweep.backbones[2].backbone.model_dump() == {"path": "google-bert/bert-base", "revision": "abc"}


@pytest.mark.parametrize(
    "node",
    ["./gone", "/gone", "~nobody-of-this-name/x", "a/b/c", "x" * 300, {"path": 3}, {}, None, 5],
)
def test_a_backbone_that_is_nowhere_is_told(node: Any) -> None:
    assert all(place.startswith("backbones.0") for place in mistakes(backbones=[node]))


# -- precedence ----------------------------------------------------------------------------------


def test_a_strategy_beats_its_task_beats_the_sweep_beats_the_defaults() -> None:
    sweep = load(
        tasks=["bbc-topics", {"use": "tweet-sentiment", "training": {"epochs": 7, "batch_size": 4}}],
        training={"epochs": 5, "batch_size": 2},
        strategies={"a": {"freeze": 0}, "b": {"freeze": 0, "training": {"epochs": 9}}},
    )
    found = {
        name: (made.training.epochs, made.training.batch_size, made.training.warmup)
        for name, made in recipes(sweep).items()
    }
    assert found == {
        "bbc-topics/a": (5, 2, 0.1), "bbc-topics/b": (9, 2, 0.1),
        "tweet-sentiment/a": (7, 4, 0.1), "tweet-sentiment/b": (9, 4, 0.1),
    }  # fmt: skip


def test_a_task_that_changes_one_setting_of_the_optimizer_keeps_the_sweeps_optimizer() -> None:
    sweep = load(
        tasks=[{"use": "bbc-topics", "optimizer": {"weight_decay": 0.5}}],
        optimizer={"name": "sgd", "learning_rate": 0.3},
    )
    [made] = recipes(sweep).values()
    assert made.optimizer.model_dump()["learning_rate"] == 0.3
    assert (made.optimizer.name, made.optimizer.weight_decay) == ("sgd", 0.5)


def test_another_optimizer_inherits_nothing_of_the_first() -> None:
    sweep = load(
        optimizer={"weight_decay": 0.3, "learning_rate": {"grid": [1e-3, 1e-4]}},
        strategies={
            "other": {"optimizer": "sgd"},
            "same": {"optimizer": {"name": "adamw", "beta1": 0.5}},
            "short": {"optimizer": "adamw"},
        },
    )
    task = sweep.tasks[0]
    other, same, short = (sweep.tree(task, strategy)["optimizer"] for strategy in sweep.strategies)
    assert other == {"name": "sgd"}
    assert same == {
        "name": "adamw", "weight_decay": 0.3, "learning_rate": {"grid": [1e-3, 1e-4]}, "beta1": 0.5
    }  # fmt: skip
    assert short == {"name": "adamw", "weight_decay": 0.3, "learning_rate": {"grid": [1e-3, 1e-4]}}


def test_a_task_can_replace_a_space_by_a_value_and_a_strategy_can_bring_its_own() -> None:
    sweep = load(
        tasks=["bbc-topics", {"use": "tweet-sentiment", "optimizer": {"learning_rate": 0.1}}],
        optimizer={"learning_rate": {"grid": [1e-3, 1e-4]}},
        strategies={
            "a": {"freeze": 0},
            "b": {"freeze": {"grid": [0, 1]}, "training": {"epochs": {"int": [1, 2]}}},
        },
    )
    axes = {
        f"{task.name}/{strategy.name}": [".".join(path) for path in space.spaces(sweep.tree(task, strategy))]
        for task in sweep.tasks
        for strategy in sweep.strategies
    }
    assert axes == {
        "bbc-topics/a": ["optimizer.learning_rate"],
        "bbc-topics/b": ["optimizer.learning_rate", "freeze", "training.epochs"],
        "tweet-sentiment/a": [],
        "tweet-sentiment/b": ["freeze", "training.epochs"],
    }


def test_overlapping_grids_are_one_grid_the_nearest_one() -> None:
    """A strategy's grid replaces the sweep's for the same setting: nothing is mixed."""
    sweep = load(
        optimizer={"learning_rate": {"grid": [1e-3, 1e-4]}},
        strategies={"a": {"optimizer": {"learning_rate": {"grid": [1e-4, 5e-1]}}}},
    )
    [axis] = space.spaces(sweep.tree(sweep.tasks[0], sweep.strategies[0])).values()
    assert axis.values == (1e-4, 0.5)


def test_null_and_none_switch_a_regularizer_off() -> None:
    sweep = load(
        regularizer="l2-sp",
        strategies={"a": {"freeze": 0}, "b": {"regularizer": None}, "c": {"regularizer": "none"}},
    )
    found = {name: made.regularizer for name, made in recipes(sweep).items()}
    assert found["bbc-topics/a"] is not None
    assert found["bbc-topics/b"] is None
    assert found["bbc-topics/c"] is None


# -- presets and each ----------------------------------------------------------------------------


def test_ready_strategies_by_name_alone_and_with_changes() -> None:
    sweep = load(
        strategies=["full", "head-only", {"name": "mine", "use": "head-only", "training": {"epochs": 9}}]
    )
    found = recipes(sweep)
    assert list(found) == ["bbc-topics/full", "bbc-topics/head-only", "bbc-topics/mine"]
    assert found["bbc-topics/full"].as_dict()["freeze"] == 0
    for name in ("bbc-topics/head-only", "bbc-topics/mine"):
        assert found[name].as_dict()["freeze"] == "all"
        assert found[name].optimizer.learning_rate == 1e-3
    assert found["bbc-topics/mine"].training.epochs == 9


def test_ready_strategies_in_a_mapping() -> None:
    sweep = load(strategies={"head-only": None, "probe": "head-only", "deep": {"use": "full", "freeze": 3}})
    found = {name: made.as_dict()["freeze"] for name, made in recipes(sweep).items()}
    assert found == {"bbc-topics/head-only": "all", "bbc-topics/probe": "all", "bbc-topics/deep": 3}


def test_a_mapping_names_tasks_and_backbones_too() -> None:
    sweep = load(
        tasks={"bbc-topics": None, "mine": "bbc-topics", "tiny": {"use": "bbc-topics", "train_size": 8}},
        backbones={"minilm-l6": None, "small": "minilm-l6", "bert": {"path": "google-bert/bert-base"}},
    )
    assert [entry.name for entry in sweep.tasks] == ["bbc-topics", "mine", "tiny"]
    assert [entry.name for entry in sweep.backbones] == ["minilm-l6", "small", "bert"]


def test_a_ready_strategy_keeps_its_parts_when_one_setting_is_set_from_outside() -> None:
    sweep = load("strategies.head-only.training.epochs=9", strategies={"head-only": None})
    [made] = recipes(sweep).values()
    assert (made.as_dict()["freeze"], made.training.epochs) == ("all", 9)


def test_every_ready_strategy_can_be_used() -> None:
    """But for those that need a source task, which test_features_and_outputs.py gives them."""
    names = [
        n for n, preset in entries.presets().items() if not {"co-tuning", "lwf"} & set(preset.definition)
    ]
    assert {"full", "head-only"} <= set(names)
    assert len(recipes(load(strategies=names))) == len(names)
    assert all(preset.source for preset in entries.presets().values())


def test_each_makes_one_strategy_per_value_and_names_it() -> None:
    sweep = load(
        strategies={"d": {"freeze": {"each": [0, 2, "all"]}, "training": {"epochs": {"grid": [1, 2]}}}}
    )
    assert [strategy.name for strategy in sweep.strategies] == ["d[freeze=0]", "d[freeze=2]", "d[freeze=all]"]
    assert (
        load(strategies={"d": {"freeze": {"each": [0, 2]}}}, baseline="d[freeze=2]").baseline == "d[freeze=2]"
    )


def test_each_at_the_top_holds_for_every_strategy_that_does_not_settle_it_itself() -> None:
    sweep = load(
        optimizer={"learning_rate": {"each": [1e-3, 1e-4]}},
        strategies={
            "a": {"freeze": 0},
            "b": {"optimizer": {"learning_rate": 0.1}},
            "c": {"optimizer": "sgd"},
        },
    )
    found = {name: made.optimizer.learning_rate for name, made in recipes(sweep).items()}
    assert found == {
        "bbc-topics/a[learning_rate=0.001]": 1e-3, "bbc-topics/a[learning_rate=0.0001]": 1e-4,
        "bbc-topics/b": 0.1, "bbc-topics/c": 0.01,
    }  # fmt: skip


def test_each_compares_optimizers_at_the_top_as_well_as_in_a_strategy() -> None:
    top = load(optimizer={"each": ["adamw", "sgd"]})
    own = load(
        optimizer={"weight_decay": 0.3},
        strategies={
            "full": {"freeze": 0, "optimizer": {"each": ["adamw", {"name": "sgd", "momentum": 0.5}]}}
        },
    )
    assert [made.optimizer.name for made in recipes(top).values()] == ["adamw", "sgd"]
    assert [strategy.name for strategy in own.strategies] == [
        "full[optimizer=adamw]", "full[optimizer=(name=sgd,momentum=0.5)]",
    ]  # fmt: skip
    # the short form means the same as everywhere: the sweep's settings of that optimiser hold
    assert [made.optimizer.weight_decay for made in recipes(own).values()] == [0.3, 0.0]


def test_each_compares_regularizers_with_and_without() -> None:
    each = {"each": [None, "l2", {"name": "l2-sp", "strength": 0.5}]}
    sweep = load(strategies={"a": {"freeze": 0, "regularizer": each}})
    found = [made.regularizer for made in recipes(sweep).values()]
    assert found[0] is None
    assert [entry.name for entry in found[1:] if entry is not None] == ["l2", "l2-sp"]


def test_a_grid_can_stand_for_a_whole_plug_in() -> None:
    sweep = load(optimizer={"grid": ["adamw", {"name": "sgd", "momentum": 0.5}]})
    [axis] = space.spaces(sweep.tree(sweep.tasks[0], sweep.strategies[0])).values()
    assert axis.values == ("adamw", {"name": "sgd", "momentum": 0.5})


def test_each_makes_tasks_too() -> None:
    sweep = load(
        tasks=[
            {"use": "bbc-topics", "train_size": {"each": [32, 64]}, "training": {"epochs": {"each": [1, 2]}}}
        ]
    )
    assert [(entry.name, entry.task.train_size) for entry in sweep.tasks] == [
        ("bbc-topics[train_size=32,epochs=1]", 32), ("bbc-topics[train_size=32,epochs=2]", 32),
        ("bbc-topics[train_size=64,epochs=1]", 64), ("bbc-topics[train_size=64,epochs=2]", 64),
    ]  # fmt: skip
    assert [made.training.epochs for made in recipes(sweep).values()] == [1, 2, 1, 2]


def test_malformed_each_is_told_with_everything_else() -> None:
    found = mistakes(
        strategies={"a": {"freeze": {"each": []}}, "b": {"freeze": {"each": [0, 0]}}}, seeds={"tune": 0}
    )
    assert set(found) == {"strategies.a.freeze.each", "strategies.b.freeze.each", "seeds.tune"}


# -- resolved ------------------------------------------------------------------------------------

RICH: dict[str, Any] = {
    "optimizer": {"weight_decay": 0.1, "learning_rate": {"grid": [2e-5, 1e-3]}},
    "regularizer": {"each": ["none", "l2-sp"]},
    "training": {"epochs": 2},
    "strategies": {
        "probe": {"use": "head-only", "optimizer": {"learning_rate": 0.1}},
        "sgd": {"optimizer": "sgd", "freeze": {"each": [0, 0.5]}},
        "off": {"regularizer": None, "freeze": {"choice": [1, "all"]}},
    },
    "search": {"algorithm": "random", "trials": 3, "seed": 4, "scheduler": {"name": "asha", "grace": 2}},
    "seeds": {"tune": 2, "confirm": 0},
    "resources": {"cpus": 0.5},
    "baseline": "off",
}


def test_a_resolved_sweep_is_the_same_sweep(tmp_path: Path) -> None:
    """Written out and read again, from anywhere, it plans the same trials."""
    (tmp_path / "words.csv").write_text("text,label\n")
    (tmp_path / "model").mkdir()
    rich = load(
        **RICH,
        backbones=["minilm-l6", {"name": "tiny", "path": "model"}],
        tasks=[
            {"use": "bbc-topics", "train_size": {"each": [8, 16]}, "optimizer": {"weight_decay": 0.0}},
            {
                "name": "mine",
                "kind": "text-classification",
                "dataset": {"path": "csv", "data_files": {"train": "words.csv"}},
                "labels": ["1e3", "08", "on", "7"],  # texts, though YAML may take them for something else
            },
        ],
        bases=(tmp_path,),
    )
    text = document.dump(spec.resolved(rich))
    again = spec.from_document(document.read(text, "sweep.yaml"), [Path("/elsewhere")])
    assert ids(again) == ids(rich)
    assert len(ids(rich)) > 50
    assert [entry.name for entry in again.strategies] == [entry.name for entry in rich.strategies]
    assert (again.baseline, again.search, again.scheduler) == (rich.baseline, rich.search, rich.scheduler)
    assert (again.seeds, again.resources) == (rich.seeds, rich.resources)
    assert [entry.task for entry in again.tasks] == [entry.task for entry in rich.tasks]
    assert [entry.backbone for entry in again.backbones] == [entry.backbone for entry in rich.backbones]
    assert spec.resolved(again) == spec.resolved(rich)


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parent.parent.glob("sweeps/*.yaml")), ids=lambda f: f.stem
)
def test_shipped_sweeps_are_valid_and_resolve_to_themselves(file: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.tsv"
    data.write_text("x\n")
    task = {"mrpc_files": "0", "strategies": "mrpc"}.get(file.stem)
    files = [f"tasks.{task}.dataset.data_files.{split}={data}" for split in ("train", "test") if task]
    sweep = spec.load(file, files)
    again = spec.from_document(document.read(document.dump(spec.resolved(sweep)), "f"), [Path("/elsewhere")])
    assert ids(again) == ids(sweep)
