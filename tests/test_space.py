"""Spaces: how they are written, sampled and merged."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import space
from harness.errors import InputError
from harness.space import Space

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-1000, 1000), st.floats(-1e6, 1e6), st.text(max_size=5)
)
NAMES = st.sampled_from(["a", "b", "c", "d"])  # few, so that trees overlap
FINITE = st.floats(-1e100, 1e100, allow_nan=False)
DEFAULTS = st.one_of(SCALARS, st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers()))


def differ(values: list[Any]) -> bool:
    return all(not (type(a) is type(b) and a == b) for i, a in enumerate(values) for b in values[i + 1 :])


LISTS = st.lists(SCALARS, min_size=1, max_size=5).filter(differ)


def bounds(numbers: Any) -> Any:
    return st.tuples(numbers, numbers).map(sorted).filter(lambda pair: pair[0] < pair[1])


NODES = st.one_of(
    st.tuples(st.sampled_from(["grid", "choice"]), LISTS),
    st.tuples(st.just("uniform"), bounds(FINITE)),
    st.tuples(st.just("uniform"), bounds(st.integers(-5, 5))),
    st.tuples(st.just("loguniform"), bounds(st.floats(1e-300, 1e300))),
    st.tuples(st.just("int"), bounds(st.integers(-(10**6), 10**6))),
).map(lambda pair: {pair[0]: list(pair[1])})
TREES = st.dictionaries(
    NAMES, st.recursive(SCALARS | NODES, lambda inner: st.dictionaries(NAMES, inner, max_size=3)), max_size=4
)


def parsed(node: Any) -> Space:
    found = space.parse(node, "x")
    assert found is not None
    return found


def member(axis: Space, value: Any) -> bool:
    """Whether a value lies in a space, type included: 1 and 1.0 are two freeze depths."""
    if axis.how in ("grid", "choice"):
        return any(type(value) is type(v) and value == v for v in axis.values)
    low, high = axis.values
    return type(value) is (int if axis.how == "int" else float) and low <= value <= high


@given(NODES)
def test_a_space_reads_back_what_it_writes(node: Any) -> None:
    assert parsed(node).as_dict() == node


@given(NODES, st.integers())
def test_samples_lie_inside(node: Any, seed: int) -> None:
    axis = parsed(node)
    rng = random.Random(seed)
    assert all(member(axis, axis.sample(rng)) for _ in range(10))


@given(NODES, DEFAULTS)
def test_the_nearest_value_to_any_default_lies_inside(node: Any, default: Any) -> None:
    axis = parsed(node)
    assert member(axis, axis.nearest(default))


@given(NODES)
def test_a_default_inside_stays(node: Any) -> None:
    axis = parsed(node)
    value = axis.sample(random.Random(0))
    assert axis.nearest(value) == value
    assert type(axis.nearest(value)) is type(value)


@pytest.mark.parametrize(
    ("node", "default", "nearest"),
    [
        ({"grid": [1e-5, 1e-3]}, 2e-5, 1e-5),
        ({"grid": [1e-5, 1e-3]}, 2e-4, 1e-3),  # on a log scale; on a linear one 1e-5 is nearer
        ({"grid": [0.0, 1.0]}, 0.6, 1.0),  # with a 0 the scale is linear
        ({"grid": [4, 2, 0]}, 3, 4),  # the earlier one of two that are as near
        ({"grid": ["cosine", "linear"]}, "linear", "linear"),
        ({"grid": ["cosine", "linear"]}, None, "cosine"),
        ({"choice": ["all", 4]}, 3, 4),
        ({"loguniform": [1e-4, 1e-2]}, 2e-5, 1e-4),
        ({"uniform": [0, 1]}, 7, 1.0),
        ({"int": [0, 3]}, 0.6, 1),
        ({"int": [2, 5]}, None, 2),
        ({"grid": [1, 1.0]}, 1.0, 1.0),
        ({"grid": [True, False]}, False, False),
    ],
)
def test_the_default_moves_to_the_nearest_value(node: Any, default: Any, nearest: Any) -> None:
    found = parsed(node).nearest(default)
    assert found == nearest
    assert type(found) is type(nearest)


@given(NODES)
def test_the_size_counts_the_options(node: Any) -> None:
    axis = parsed(node)
    if axis.size is None:
        assert axis.how in ("uniform", "loguniform")
    else:
        assert len(axis.options()) == axis.size if axis.size < 1000 else axis.how == "int"


def test_the_size_of_an_enormous_range_is_known_without_listing_it() -> None:
    assert parsed({"int": [1, 10**18]}).size == 10**18


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"grid": []}, "is empty"),
        ({"choice": []}, "is empty"),
        ({"grid": [1, 2, 1]}, "lists 1 twice"),
        ({"choice": [[1], [1]]}, "twice"),
        ({"grid": 3}, "takes a list"),
        ({"grid": "abc"}, "takes a list"),
        ({"choice": None}, "takes a list"),
        ({"int": {"low": 1}}, "takes a list"),
        ({"uniform": [2, 1]}, "not below"),
        ({"loguniform": [1, 1]}, "not below"),
        ({"int": [5, 1]}, "not below"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"loguniform": [-1, 1]}, "above 0"),
        ({"uniform": [0, math.inf]}, "two finite numbers"),
        ({"uniform": [math.nan, 1]}, "two finite numbers"),
        ({"uniform": [0, 10**400]}, "two finite numbers"),
        ({"uniform": [0, 1, 2]}, "two finite numbers"),
        ({"uniform": [0]}, "two finite numbers"),
        ({"uniform": ["0", 1]}, "two finite numbers"),
        ({"uniform": [False, True]}, "two finite numbers"),
        ({"int": [0.5, 2]}, "whole numbers"),
    ],
)
def test_a_malformed_space_is_refused_at_its_place(node: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        space.parse(node, "here")
    assert all(mistake.place == f"here.{next(iter(node))}" for mistake in caught.value.mistakes)


def test_every_fault_of_a_range_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        space.parse({"loguniform": [0, -1]}, "x")
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize(
    "node", [3, "grid", [1], None, {}, {"grid": [1], "x": 1}, {"each": [1]}, {"name": "l2"}]
)
def test_an_ordinary_value_is_no_space(node: Any) -> None:
    assert space.parse(node, "x") is None


def test_all_malformed_spaces_of_a_tree_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        space.spaces({"a": {"grid": []}, "b": {"c": {"int": [2, 1]}}, "d": {"grid": [1]}}, "s")
    assert [mistake.place for mistake in caught.value.mistakes] == ["s.a.grid", "s.b.c.int"]


@given(TREES)
def test_filling_the_spaces_with_themselves_changes_nothing(tree: Any) -> None:
    axes = space.spaces(tree)
    assert space.fill(tree, {path: axis.as_dict() for path, axis in axes.items()}) == tree


@given(TREES)
def test_a_filled_tree_has_no_spaces_left_and_holds_the_values(tree: Any) -> None:
    axes = space.spaces(tree)
    filled = space.fill(tree, dict.fromkeys(axes, 7))
    assert space.spaces(filled) == {}
    found = dict(space.walk(filled))
    assert all(found[path] == 7 for path in axes)


def test_fill_leaves_the_original_alone_and_can_leave_a_setting_out() -> None:
    tree = {"a": {"b": 1, "c": 2}}
    assert space.fill(tree, {("a", "b"): space.OMIT}) == {"a": {"c": 2}}
    assert tree == {"a": {"b": 1, "c": 2}}


VALUES = st.dictionaries(st.sampled_from(["a", "b"]), SCALARS | NODES)
SECTIONED = st.builds(
    lambda values, sections: values | sections,
    VALUES,
    st.dictionaries(st.sampled_from(["c", "d"]), VALUES),
)


@given(SECTIONED, SECTIONED, SECTIONED)
def test_merging_is_associative_among_settings_of_one_shape(a: Any, b: Any, c: Any) -> None:
    """Where a section stays a section and names no plug-in, only the order of the trees counts."""
    assert space.merge(space.merge(a, b), c) == space.merge(a, space.merge(b, c)) == space.merge(a, b, c)


@given(TREES)
def test_merging_with_nothing_or_itself_changes_nothing(tree: Any) -> None:
    assert space.merge(tree, {}) == space.merge({}, tree) == space.merge(tree, tree) == tree


def test_a_section_merges_key_by_key_and_the_later_value_wins() -> None:
    assert space.merge({"t": {"a": 1, "b": 1}}, {"t": {"b": 2, "c": 3}}) == {"t": {"a": 1, "b": 2, "c": 3}}


@pytest.mark.parametrize("later", [{"grid": [3]}, {"each": [3]}, 3, None])
@pytest.mark.parametrize("earlier", [{"grid": [1, 2]}, {"uniform": [0, 1]}, {"each": [1, 2]}, 1])
def test_a_space_is_one_value(earlier: Any, later: Any) -> None:
    """A later space or value replaces an earlier one; nothing of the earlier one is mixed in."""
    assert space.merge({"x": earlier}, {"x": later}) == {"x": later}


def test_a_section_that_names_another_plug_in_replaces_the_earlier_one() -> None:
    adamw = {"optimizer": {"name": "adamw", "beta1": 0.8, "weight_decay": 0.1}}
    assert space.merge(adamw, {"optimizer": {"name": "sgd", "momentum": 0.5}}) == {
        "optimizer": {"name": "sgd", "momentum": 0.5}
    }
    assert space.merge(adamw, {"optimizer": {"name": "adamw", "beta1": 0.9}}) == {
        "optimizer": {"name": "adamw", "beta1": 0.9, "weight_decay": 0.1}
    }


def test_each_gives_every_combination_once_in_file_order() -> None:
    tree = {"freeze": {"each": [0, "all"]}, "optimizer": {"name": {"each": ["sgd", "adam"]}, "beta1": 0.9}}
    found = space.each(tree, "s")
    assert [tuple(chosen.values()) for chosen, _ in found] == [
        (0, "sgd"), (0, "adam"), ("all", "sgd"), ("all", "adam"),
    ]  # fmt: skip
    assert found[3][1] == {"freeze": "all", "optimizer": {"name": "adam", "beta1": 0.9}}


@given(TREES)
def test_a_tree_without_each_is_its_own_only_expansion(tree: Any) -> None:
    assert space.each(tree, "s") == [({}, tree)]


def test_each_leaves_spaces_to_the_search() -> None:
    tree = {"lr": {"grid": [1, 2]}, "freeze": {"each": [{"grid": [1, 2]}, 0]}}
    assert [filled for _, filled in space.each(tree, "s")] == [
        {"lr": {"grid": [1, 2]}, "freeze": {"grid": [1, 2]}},
        {"lr": {"grid": [1, 2]}, "freeze": 0},
    ]


def test_every_malformed_each_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        space.each({"a": {"each": []}, "b": {"each": [1, 1]}, "c": {"each": 5}}, "s")
    assert [mistake.place for mistake in caught.value.mistakes] == ["s.a.each", "s.b.each", "s.c.each"]


def test_each_that_multiplies_beyond_reason_is_refused_before_it_is_expanded() -> None:
    tree = {f"x{index}": {"each": list(range(20))} for index in range(20)}
    with pytest.raises(InputError, match="combinations"):
        space.each(tree, "s")
