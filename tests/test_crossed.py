"""Differences over seeds and examples, against what other libraries compute and where the truth is known."""

from __future__ import annotations

import gc
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from harness.analysis import bootstrap
from harness.analysis.crossed import by_seed, by_seed_and_example, pseudo_values
from harness.metrics.forms import FORMS

SCORES = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=3, max_size=10)


def study(r: int, n: int, seeds: float, examples: float, seed: int = 0, mean: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    return mean + rng.normal(0, seeds, (r, 1)) + rng.normal(0, examples, n) + rng.normal(0, 1, (r, n))


@pytest.fixture(scope="module")
def simulation() -> Any:
    """`benchmarks/coverage.py`, which is no module of the package."""
    path = Path(__file__).parent.parent / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    gc.freeze()  # statsmodels collects garbage in every call, which takes long in a process full of imports
    yield module
    gc.unfreeze()
    del sys.modules[spec.name]


# -- scores alone ------------------------------------------------------------------------------------


@given(SCORES, st.randoms(use_true_random=False))
def test_scores_alone_are_scipys_paired_t_test(a: list[float], random: Any) -> None:
    b = [score + random.choice((-0.02, 0.0, 0.01, 0.05)) for score in a]
    d = np.subtract(a, b)
    if np.ptp(d) < 1e-9:
        return
    theirs = oracle.ttest_rel(a, b)
    assert by_seed(d).p == pytest.approx(theirs.pvalue, abs=1e-12)
    for level in (0.90, 0.95):
        expected = tuple(theirs.confidence_interval(level))
        assert by_seed(d).interval(level) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_no_spread_falls_back_to_the_sign_flip_test(n: int) -> None:
    assert by_seed([0.0] * n).p == 1.0
    assert by_seed([0.0] * n).interval() == (0.0, 0.0)
    assert by_seed([0.1] * n).p == 2.0 ** (1 - n)
    assert by_seed_and_example(np.full((n, 7), -0.1)).p == 2.0 ** (1 - n)


def test_rounding_noise_is_no_spread() -> None:
    a, b = np.array([0.3, 0.5, 0.9]), np.array([0.1, 0.3, 0.7])
    assert np.ptp(a - b) > 0
    assert by_seed(a - b).p == 0.25
    assert by_seed((a + 0.1) - (a + 0.1 + 1e-17)).p == 1.0


# -- seeds and examples ------------------------------------------------------------------------------


def test_variances_are_those_of_the_analysis_of_variance() -> None:
    d = study(4, 6, 0.5, 0.8)
    frame = pd.DataFrame(
        [{"y": d[r, i], "seed": f"s{r}", "example": f"e{i}"} for r in range(4) for i in range(6)]
    )
    squares = anova_lm(ols("y ~ seed + example", frame).fit())["mean_sq"]
    found = by_seed_and_example(d)
    assert found.both == pytest.approx(squares["Residual"], abs=1e-9)
    assert 6 * found.seeds + found.both == pytest.approx(squares["seed"], abs=1e-9)
    assert 4 * found.examples + found.both == pytest.approx(squares["example"], abs=1e-9)
    assert found.mean == pytest.approx(d.mean(), abs=1e-12)


def test_without_examples_own_variance_it_is_the_t_test_on_seeds() -> None:
    """Seeds that differ, the same at every example: the examples add nothing."""
    d = np.repeat(np.array([0.1, 0.3, 0.2, 0.5])[:, None], 1000, axis=1)
    found, seeds = by_seed_and_example(d), by_seed(d[:, 0])
    assert found.interval() == pytest.approx(seeds.interval())
    assert found.p == pytest.approx(seeds.p, rel=1e-2)  # Student's t for the examples, not the normal


def test_without_seeds_own_variance_it_is_the_t_test_on_examples() -> None:
    """Seeds that all say the same: no number of them tells more about the examples."""
    values = np.random.default_rng(0).normal(0.1, 1, 400)
    found = by_seed_and_example(np.tile(values, (5, 1)))
    theirs = oracle.ttest_1samp(values, 0)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 8), st.integers(5, 60), st.floats(0, 2), st.floats(0, 2), st.integers(0, 10**6))
