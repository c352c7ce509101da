"""Search algorithms: one conformance suite for everything registered, and what is Optuna's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.axes import configuration
from harness.registry import build, plugins
from harness.search.base import Asker, Outcome, Search, SearchSpace, Values, key
from harness.search.optuna import Optuna
from harness.space import Space, spaces


def made(default: dict[str, Any] | None = None, **axes: Any) -> SearchSpace:
    """A space of axes as a file writes them; the default is the one nearest to what is given."""
    found = spaces({"section": axes})
    return SearchSpace(
        found, configuration(found, lambda path, axis: axis.nearest((default or {}).get(path[-1])))
    )


SPACES: dict[str, SearchSpace] = {
    "nothing": made(),
    "one value": made(a={"grid": [0.5]}),
    "a grid": made({"a": 1e-3, "b": "y"}, a={"grid": [1e-4, 1e-3, 1e-2]}, b={"choice": ["x", "y"]}),
    "equal numbers": made({"a": 1.0}, a={"grid": [0, 0.0, 1, 1.0, "all"]}),
    "plug-ins": made(a={"grid": ["adamw", {"name": "sgd", "momentum": 0.5}, None, [1, 2], True]}),
    "options": made(
        {"a": "x", "c": 2},
        a={"choice": ["none", {"name": "x", "c": {"int": [1, 3]}}, {"name": "y", "c": {"grid": [1, 2]}}]},
    ),
    "ranges in options": made(
        {"b": 0.01}, a={"choice": ["none", {"name": "x", "b": {"grid": [0, {"loguniform": [1e-3, 1]}]}}]}
    ),
    "counts": made({"a": 3}, a={"int": [1, 6]}),
    "ranges": made({"a": 2e-5, "b": 0.1}, a={"loguniform": [1e-6, 1e-2]}, b={"uniform": [0, 1]}),
    "everything": made(
        {"a": 2e-5, "c": 2},
        a={"loguniform": [1e-6, 1e-2]}, b={"grid": [0, "all"]}, c={"int": [1, 3]}, d={"uniform": [-1, 1]},
    ),
}  # fmt: skip
BUDGET = 5


# A study is slow to write; these spaces hold everything that the others do.
TELLING = ("nothing", "equal numbers", "plug-ins", "options", "everything")


def searches() -> list[Any]:
    """Every registered search, with the spaces that it says it can serve."""
    found = []
    for name, plugin in plugins("search", Search).items():
        for label, space in SPACES.items():
            search = build(plugin, {"trials": BUDGET, "seed": 3}, name)
            listed = search.configurations(space, "") is not None
            if not search.reason_against(space) and (listed or label in TELLING):
                found.append(pytest.param(search, space, id=f"{name}-{label}"))
    return found


conform = pytest.mark.parametrize(("search", "space"), searches())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of results for the whole file, as one sweep has: every test has cells of its own in it."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def inside(axis: Space, value: Any) -> bool:
    if axis.how in ("grid", "choice"):
        return any(type(value) is type(option) and value == option for option in axis.values)
    low, high = axis.values
    return isinstance(value, int if axis.how == "int" else float) and low <= value <= high


def opened(search: Search, space: SearchSpace, folder: Path, cell: str) -> Asker:
    return search.open(space, cell, True, folder)


def drawn(asker: Asker, told: bool = True) -> list[Values]:
    """Everything that is asked until the budget is spent; the n-th scores n."""
    found = []
    while (values := asker.ask()) is not None:
        found.append(values)
        assert len(found) <= 100, "asks without end"
        if told:
            asker.tell(values, finished(len(found)))
    return found


def finished(score: float) -> Outcome:
    return Outcome("finished", score, ((1.0, score / 2), (2.0, score)))


def keys(found: list[Values]) -> list[str]:
    return [key(values) for values in found]


_DRAWN: dict[str, list[Values]] = {}


@pytest.fixture
def whole(search: Search, space: SearchSpace, folder: Path) -> tuple[str, list[Values]]:
    """A cell that was searched to its end, told one by one, and what was asked; made at first use."""
    label = next(name for name, known in SPACES.items() if known is space)
    cell = f"{search.name} {label}"
    if cell not in _DRAWN:
        _DRAWN[cell] = drawn(opened(search, space, folder, cell))
    return cell, _DRAWN[cell]


# -- conformance ---------------------------------------------------------------------------------


def test_the_shipped_searches_are_registered() -> None:
    assert {"grid", "random", "optuna"} <= set(plugins("search", Search))


@conform
def test_the_default_comes_first(space: SearchSpace, whole: Any) -> None:
    assert keys(whole[1])[0] == key(space.default)


@conform
def test_a_cell_spends_its_budget_and_no_more(search: Search, space: SearchSpace, whole: Any) -> None:
    assert len(whole[1]) == search.budget(space)
    assert search.budget(space) == (BUDGET if space.size is None else min(BUDGET, space.size))


@conform
def test_a_cell_that_runs_all_at_once_spends_its_budget_and_no_more(
    search: Search, space: SearchSpace, folder: Path, cell: str
) -> None:
    asker = opened(search, space, folder, cell)
    assert len(drawn(asker, told=False)) == search.budget(space)
    assert asker.ask() is None


@conform
def test_values_lie_inside_the_space(space: SearchSpace, whole: Any) -> None:
    for values in whole[1]:
        assert list(values) == [path for path, axis in space.axes.items() if axis.active(values)]
        assert all(inside(space.axes[path], value) for path, value in values.items())


@conform
def test_one_seed_gives_one_search(search: Search, space: SearchSpace, whole: Any, elsewhere: Path) -> None:
    cell, before = whole
    assert keys(drawn(opened(search, space, elsewhere, cell))) == keys(before)


@conform
def test_a_search_that_is_opened_again_hands_out_all_of_it_again(
    search: Search, space: SearchSpace, whole: Any, folder: Path
) -> None:
    """The campaign is rebuilt from scratch; what is recorded it does not run again, but must know of."""
    cell, before = whole
    assert keys(drawn(opened(search, space, folder, cell))) == keys(before)


@conform
def test_a_larger_budget_keeps_what_was_drawn(
    search: Search, space: SearchSpace, whole: Any, folder: Path
) -> None:
    cell, before = whole
    larger = search.model_copy(update={"trials": BUDGET + 2})
    after = drawn(opened(larger, space, folder, cell))
    assert len(after) == larger.budget(space)
    assert set(keys(before)) <= set(keys(after))


@conform
def test_what_is_listed_beforehand_is_what_is_asked(search: Search, space: SearchSpace, whole: Any) -> None:
    cell, before = whole
    listed = search.configurations(space, cell)
    if listed is not None:
        assert keys(before) == keys(listed)
        assert len(set(keys(listed))) == len(listed), "a configuration is listed twice"


def test_another_seed_draws_other_values(folder: Path) -> None:
    for name in ("random", "optuna"):
        found = []
        for seed in (0, 1, -7, 2**40 + 5):  # any whole number is a seed
            search = build(plugins("search", Search)[name], {"trials": 2, "seed": seed}, "s")
            found.append(tuple(keys(drawn(opened(search, SPACES["ranges"], folder, f"{name} {seed}")))[1:]))
        assert len(set(found)) == 4, name


# -- the listed ones -----------------------------------------------------------------------------


def test_a_grid_is_every_combination_in_file_order_after_the_default() -> None:
    search, space = build(plugins("search", Search)["grid"], {}, "s"), SPACES["a grid"]
    assert [tuple(values.values()) for values in search.configurations(space, "c") or []] == [
        (1e-3, "y"), (1e-4, "x"), (1e-4, "y"), (1e-3, "x"), (1e-2, "x"), (1e-2, "y"),
    ]  # fmt: skip


def test_a_grid_refuses_what_it_cannot_list() -> None:
    grid = build(plugins("search", Search)["grid"], {}, "s")
    assert "continuous" in grid.reason_against(SPACES["ranges"])
    assert "configurations" in grid.reason_against(made(a={"int": [1, 10**9]}, b={"int": [1, 10**9]}))


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_sampling_needs_a_budget_unless_there_is_nothing_to_tune(name: str) -> None:
    search = build(plugins("search", Search)[name], {}, "s")
    assert "trials" in search.reason_against(SPACES["a grid"])
    assert search.reason_against(SPACES["nothing"]) == ""


def test_a_random_search_uses_up_a_small_space() -> None:
    search = build(plugins("search", Search)["random"], {"trials": 100}, "s")
    found = search.configurations(SPACES["equal numbers"], "c") or []
    assert {(type(v), v) for values in found for v in values.values()} == {
        (int, 0), (float, 0.0), (int, 1), (float, 1.0), (str, "all"),
    }  # fmt: skip


def test_cells_draw_independently_of_each_other() -> None:
    search = build(plugins("search", Search)["random"], {"trials": 4}, "s")
    one, two, again = (search.configurations(SPACES["ranges"], cell) or [] for cell in ("a", "b", "a"))
    assert keys(one) == keys(again)
    assert keys(one)[1:] != keys(two)[1:]


# -- Optuna --------------------------------------------------------------------------------------

SPACE = SPACES["everything"]


def names(folder: Path, cell: str) -> list[str]:
    every = optuna.get_all_study_names(f"sqlite:///{folder / 'optuna.db'}")
    return [name for name in every if name.startswith(f"{cell} | ")]


def study(folder: Path, cell: str) -> optuna.Study:
    """The one study of a cell, read back as optuna-dashboard would."""
    storage = f"sqlite:///{folder / 'optuna.db'}"
    [name] = names(folder, cell)
    return optuna.load_study(study_name=name, storage=storage)


def states(folder: Path, cell: str) -> list[TrialState]:
    return [trial.state for trial in study(folder, cell).trials]


def test_how_trials_ended_is_in_the_storage(folder: Path, cell: str) -> None:
    asker = opened(Optuna(trials=4), SPACE, folder, cell)
    for outcome in (
        finished(0.8),
        Outcome("stopped", None, ((1.0, 0.3),)),
        Outcome("failed", None),
    ):
        values = asker.ask()
        assert values is not None
        asker.tell(values, outcome)
    asker.ask()
    assert states(folder, cell) == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    done, stopped, failed, _ = study(folder, cell).trials
    assert (done.value, done.intermediate_values) == (0.8, {1: 0.4, 2: 0.8})
    assert stopped.intermediate_values == {1: 0.3}
    assert (failed.values, failed.intermediate_values) == (None, {})


def test_a_metric_to_minimise_is_stored_as_it_is_with_its_direction(folder: Path, cell: str) -> None:
    """Outcomes are oriented so that higher is better; the dashboard shows the metric itself."""
    asker = Optuna(trials=2).open(SPACE, cell, False, folder)
    values = asker.ask()
    assert values is not None
    asker.tell(values, Outcome("finished", -0.25, ((1.0, -0.5),)))
    read = study(folder, cell)
    assert read.direction == optuna.study.StudyDirection.MINIMIZE
    assert (read.best_value, read.trials[0].intermediate_values) == (0.25, {1: 0.5})


def test_parameters_are_stored_under_their_dotted_names(folder: Path, cell: str) -> None:
    asker = opened(Optuna(trials=3), SPACE, folder, cell)
    asked = drawn(asker)
    stored = [trial.params for trial in study(folder, cell).trials]
    assert [{f"section.{path[1]}": v for path, v in values.items()} for values in asked] == stored


def test_every_cell_has_a_study_of_its_own(folder: Path, cell: str) -> None:
    search = Optuna(trials=2)
    one, two = (opened(search, SPACE, folder, f"{cell} {number}") for number in (1, 2))
    values = one.ask()
    assert values is not None
    one.tell(values, finished(1))
    two.ask()
    assert [trial.state for trial in study(folder, f"{cell} 1").trials] == [TrialState.COMPLETE]
    assert [trial.state for trial in study(folder, f"{cell} 2").trials] == [TrialState.RUNNING]


def test_telling_twice_changes_nothing(folder: Path, cell: str) -> None:
    asker = opened(Optuna(trials=2), SPACE, folder, cell)
    values = asker.ask()
    assert values is not None
    asker.tell(values, finished(0.7))
    asker.tell(values, Outcome("failed", None))
    assert states(folder, cell) == [TrialState.COMPLETE]
    again = opened(Optuna(trials=2), SPACE, folder, cell)
    first = again.ask()
    assert first is not None
    again.tell(first, Outcome("stopped", None))
    assert states(folder, cell) == [TrialState.COMPLETE]
    assert study(folder, cell).best_value == 0.7


def test_telling_what_was_never_asked_changes_nothing(folder: Path, cell: str) -> None:
    asker = opened(Optuna(trials=2), SPACE, folder, cell)
    asker.ask()
    asker.tell(dict.fromkeys(SPACE.axes, 0), finished(1))
    assert states(folder, cell) == [TrialState.RUNNING]


def test_what_an_interrupted_run_was_never_told_is_asked_and_told_again(folder: Path, cell: str) -> None:
    first = opened(Optuna(trials=4), SPACE, folder, cell)
    before = [first.ask() for _ in range(3)]
    assert before[1] is not None
    first.tell(before[1], finished(0.5))
    again = opened(Optuna(trials=4), SPACE, folder, cell)
    after = drawn(again)
    assert keys(after[:3]) == keys([values for values in before if values is not None])
    assert states(folder, cell) == [TrialState.COMPLETE] * 4
    assert [trial.value for trial in study(folder, cell).trials] == [1, 0.5, 3, 4]


@pytest.mark.parametrize("given", [0, 2], ids=["before its first value", "after two of four"])
def test_a_kill_while_asking_costs_no_trial(folder: Path, cell: str, given: int) -> None:
    """Optuna commits every parameter on its own, so a kill can leave a trial with half of them."""
    opened(Optuna(trials=3), SPACE, folder, cell).ask()
    half = study(folder, cell).ask()
    suggest = [
        lambda: half.suggest_float("section.a", 1e-6, 1e-2, log=True),
        lambda: half.suggest_categorical("section.b", [0, "all"]),
    ]
    for one in suggest[:given]:
        one()
    after = drawn(opened(Optuna(trials=3), SPACE, folder, cell))
    assert len(after) == 3
    assert all(inside(axis, values[path]) for values in after for path, axis in SPACE.axes.items())
    assert states(folder, cell) == [TrialState.COMPLETE] * 3
    for name, value in half.params.items():
        assert after[1]["section", name.removeprefix("section.")] == value


def test_more_trials_continue_the_study(folder: Path, cell: str) -> None:
    before = drawn(opened(Optuna(trials=3), SPACE, folder, cell))
    after = drawn(opened(Optuna(trials=6), SPACE, folder, cell))
    assert keys(after[:3]) == keys(before)
    assert len(set(keys(after))) == 6, "a sampler that starts again repeats its first draws"
    assert len(study(folder, cell).trials) == 6


def test_fewer_trials_ask_for_the_first_ones_only(folder: Path, cell: str) -> None:
    before = drawn(opened(Optuna(trials=4), SPACE, folder, cell))
    assert keys(drawn(opened(Optuna(trials=2), SPACE, folder, cell))) == keys(before[:2])


@pytest.mark.parametrize(
    "changed",
    [
        {"b": {"grid": [0, "all", 3]}},  # more choices, which Optuna refuses in one study
        {"b": {"grid": ["all", 0]}},
        {"b": {"int": [0, 3]}},  # another kind of axis
        {"a": {"uniform": [1e-6, 1e-2]}},
        {"a": {"loguniform": [1e-3, 1e-2]}},  # other bounds: the old values may lie outside
        {"e": {"grid": [1, 2]}},  # another axis
    ],
)
def test_a_changed_space_is_another_study(folder: Path, cell: str, changed: dict[str, Any]) -> None:
    nodes = {"a": {"loguniform": [1e-6, 1e-2]}, "b": {"grid": [0, "all"]}}
    old, new = made(**nodes), made(**{**nodes, **changed})
    before = drawn(opened(Optuna(trials=3), old, folder, cell))
    after = drawn(opened(Optuna(trials=3), new, folder, cell))
    assert len(after) == 3
    assert all(inside(axis, values[path]) for values in after for path, axis in new.axes.items())
    assert len(names(folder, cell)) == 2
    assert keys(drawn(opened(Optuna(trials=3), old, folder, cell))) == keys(before), "and back again"


def test_an_empty_space_has_one_trial_in_its_study(folder: Path, cell: str) -> None:
    assert drawn(opened(Optuna(), made(), folder, cell)) == [{}]
    assert states(folder, cell) == [TrialState.COMPLETE]
    assert drawn(opened(Optuna(), made(), folder, cell)) == [{}]
    assert states(folder, cell) == [TrialState.COMPLETE]


def test_the_random_sampler_is_random_search(folder: Path, cell: str) -> None:
    found = drawn(opened(Optuna(trials=4, sampler="random"), SPACE, folder, cell))
    assert len(set(keys(found))) == 4


def test_tpe_learns_what_it_is_told(folder: Path, cell: str) -> None:
    """After its random start-up the sampler draws nearer to the optimum than chance does."""
    space = made({"a": 0.0}, a={"uniform": [0, 1]})
    asker = opened(Optuna(trials=25, seed=1), space, folder, cell)
    asked = []
    while (values := asker.ask()) is not None:
        [value] = values.values()
        asked.append(abs(value - 0.7))
        asker.tell(values, Outcome("finished", -abs(value - 0.7)))
    assert sum(asked[15:]) < 0.5 * sum(asked[:10])
