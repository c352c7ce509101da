"""Racing: which cells of a task can no longer be in its tie set.

Only validation scores are looked at, oriented so that higher is better: test stays sealed until a trial's own
end, and no decision hangs on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from harness.analysis import stats

ALPHA = 0.05
"""Of the verdicts that are foretold."""

DRAWS = 40_000
"""At the levels that one look of six has (0.01 / 6) this gives a chance to within a tenth of itself."""


@dataclass(frozen=True)
class Contest:
    """The comparison that a sweep ends with, as far as it is known before.

    Attributes:
        seeds: of the confirm phase.
        claims: in the family of Holm's adjustment: pairs of cells, over all tasks.
        delta: difference below which two cells count as equal.
        validation, test: examples in the splits.
        bounds: lowest and highest value of the metric, oriented; None if it has none.
    """

    seeds: int
    claims: int
    delta: float
    validation: int
    test: int
    bounds: tuple[float, float] | None


@dataclass(frozen=True)
class Runner:
    """A cell in the race: the validation scores of its winner.

    Attributes:
        scores: by (phase, seed), of finished trials only.
        tried: configurations that the winner was chosen among.
    """

    scores: Mapping[tuple[str, int], float]
    tried: int = 1


@dataclass(frozen=True)
class Out:
    """Why a cell is out: its chance of ending in the tie set, foretold from `n` differences to the leader,
    whose mean is `difference` (positive: the leader is better), is below `bound`."""

    leader: str
    difference: float
    n: int
    chance: float
    bound: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def raced_out(
    runners: Mapping[str, Runner], contest: Contest, level: float, spared: Iterable[str] = ()
) -> dict[str, Out]:
    """The cells that are out at this look.

    Args:
        level: chance that a cell which would end in the tie set is ever raced out. Split evenly over the
            looks, one before each confirm seed (Bonferroni).
        spared: cells that are never out.

    Returns: nothing where it cannot be told how far test may be from validation: for a metric without
        bounds, or with a score beyond them.
    """
    scores = [score for runner in runners.values() for score in runner.scores.values()]
    if contest.bounds is None or any(not contest.bounds[0] <= s <= contest.bounds[1] for s in scores):
        return {}
    runners = {name: runner for name, runner in runners.items() if runner.scores}
    means = {name: float(np.mean(list(runner.scores.values()))) for name, runner in runners.items()}
    leader = max(means, key=lambda name: means[name], default=None)
    if leader is None:
        return {}
    tried = sum(runner.tried for runner in runners.values())
    noise, bound = _noise([runner.scores for runner in runners.values()]), level / contest.seeds
    out = {}
    for name in means.keys() - {leader, *spared}:
        ahead, behind = runners[leader].scores, runners[name].scores
        shared = sorted(ahead.keys() & behind.keys())
        differences = [ahead[key] - behind[key] for key in shared]
        tuned = sum(phase == "tune" for phase, _ in shared)
        examples = _example_variance((means[leader], means[name]), contest.bounds, contest.validation)
        chance = tie_chance(differences, contest, noise, examples, tuned, tried)
        if chance < bound:
            out[name] = Out(leader, float(np.mean(differences)), len(shared), chance, bound)
    return out


@dataclass(frozen=True)
class Noise:
    """A variance with its degrees of freedom."""

    variance: float
    df: int


def _noise(scores: Sequence[Mapping[tuple[str, int], float]]) -> Noise:
    """The variance of a paired difference from all cells together: twice the residual mean square of
    cells × seeds, the randomised blocks of Fisher (1935). No degrees of freedom where nothing is shared."""
    keys = sorted(set.intersection(*(set(found) for found in scores)))
    x = np.array([[found[key] for key in keys] for found in scores])
    df = (x.shape[0] - 1) * (x.shape[1] - 1)
    if df <= 0:
        return Noise(0.0, 0)
    residuals = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
    return Noise(2 * float(np.sum(residuals**2)) / df, df)


def _example_variance(means: tuple[float, float], bounds: tuple[float, float], n: int) -> float:
    """The largest variance that the difference of two cells may have between examples, from scores on n.

    Among numbers from `low` to `high` with mean m none have a larger variance than (high − m)(m − low)
    (Bhatia & Davis 2000); of the two cells' errors it is assumed that they do not exclude each other. The
    means are pulled inwards by one example at either end: all right on validation is not all right on test.
    """
    low, high = bounds
    variance = 0.0
    for mean in means:
        inner = (n * mean + low + high) / (n + 2)
        variance += (high - inner) * (inner - low)
    return variance


def tie_chance(
    differences: ArrayLike,
    contest: Contest,
    noise: Noise | None = None,
    examples: float = 0.0,
    tuned: int = 0,
    tried: int = 1,
) -> float:
    """The chance that the leader will not beat a cell in the end, from paired differences so far (n,).

    The verdict is foretold: mean and spread of the differences of all confirm seeds on test are drawn from
    the predictive distribution of a normal sample with unknown mean and variance (reference prior; Geisser
    1993), and put to the test that the verdict uses, with the hardest threshold that Holm may set, α over
    all claims. 1 for fewer than three differences, and where they have no spread.

    Args:
        noise: variance of a difference as all cells of the task show it. It has more degrees of freedom than
            the pair alone; the pair's own variance counts where it is larger.
        examples: variance of the difference between examples. By that the difference on test may be another
            than on validation, and so much less sure is the verdict.
        tuned: how many of the differences come from the tune phase, where the leader was chosen for its
            score among `tried` configurations: the expected maximum of N normal errors is at most √(2 ln N)
            standard deviations (of a difference: √(ln N)), and so much is taken off those.
    """
    d = stats.snapped(differences)
    n, seeds = d.size, contest.seeds
    if min(n, seeds) < stats.MIN_SEEDS or np.all(d == d[0]):
        return 1.0
    own = Noise(float(np.var(d, ddof=1)), n - 1)
    df = max(own.df, noise.df if noise else 0)
    variance = max(own.variance, noise.variance if noise else 0.0)
    rng = np.random.default_rng(0)  # the same data give the same answer, in a resumed run as well
    deviation = np.sqrt(df * variance / rng.chisquare(df, DRAWS))
    flattery = math.sqrt(tuned * math.log(tried)) / n
    mean = np.mean(d) + deviation * (rng.standard_normal(DRAWS) / math.sqrt(n) - flattery)
    mean += math.sqrt(examples * (1 / contest.validation + 1 / contest.test)) * rng.standard_normal(DRAWS)
    # fewer test than validation examples make single scores noisier there
    deviation *= math.sqrt(max(1.0, contest.validation / contest.test))
    mean += deviation * rng.standard_normal(DRAWS) / math.sqrt(seeds)
    error = deviation * np.sqrt(rng.chisquare(seeds - 1, DRAWS) / (seeds - 1) / seeds)
    error = np.hypot(error, math.sqrt(examples / contest.test))
    significant = mean > stdtrit(seeds - 1, 1 - ALPHA / contest.claims / 2) * error
    noticeable = mean + stdtrit(seeds - 1, 0.95) * error > contest.delta
    return float(1 - np.mean(significant & noticeable))