def test_order_shift_and_side_change_nothing(
    r: int, n: int, seeds: float, examples: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    d = study(r, n, seeds, examples, seed, mean=0.3)
    found = by_seed_and_example(d)
    shuffled = by_seed_and_example(d[rng.permutation(r)][:, rng.permutation(n)])
    assert shuffled.interval() == pytest.approx(found.interval(), abs=1e-9)
    assert shuffled.p == pytest.approx(found.p, rel=1e-6, abs=1e-12)
    low, high = found.interval()
    assert by_seed_and_example(-d).interval() == pytest.approx((-high, -low))
    assert by_seed_and_example(-d).p == pytest.approx(found.p)
    low_90, high_90 = found.interval(0.90)
    assert low <= low_90 <= found.mean <= high_90 <= high
    assert 0 <= found.p <= 1


def test_seeds_to_separate_do_separate() -> None:
    found = by_seed_and_example(study(4, 500, 0.4, 0.2, seed=1, mean=0.3))
    assert found.p > 0.01
    needed = found.seeds_to_separate(0.01)
    assert needed is not None and needed > 4
    assert found._with_seeds(needed)._found(0.01) and not found._with_seeds(needed - 1)._found(0.01)


def test_seeds_to_separate_separate_in_four_of_five_cases() -> None:
    """Of studies with so many seeds and such a difference."""
    needed = by_seed_and_example(study(4, 500, 0.4, 0.2, seed=1, mean=0.3)).seeds_to_separate(0.05)
    assert needed is not None
    found = [by_seed_and_example(study(needed, 500, 0.4, 0.2, seed, 0.3)).p < 0.05 for seed in range(200)]
    assert 0.7 <= np.mean(found) <= 0.95


def test_a_lead_without_spread_needs_the_seeds_of_a_sign_flip_test() -> None:
    """With 3 seeds the smallest p-value is 0.25, with 6 it is 0.031."""
    assert by_seed([0.2] * 3).seeds_to_separate(0.05) == 6
    assert by_seed([0.2] * 6).p < 0.05 <= by_seed([0.2] * 5).p
    assert by_seed([0.0] * 3).seeds_to_separate(0.05) is None


def test_no_number_of_seeds_makes_up_for_few_examples() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 30)
    found = by_seed_and_example(np.tile(values, (3, 1)) + study(3, 30, 0, 0, 2) * 1e-3)
    assert found.seeds_to_separate(0.05) is None


def test_what_is_detectable_is_found_as_often_as_said() -> None:
    """Of 400 studies with a difference of that size about four in five find it."""
    said = [by_seed_and_example(study(6, 300, 0.3, 0.3, seed)).detectable(0.05) for seed in range(900, 950)]
    mean = float(np.median(said))
    found = [by_seed_and_example(study(6, 300, 0.3, 0.3, seed, mean)).p < 0.05 for seed in range(400)]
    assert 0.65 <= np.mean(found) <= 0.95


# -- metrics that are no means -----------------------------------------------------------------------


def test_pseudo_values_of_a_mean_are_its_values() -> None:
    values = np.random.default_rng(0).random((30, 1))
    assert pseudo_values(FORMS["mean"], values) == pytest.approx(values[:, 0])


def test_pseudo_values_show_how_much_a_metric_varies() -> None:
    """Their variance over n is that of the metric over samples: F1, which is no mean."""
    rng = np.random.default_rng(0)

    def sample() -> Any:
        true = rng.random(400) < 0.4
        said = np.where(rng.random(400) < 0.8, true, ~true)
        return np.c_[2.0 * (said & true), said.astype(float) + true]

    f1 = FORMS["ratio"]
    variance = np.var([f1.score(sample()) for _ in range(2000)])
    estimates = [np.var(pseudo_values(f1, sample()), ddof=1) / 400 for _ in range(50)]
    assert np.mean(estimates) == pytest.approx(variance, rel=0.1)


def test_the_bootstrap_agrees_with_the_formula() -> None:
    """Many seeds and examples: both come to the same standard error, for a mean and for F1."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1, 500)
    runs = [
        [(0.5 + difficulty + rng.normal(0, 0.3) + rng.normal(0, 1, 500) > 0).astype(float) for _ in range(12)]
        for _ in range(2)
    ]
    a, b = ([run[:, None] for run in arm] for arm in runs)
    drawn = bootstrap.differences(FORMS["mean"], a, b, rng, draws=4000)
    found = by_seed_and_example(np.array(runs[0]) - np.array(runs[1]))
    assert drawn.mean() == pytest.approx(found.mean, abs=3 * found.error / 60)
    # each draw repeats seeds and examples, which counts their common part three times over
    _, _, both = found.parts
    assert drawn.std() == pytest.approx(np.sqrt(found.error**2 + 2 * both), rel=0.15)
    low, high = bootstrap.interval(drawn)
    assert low < found.mean < high


# -- where the truth is known ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_intervals_cover_what_they_say(simulation: Any, metric: str) -> None:
    """A fast version of benchmarks/coverage.py: five seeds on 100 examples, at a middling spread."""
    world = simulation.worlds(metric)["middling"]
    found = simulation.coverage(world, 5, 100, 400, 0, arms=("crossed", "t on seeds"))
    assert 0.92 <= found["crossed"] <= 0.98
    assert found["t on seeds"] < 0.9, "seeds alone do not tell of other examples"


@pytest.mark.slow
def test_copies_of_one_strategy_are_hardly_ever_told_apart(simulation: Any) -> None:
    world = simulation.worlds("accuracy")["large"]  # where plug-in formulas fail
    assert simulation.false_claims(world, 3, 100, 150) <= 0.06
