"""Statistics as pure functions over arrays; nothing here knows of tasks, files or reports.

R is the number of seeds on which both arms have a score. Every interval and p-value below treats
the seeds as the sample: it generalises over seeds (head initialisation, data order), not over test
examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit
from statsmodels.stats.multitest import multipletests

MIN_SEEDS = 3
"""Fewer paired seeds than this: no interval, no p-value (protocol, point 5)."""

EXPLORATORY_SEEDS = 5
"""Up to this many paired seeds a verdict is labelled exploratory (protocol, point 5)."""

# Scores that are equal on paper differ in the last bits once subtracted: (0.3 + c) - (0.1 + c) is
# not 0.2. Differences this close to each other count as one value.
_ABSOLUTE, _RELATIVE = 1e-12, 1e-9


def snapped(differences: ArrayLike) -> NDArray[np.float64]:
    """Differences with rounding noise removed: (R,) -> (R,).

    A constant vector comes back exactly constant, and noise around zero exactly zero, so that the
    degenerate cases below can be told apart by `==`.
    """
    d = np.array(differences, dtype=np.float64)  # a copy: the caller's array stays as it is
    d[np.abs(d) <= _ABSOLUTE] = 0.0
    if d.size and np.ptp(d) <= _ABSOLUTE + _RELATIVE * float(np.max(np.abs(d))):
        d[:] = d[0]
    return d


@lru_cache(maxsize=4096)
def _critical(df: int, level: float) -> float:
    """Two-sided Student-t critical value."""
    return float(stdtrit(df, 0.5 + level / 2))


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """Student-t interval of the mean of `values` (R,): mean ± t_{R-1} · s / √R.

    Source: Student (1908); with paired differences as `values` it is the paired-t interval. None for
    fewer than `MIN_SEEDS` values. Constant values give an interval of width 0: the sample holds no
    evidence of spread, which is not evidence that there is none; `paired_p` guards the claim.
    """
    x = snapped(values)
    if x.size < MIN_SEEDS:
        return None
    if np.all(x == x[0]):
        return float(x[0]), float(x[0])
    mean = float(np.mean(x))
    half = _critical(x.size - 1, level) * float(np.std(x, ddof=1)) / float(np.sqrt(x.size))
    return mean - half, mean + half


def paired_p(differences: ArrayLike) -> float | None:
    """Two-sided p-value of "the mean paired difference is 0" for `differences` (R,).

    The paired t-test (Student 1908; equals `scipy.stats.ttest_rel`), and None below `MIN_SEEDS`.
    Without spread the t statistic is 0/0 or infinite and its model says nothing, so the exact
    sign-flip test (Fisher 1935) takes over: all differences 0 gives 1, all equal and not 0 gives
    2^(1-R), the smallest p-value that test can reach. The bound is not applied where there is
    spread: at 5 seeds it would be 0.0625 and forbid every claim, however large the effect; that
    such claims lean on normality is why they are labelled exploratory.
    """
    d = snapped(differences)
    if d.size < MIN_SEEDS:
        return None
    if np.all(d == d[0]):
        return 1.0 if d[0] == 0.0 else 2.0 ** (1 - d.size)
    t = float(np.mean(d)) / (float(np.std(d, ddof=1)) / float(np.sqrt(d.size)))
    return min(1.0, 2.0 * float(stdtr(d.size - 1, -abs(t))))


def p_better(gains: ArrayLike) -> float | None:
    """P(A better than B) over paired seeds, ties one half: `gains` (R,), positive where A is better.

    The paired estimate of the probability of outperforming (Bouthillier et al. 2021,
    arXiv 2103.03098). None below `MIN_SEEDS`, where it could only be 0, 1/2 or 1 by chance.
    """
    g = snapped(gains)
    if g.size < MIN_SEEDS:
        return None
    return float(np.mean((g > 0) + 0.5 * (g == 0)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Holm 1979) over one family of claims, by statsmodels.

    A claim without a p-value (too few seeds so far) stays None but counts in the family, as p = 1:
    the family is what the sweep set out to ask, so a verdict does not weaken as results come in.
    """
    if not p_values:
        return []
    filled = [1.0 if p is None else p for p in p_values]
    adjusted = multipletests(filled, method="holm")[1]
    return [None if p is None else float(a) for p, a in zip(p_values, adjusted, strict=True)]


def inside(interval: tuple[float, float] | None, margin: float) -> bool:
    """Whether the whole interval lies within ±margin.

    With a 90 % interval this is the two one-sided tests of equivalence at 5 % (Schuirmann 1987).
    """
    return interval is not None and -margin <= interval[0] and interval[1] <= margin


def excludes_zero(interval: tuple[float, float] | None) -> bool:
    """Whether 0 lies outside the interval."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)
