"""The statistics against scipy and statsmodels, and in the corners those leave open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle
from statsmodels.stats.multitest import multipletests

from harness.analysis import stats

SCORES = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=3, max_size=10)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(SCORES, st.randoms(use_true_random=False))
def test_t_interval_and_p_are_scipys(a: list[float], random: object) -> None:
    b = [score + random.choice((-0.02, 0.0, 0.01, 0.05)) for score in a]  # type: ignore[attr-defined]
    d = np.subtract(a, b)
    if np.ptp(d) < 1e-9:
        return
    theirs = oracle.ttest_rel(a, b)
    assert stats.paired_p(d) == pytest.approx(theirs.pvalue, abs=1e-12)
    for level in (0.90, 0.95):
        assert stats.t_interval(d, level) == pytest.approx(
            tuple(theirs.confidence_interval(level)), abs=1e-12
        )


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
    d = [0.1, 0.2][:n]
    assert stats.t_interval(d) is None
    assert stats.paired_p(d) is None
    assert stats.p_better(d) is None


@pytest.mark.parametrize("n", [3, 5, 10])
def test_no_spread_falls_back_to_the_sign_flip_test(n: int) -> None:
    assert stats.paired_p([0.0] * n) == 1.0
    assert stats.t_interval([0.0] * n) == (0.0, 0.0)
    assert stats.paired_p([0.1] * n) == 2.0 ** (1 - n)
    assert stats.paired_p([-0.1] * n) == 2.0 ** (1 - n)


def test_rounding_noise_is_no_spread() -> None:
    a, b = np.array([0.3, 0.5, 0.9]), np.array([0.1, 0.3, 0.7])
    assert np.ptp(a - b) > 0
    assert stats.paired_p(a - b) == 0.25
    assert stats.paired_p((a + 0.1) - (a + 0.1 + 1e-17)) == 1.0


def test_p_better_counts_ties_half() -> None:
    assert stats.p_better([0.1, -0.1, 0.0, 0.2]) == 0.625


def test_inside_and_excludes_zero() -> None:
    assert stats.inside((-0.01, 0.005), 0.01)
    assert not stats.inside((-0.02, 0.005), 0.01)
    assert not stats.inside(None, 0.01)
    assert stats.excludes_zero((0.001, 0.2)) and stats.excludes_zero((-0.2, -0.001))
    assert not stats.excludes_zero((-0.1, 0.1)) and not stats.excludes_zero(None)


def test_interval_covers_in_simulation() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(0.02, 0.01, size=(2000, 5))
    intervals = [stats.t_interval(row) for row in draws]
    covered = np.mean([i is not None and i[0] <= 0.02 <= i[1] for i in intervals])
    assert 0.93 <= covered <= 0.97
