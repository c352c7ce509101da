"""Axes inside options: whatever a space holds, a configuration has the axes that its choices call for."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_space import NODES, SCALARS, differ, member

from harness import axes, space
from harness.axes import Values, configuration
from harness.plan import hyperparameters
from harness.registry import plugins
from harness.search.base import Search, SearchSpace, key
from harness.search.optuna import Optuna
from harness.space import Path as Way
from harness.space import Space

PURE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

COUNTS = st.tuples(st.integers(-3, 3), st.integers(1, 2)).map(lambda pair: {"int": [pair[0], sum(pair)]})


@st.composite
def lists(draw: Any, leaves: Any, depth: int = 2) -> Any:
    """A list of options: plain values, mappings that hold spaces, or spaces themselves. The settings of
    options have few names, so that they collide."""
    below = leaves if depth == 1 else leaves | lists(leaves, depth - 1)
    free = {"b": below | SCALARS, "name": st.sampled_from(["x", "y"])}
    holding = st.fixed_dictionaries({"a": below}, optional=free)
    plain = SCALARS | st.sampled_from(["x", "y"]) | st.fixed_dictionaries({}, optional=free)
    values = draw(st.lists(holding | plain | below | holding, min_size=2, max_size=3).filter(differ))
    return {draw(st.sampled_from(["grid", "choice"])): values}


def trees(leaves: Any) -> Any:
    return st.fixed_dictionaries(
        {"a": lists(leaves)}, optional={"b": leaves | SCALARS, "c": lists(leaves, 1)}
    )


FEW = st.lists(SCALARS, min_size=1, max_size=2).filter(differ).map(lambda values: {"grid": values})
TREES = trees(NODES)
SMALL = trees(COUNTS | FEW)


def drawn(found: dict[Way, Space], seed: int) -> Values:
    rng = random.Random(seed)
    return configuration(found, lambda _, axis: axis.sample(rng))


def lies_inside(found: axes.Axes, values: Values) -> bool:
    """Whether a configuration has exactly the axes that its own choices call for, each with a value of it."""
    there = [path for path, axis in found.items() if axis.active(values)]
    return list(values) == there and all(member(found[path], values[path]) for path in there)


@PURE
@given(TREES, st.integers())
def test_a_configuration_fills_to_a_tree_without_spaces_that_holds_its_values(tree: Any, seed: int) -> None:
    found = space.spaces(tree)
    values = drawn(found, seed)
    assert lies_inside(found, values)
    filled = axes.settings(tree, found, values)
    assert space.spaces(filled) == {}
    nodes = dict(space.walk(filled))
    for path, value in values.items():
        if not isinstance(found[path].meaning(value), dict):  # what holds spaces is filled itself
            assert nodes[found[path].at] == value


@PURE
@given(TREES)
def test_every_axis_has_a_name_of_its_own_and_comes_after_what_it_hangs_on(tree: Any) -> None:
    found = space.spaces(tree)
    assert len({".".join(path) for path in found}) == len(found)
    before: dict[Way, Space] = {}
    for path, axis in found.items():
        if axis.when is not None:
            assert axis.when[1] in before[axis.when[0]].labelled
            assert axes.needed(found, path).items() >= {axis.when[0]: axis.when[1]}.items()
        before[path] = axis


@PURE
@given(TREES, st.integers())
def test_values_are_read_back_from_what_is_recorded_of_them(tree: Any, seed: int) -> None:
    found = space.spaces(tree)
    values = drawn(found, seed)
    recorded = json.loads(json.dumps(hyperparameters(values)))
    again = configuration(found, lambda path, _: recorded[".".join(path)])
    assert key(again) == key(values)
    assert axes.settings(tree, found, again) == axes.settings(tree, found, values)


@PURE
@given(TREES)
def test_an_axis_with_options_reads_back_what_it_writes(tree: Any) -> None:
    for path, axis in space.spaces(tree).items():
        if axis.when is None:
            assert axis.as_dict() == dict(space.walk(tree))[path]


@PURE
@given(SMALL)
def test_the_size_is_the_number_of_distinct_configurations_of_the_grid(tree: Any) -> None:
    found = space.spaces(tree)
    size = axes.size(found)
    assert size is not None
    assume(size <= 2000)
    every = axes.every(found)
    assert len({key(values) for values in every}) == len(every) == size
    assert all(lies_inside(found, values) for values in every)


@PURE
@given(SMALL)
def test_probing_meets_every_value_of_every_axis(tree: Any) -> None:
    found = space.spaces(tree)
    probed = list(axes.probes(found))
    assert all(lies_inside(found, values) for values in probed)
    for path, axis in found.items():
        met = [values[path] for values in probed if path in values]
        assert all(any(type(v) is type(p) and v == p for v in met) for p in axis.probes())


def at(tree: Any, place: Way) -> Any:
    for step in place:
        tree = tree[int(step)] if isinstance(tree, list) else tree[step]
    return tree


@PURE
@given(TREES, st.integers())
def test_what_an_option_says_is_written_inside_of_it(tree: Any, seed: int) -> None:
    """A place of the filled tree leads to the same plain value, or to the space that it was drawn from."""
    found = space.spaces(tree)
    values = drawn(found, seed)
    drawn_at = {axis.at: axis for path, axis in found.items() if path in values}  # the innermost at each
    for place, node in space.walk(axes.settings(tree, found, values)):
        if isinstance(node, dict):
            continue
        written = at(tree, axes.written(found, values, place))
        assert written == node or written == drawn_at[place].as_dict()


@pytest.mark.parametrize("algorithm", ["grid", "random"])
@PURE
@given(tree=SMALL, trials=st.integers(1, 6), seed=st.integers(0, 5))
def test_a_listed_search_stays_inside_any_space(algorithm: str, tree: Any, trials: int, seed: int) -> None:
    found = space.spaces(tree)
    made = SearchSpace(found, configuration(found, lambda _, axis: axis.nearest(None)))
    search = plugins("search", Search)[algorithm](trials=trials, seed=seed)
    assume(not search.reason_against(made) and (made.size or 0) <= 2000)
    listed = search.configurations(made, "cell")
    assert listed is not None and key(listed[0]) == key(made.default)
    assert all(lies_inside(found, values) for values in listed)
    assert len({key(values) for values in listed}) == len(listed) == search.budget(made)


def test_a_bound_of_minus_zero_is_zero() -> None:
    found = space.parse({"uniform": [-0.0, 1.0]}, "")
    assert found is not None and str(found.nearest(None)) == "0.0"


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, seed=st.integers(0, 5))
def test_optuna_stays_inside_any_space(tree: Any, seed: int) -> None:
    found = space.spaces(tree)
    made = SearchSpace(found, configuration(found, lambda _, axis: axis.nearest(None)))
    with tempfile.TemporaryDirectory() as folder:
        asked = []
        for _ in range(2):  # opened again, it asks for the same first
            search = Optuna(trials=3, seed=seed).open(made, "cell", True, Path(folder))
            asked.append(list(iter(search.ask, None)))
    assert key(asked[0][0]) == key(made.default)
    assert [key(values) for values in asked[0]] == [key(values) for values in asked[1]]
    assert all(lies_inside(found, values) for values in asked[0])
    assert len(asked[0]) == Optuna(trials=3).budget(made)
