"""The statistics against scipy and statsmodels, and in the corners those leave open."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle
from statsmodels.stats.multitest import multipletests

from harness.analysis import stats

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(max_examples=8, deadline=None)  # statsmodels takes 30 ms a call
@given(P_VALUES)
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@settings(max_examples=8, deadline=None)  # statsmodels takes 30 ms a call
@given(P_VALUES, st.integers(0, 10))
def test_holm_counts_claims_without_p_in_the_family(p_values: list[float], waiting: int) -> None:
    adjusted = stats.holm([None] * waiting + p_values)
    assert adjusted[:waiting] == [None] * waiting
    assert adjusted[waiting:] == pytest.approx(
        list(multipletests(p_values + [1.0] * waiting, method="holm")[1])[: len(p_values)]
    )


def test_holm_of_nothing() -> None:
    assert stats.holm([]) == []


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_seeds_give_nothing(n: int) -> None:
    assert stats.p_better([0.1, 0.2][:n]) is None


def test_p_better_counts_ties_half() -> None:
    assert stats.p_better([0.1, -0.1, 0.0, 0.2]) == 0.625


def test_inside_and_excludes_zero() -> None:
    assert stats.inside((-0.01, 0.005), 0.01)
    assert not stats.inside((-0.02, 0.005), 0.01)
    assert not stats.inside(None, 0.01)
    assert stats.excludes_zero((0.001, 0.2)) and stats.excludes_zero((-0.2, -0.001))
    assert not stats.excludes_zero((-0.1, 0.1)) and not stats.excludes_zero(None)


@given(st.integers(0, 30), st.integers(1, 30))
def test_wilson_is_scipys(count: int, more: int) -> None:
    runs = count + more
    theirs = oracle.binomtest(count, runs).proportion_ci(method="wilson")
    assert stats.wilson(count, runs) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_of_nothing() -> None:
    assert stats.wilson(0, 0) is None


@given(P_VALUES)
def test_partial_conjunction_by_its_definition(p_values: list[float]) -> None:
    """At least u claims hold if every choice of n − u + 1 of them has one that Bonferroni rejects."""
    n = len(p_values)
    worst = sorted(p_values, reverse=True)
    held = [u for u in range(1, n + 1) if min(worst[: n - u + 1]) * (n - u + 1) <= 0.05]
    assert stats.partial_conjunction(p_values) == max(held, default=0)


def test_partial_conjunction_counts_sure_claims() -> None:
    assert stats.partial_conjunction([1e-6, 1e-6, 1e-6, 0.9]) == 3
    assert stats.partial_conjunction([0.04, 0.9]) == 0
    assert stats.partial_conjunction([]) == 0
