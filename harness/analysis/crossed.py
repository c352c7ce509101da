"""How sure a difference is that was measured on R seeds, and where it is known on n examples for each of
them.

Seeds and examples are both samples: of the seeds one might have taken, and of the examples one might have
been given. Neither is resampled within the other, since every seed is scored on the same examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln, ndtri, stdtr, stdtrit

from harness.analysis import stats
from harness.metrics.forms import Form

Array = NDArray[np.float64]

_MOST_SEEDS = 200
_POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and over examples where they are known, with what its variance is made of.

    The variance of the mean is seeds / R + examples / n + both / (R n), each part at least 0.

    Attributes:
        mean: of the differences, or of the scores.
        r: number of seeds; n: number of examples, 0 where only scores of the whole split are known.
        seeds, examples, both: the variance that is due to the seed, to the example, and to the two together,
        as
            the analysis of variance estimates it, which may come out below 0. With n = 0 `seeds` is the
            variance of a score and the others are 0.
    """

    mean: float
    r: int
    n: int
    seeds: float
    examples: float = 0.0
    both: float = 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(sum(self.parts)))

    @property
    def parts(self) -> tuple[float, float, float]:
        """What seeds, examples, and both together add to the variance of the mean."""
        seeds = max(self.seeds, 0.0) / self.r
        return (
            (seeds, max(self.examples, 0.0) / self.n, self.both / (self.r * self.n))
            if self.n
            else (seeds, 0.0, 0.0)
        )

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A two-sided interval of the mean.

        Critical values are Student's for R − 1 and for n − 1 degrees of freedom, weighted by what seeds, and
        what everything else, add to the variance. They hold their level better than Satterthwaite's where
        seeds are few, and much better than what looks at seeds alone (`benchmarks/coverage.py`).

        Source: Cochran & Cox 1957, Experimental Designs, § 4.14; Cochran 1964, Biometrics 20.
        """
        if self.error == 0:
            return self.mean, self.mean
        tail, weight = (1 - level) / 2, self.parts[0] / self.error**2
        critical = float(-stdtrit(self.r - 1, tail))
        if self.n:
            critical = weight * critical + (1 - weight) * float(-stdtrit(self.n - 1, tail))
        return self.mean - critical * self.error, self.mean + critical * self.error

    @property
    def p(self) -> float:
        """Two-sided p-value of "the mean is 0"."""
        return self._p(self.mean)

    def _p(self, mean: float) -> float:
        """The p-value if this were the mean.

        Without any spread no model says anything, and the exact sign-flip test over seeds (Fisher 1935) takes
        over: 2^(1 − R) is the smallest p-value that it can reach. From scores alone it is the paired t-test.
        Where examples are known, the variance between few seeds is too uncertain for a plug-in: the p-value
        is averaged over its fiducial distribution, that of (R − 1) MS_seeds / χ²_(R−1) (Weerahandi 1995,
        Exact Statistical Methods for Data Analysis, ch. 9). That is stricter than the interval far out, where
        Holm's adjustment looks: four copies of a strategy stay within 5 % of false claims, and would not with
        the interval's critical values (`benchmarks/coverage.py`)."""
        if self.error == 0:
            return 1.0 if mean == 0 else 2.0 ** (1 - self.r)
        if self.n == 0:
            return min(1.0, 2 * float(stdtr(self.r - 1, -abs(mean) / self.error)))
        draws, weights = _chi_square(self.r - 1)
        between = self.n * self.seeds + self.both  # mean squares
        others = max(self.r * self.examples + self.both, self.both)
        variance = (np.maximum(0.0, (self.r - 1) * between / draws - self.both) + others) / (self.r * self.n)
        tails = stdtr(self.n - 1, -abs(mean) / np.sqrt(variance))
        return min(1.0, 2 * float(tails @ weights))

    def seeds_to_separate(self, alpha: float) -> int | None:
        """The fewest seeds with which a true difference of this size would be found in four of five cases;
        None if no number would do, because the examples are too few."""
        if self.error == 0:
            return None if self.mean == 0 else 1 + int(np.ceil(np.log2(1 / alpha)))
        few, many = self.r, _MOST_SEEDS
        if not self._with_seeds(many)._found(alpha):
            return None
        while few + 1 < many:  # p falls as seeds are added
            middle = (few + many) // 2
            few, many = (few, middle) if self._with_seeds(middle)._found(alpha) else (middle, many)
        return many

    def _found(self, alpha: float) -> bool:
        """Whether a difference of this size is found in four of five cases, about."""
        unlucky = abs(self.mean) - float(ndtri(_POWER)) * self.error
        return unlucky > 0 and self._p(unlucky) < alpha

    def _with_seeds(self, r: int) -> Estimate:
        """What to expect of `r` seeds, if the difference and the variances are as estimated."""
        return replace(self, r=r, seeds=max(self.seeds, 0.0), examples=max(self.examples, 0.0))

    def detectable(self, alpha: float) -> float:
        """The smallest true difference that such a design finds in four of five cases, about."""
        if self.error == 0:
            return 0.0
        high = self.error
        while self._p(high) > alpha:
            high *= 2
        threshold = brentq(lambda mean: self._p(mean) - alpha, 0.0, high, rtol=1e-4)
        return float(threshold + ndtri(_POWER) * self.error)


@lru_cache(maxsize=64)
def _chi_square(df: int) -> tuple[Array, Array]:
    """Values of χ² and the chance of each, close enough together for a smooth integrand: the trapezoidal rule
    over their logarithm."""
    x = np.linspace(-70.0, max(6.5, np.log(4.0 * df)), 600)
    log_density = df / 2 * x - np.exp(x) / 2 - df / 2 * np.log(2) - gammaln(df / 2)
    weights = np.exp(log_density)
    return np.exp(x), weights / weights.sum()


def by_seed(scores: Array) -> Estimate:
    """From one number per seed, (R,) with R > 1: what generalises over seeds alone."""
    x = stats.snapped(scores)
    constant = bool(np.all(x == x[0]))
    return Estimate(float(np.mean(x)), len(x), 0, 0.0 if constant else float(np.var(x, ddof=1)))


def by_seed_and_example(d: Array) -> Estimate:
    """From one number per seed and example, (R, n), both more than one, as crossed random effects:
    d_ri = μ + s_r + e_i + ε_ri.

    Source: Searle, Casella & McCulloch 1992, Variance Components, ch. 4.
    """
    r, n = d.shape
    d = stats.snapped(d.ravel()).reshape(r, n)
    mean = float(d.mean())
    if np.all(d == d.flat[0]):
        return Estimate(float(d.flat[0]), r, n, 0.0)
    rows, columns = d.mean(axis=1) - mean, d.mean(axis=0) - mean
    rest = d - mean - rows[:, None] - columns[None, :]
    of_seeds = n * float(rows @ rows) / (r - 1)
    of_examples = r * float(columns @ columns) / (n - 1)
    both = float((rest * rest).sum()) / ((r - 1) * (n - 1))
    return Estimate(mean, r, n, (of_seeds - both) / n, (of_examples - both) / r, both)


def pseudo_values(form: Form, parts: Array) -> Array:
    """What each example adds to a metric that need not be a mean: jackknife pseudo-values, (n,), shifted so
    that their mean is the metric itself. Of a mean they are the examples' own values.

    Source: Tukey 1958; Miller 1974, Biometrika 61.
    """
    whole, without = form.score(parts), form.without_each(parts)
    values: Array = whole - (len(parts) - 1) * (without - without.mean())
    return values
