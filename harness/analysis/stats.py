"""Statistics as pure functions over arrays; nothing here knows of tasks, files or reports.

R is the number of seeds on which both arms have a score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

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


def wilson(count: int, runs: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of a rate, `count` of `runs`, by statsmodels (Wilson 1927); None without runs."""
    if runs == 0:
        return None
    low, high = proportion_confint(count, runs, 1 - level, method="wilson")
    return float(low), float(high)


def partial_conjunction(p_values: Sequence[float], alpha: float = 0.05) -> int:
    """On how many of several data sets a claim holds, at least, with confidence 1 − alpha.

    The largest u for which "the claim holds on fewer than u" is rejected: (n − u + 1) · p_(u) ≤ alpha, p_(u)
    the u-th smallest. Valid whatever the dependence between data sets (Bonferroni).

    Source: Benjamini & Heller 2008; Dror et al. 2017, arXiv 1709.09500, eq. 5.
    """
    ordered = np.sort(np.asarray(p_values, dtype=np.float64))
    n = len(ordered)
    held = [u for u in range(1, n + 1) if (n - u + 1) * ordered[u - 1] <= alpha]
    return max(held, default=0)


def inside(interval: tuple[float, float] | None, margin: float) -> bool:
    """Whether the whole interval lies within ±margin.

    With a 90 % interval this is the two one-sided tests of equivalence at 5 % (Schuirmann 1987).
    """
    return interval is not None and -margin <= interval[0] and interval[1] <= margin


def excludes_zero(interval: tuple[float, float] | None) -> bool:
    """Whether 0 lies outside the interval."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)
