"""Do the intervals and verdicts of a report hold what they say? Simulated, where the truth is known.

    python benchmarks/coverage.py                       # half an hour on one core
    python benchmarks/coverage.py --replications 200    # a look

Each simulated run predicts each test example right or wrong: a probit model in which seeds, examples, a
strategy's own way with an example, and chance add up, so that the true score of a strategy, over all seeds
and all examples, has a closed form. `spread` names how much seeds differ; in accuracy at 0.85 it is a
standard deviation of 0, 0.7, 1.5 and 4.4 points.

Three questions:

* coverage: how often a 95 % interval of the difference of two strategies holds the true difference. Arms:
  `crossed` (what reports use, `harness/analysis/crossed.py`), the same with Satterthwaite's degrees of
  freedom, the multi-bootstrap, and a paired t-test on the scores of the seeds.
* A/A: four copies of one strategy; how often is any called better than another, after Holm's adjustment?
* power: how often a true difference is found, each test at the threshold where it errs in 5 % of A/A pairs.
"""

from __future__ import annotations

import argparse
import gc
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import norm

from harness.analysis import bootstrap
from harness.analysis.comparisons import Contest, compare
from harness.analysis.crossed import Estimate, by_seed, by_seed_and_example, pseudo_values
from harness.analysis.outcomes import Outcome
from harness.analysis.study import Arena
from harness.metrics.forms import FORMS

Array = NDArray[np.float64]

SEEDS, EXAMPLES, METRICS = (3, 5, 10), (100, 1000), ("accuracy", "f1")
SPREADS = {"none": 0.0, "small": 0.05, "middling": 0.1, "large": 0.3}
PARTS = ("coverage", "claims", "power")
ARMS = ("crossed", "satterthwaite", "bootstrap", "t on seeds")
_EXAMPLE, _OWN, _CHANCE = 1.5, 0.4, 0.4
_POSITIVE = 0.6  # share of examples of class 1
_SEED = 1908


@dataclass(frozen=True)
class World:
    """Where strategies are simulated.

    Attributes:
        seeds: standard deviation of a seed's effect, on the probit scale on which examples have 1.5.
    """

    metric: str
    seeds: float

    @property
    def _total(self) -> float:
        return float(np.sqrt(self.seeds**2 + _EXAMPLE**2 + _OWN**2 + _CHANCE**2))

    def strength(self, accuracy: float) -> float:
        """The mean on the probit scale that comes to this accuracy."""
        return float(norm.ppf(accuracy)) * self._total

    def truth(self, strength: float) -> float:
        """The score over all seeds and examples. For F1 the rate of right answers is the same in both
        classes."""
        right = float(norm.cdf(strength / self._total))
        if self.metric == "accuracy":
            return right
        said = _POSITIVE * right + (1 - _POSITIVE) * (1 - right)
        return 2 * _POSITIVE * right / (said + _POSITIVE)

    def runs(self, strengths: Sequence[float], r: int, n: int, rng: np.random.Generator) -> list[list[Array]]:
        """Per strategy and seed the parts of each example, on the same n examples."""
        example = rng.normal(0, _EXAMPLE, n)
        positive = rng.random(n) < _POSITIVE
        return [self._strategy(strength, example, positive, r, rng) for strength in strengths]

    def _strategy(
        self, strength: float, example: Array, positive: NDArray[np.bool_], r: int, rng: np.random.Generator
    ) -> list[Array]:
        n = len(example)
        seeds, own = rng.normal(0, self.seeds, (r, 1)), rng.normal(0, _OWN, n)
        right = strength + seeds + example + own + rng.normal(0, _CHANCE, (r, n)) > 0
        if self.metric == "accuracy":
            return list(right[..., None].astype(float))
        said = np.where(right, positive, ~positive)
        return [np.c_[2.0 * (row & positive), row.astype(float) + positive] for row in said]

    def outcome(self, runs: Sequence[Array]) -> Outcome:
        values = [pseudo_values(self.form, parts) for parts in runs]
        scores = [self.form.score(parts) for parts in runs]
        return Outcome(dict(enumerate(scores)), dict(enumerate(values)))

    @property
    def form(self):  # type: ignore[no-untyped-def]
        return FORMS["mean" if self.metric == "accuracy" else "ratio"]


def worlds(metric: str) -> dict[str, World]:
    return {name: World(metric, seeds) for name, seeds in SPREADS.items()}


def generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng([_SEED, *numbers])


# -- coverage ----------------------------------------------------------------------------------------


def coverage(
    world: World, r: int, n: int, replications: int, draws: int, arms: Sequence[str] = ARMS
) -> dict[str, float]:
    """How often each arm's interval holds the true difference between accuracies of 0.85 and 0.83."""
    rng = generator(r, n, int(1000 * world.seeds), METRICS.index(world.metric))
    strengths = [world.strength(accuracy) for accuracy in (0.85, 0.83)]
    truth = world.truth(strengths[0]) - world.truth(strengths[1])
    held: dict[str, list[bool]] = {arm: [] for arm in arms}
    for i in range(replications):
        runs = world.runs(strengths, r, n, rng)
        few = i >= replications // 5  # the multi-bootstrap takes hundreds of times as long as the others
        tried = [arm for arm in arms if not (few and arm == "bootstrap")]
        for arm, (low, high) in _intervals(world, runs, draws, rng, tried):
            held[arm].append(low <= truth <= high)
    return {arm: float(np.mean(each)) for arm, each in held.items()}


def _intervals(
    world: World, runs: list[list[Array]], draws: int, rng: np.random.Generator, arms: Sequence[str]
) -> Iterator[tuple[str, tuple[float, float]]]:
    a, b = (world.outcome(run) for run in runs)
    d = np.stack([a.values[seed] - b.values[seed] for seed in a.scores])
    estimate = by_seed_and_example(d)
    for arm in arms:
        if arm == "crossed":
            yield arm, estimate.interval()
        elif arm == "satterthwaite":
            half = stdtrit(_satterthwaite(estimate), 0.975) * estimate.error if estimate.error else 0.0
            yield arm, (estimate.mean - half, estimate.mean + half)
        elif arm == "bootstrap":
            yield arm, bootstrap.interval(bootstrap.differences(world.form, runs[0], runs[1], rng, draws))
        else:
            yield arm, by_seed(d.mean(axis=1)).interval()


def _satterthwaite(e: Estimate) -> float:
    seeds, examples = e.n * e.seeds + e.both, e.r * e.examples + e.both
    spread = seeds**2 / (e.r - 1) + examples**2 / (e.n - 1) + e.both**2 / ((e.r - 1) * (e.n - 1))
    return (seeds + examples - e.both) ** 2 / spread


# -- A/A and power -----------------------------------------------------------------------------------


def false_claims(world: World, r: int, n: int, replications: int, copies: int = 4) -> float:
    """How often any of several copies of one strategy is called better than another."""
    rng = generator(r, n, int(1000 * world.seeds), 7)
    task = {"name": "task", "primary": world.metric, "direction": "max", "delta": 0.01}
    arena = Arena("task", task, "backbone", ())
    claimed = 0
    for _ in range(replications):
        runs = world.runs([world.strength(0.85)] * copies, r, n, rng)
        outcomes = {f"copy {i}": world.outcome(run) for i, run in enumerate(runs)}
        (comparisons,) = compare([Contest(arena, outcomes)], None)
        claimed += any(comparison["verdict"] in ("better", "worse") for comparison in comparisons)
    return claimed / replications


def power(
    world: World, r: int, n: int, replications: int, gain: float = 0.03
) -> Mapping[str, tuple[float, float]]:
    """Of the test that reports use and of the paired t-test on seeds: how often it errs in A/A pairs at 5 %,
    and how often it finds a gain in accuracy at the threshold where it would err in 5 %."""
    rng = generator(r, n, int(1000 * world.seeds), 11)
    p = {
        arm: {True: np.empty(replications), False: np.empty(replications)}
        for arm in ("crossed", "t on seeds")
    }
    for same, i in itertools.product((True, False), range(replications)):
        strengths = [world.strength(0.82 if same else 0.82 + gain), world.strength(0.82)]
        a, b = (world.outcome(run) for run in world.runs(strengths, r, n, rng))
        d = np.stack([a.values[seed] - b.values[seed] for seed in a.scores])
        p["crossed"][same][i], p["t on seeds"][same][i] = by_seed_and_example(d).p, by_seed(d.mean(axis=1)).p
    found = {}
    for arm, by_truth in p.items():
        threshold = np.quantile(by_truth[True], 0.05)
        found[arm] = (float(np.mean(by_truth[True] < 0.05)), float(np.mean(by_truth[False] <= threshold)))
    return found


# -- printing ----------------------------------------------------------------------------------------


def main() -> None:
    top = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    top.add_argument("--replications", type=int, default=1000)
    top.add_argument("--draws", type=int, default=500, help="of the multi-bootstrap")
    top.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    chosen = top.parse_args()
    gc.freeze()  # statsmodels collects garbage whenever it adjusts p-values
    if "coverage" in chosen.parts:
        _print_coverage(chosen.replications, chosen.draws)
    if "claims" in chosen.parts:
        _print_claims(chosen.replications)
    if "power" in chosen.parts:
        _print_power(chosen.replications)


def _print_coverage(replications: int, draws: int) -> None:
    few = replications // 5
    print(f"\n## Coverage of 95 % intervals, {replications} replications ({few} of the bootstrap)\n")
    print("Mean over spreads, lowest to highest.\n")
    print("| metric | seeds | examples | " + " | ".join(ARMS) + " |")
    print("|---|---:|---:|" + "---:|" * len(ARMS))
    for metric, r, n in itertools.product(METRICS, SEEDS, EXAMPLES):
        rows = [coverage(world, r, n, replications, draws) for world in worlds(metric).values()]
        cells = [[row[arm] for row in rows] for arm in ARMS]
        shown = " | ".join(f"{np.mean(cell):.3f} ({min(cell):.3f}–{max(cell):.3f})" for cell in cells)
        print(f"| {metric} | {r} | {n} | {shown} |", flush=True)


def _print_claims(replications: int) -> None:
    print(f"\n## A/A: any of four copies called better, {replications} replications\n")
    print("| metric | seeds | examples | " + " | ".join(f"seeds differ: {name}" for name in SPREADS) + " |")
    print("|---|---:|---:|" + "---:|" * len(SPREADS))
    for metric, r, n in itertools.product(METRICS, SEEDS, EXAMPLES):
        rates = [false_claims(world, r, n, replications) for world in worlds(metric).values()]
        print(f"| {metric} | {r} | {n} | " + " | ".join(f"{rate:.3f}" for rate in rates) + " |", flush=True)


def _print_power(replications: int) -> None:
    print(f"\n## Power for 3 points of accuracy at equal error, {replications} replications\n")
    print("| seeds differ | seeds | examples | crossed: errs | finds | t on seeds: errs | finds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for (name, world), r, n in itertools.product(worlds("accuracy").items(), SEEDS, EXAMPLES):
        found = power(world, r, n, replications)
        shown = " | ".join(f"{errs:.3f} | {finds:.3f}" for errs, finds in found.values())
        print(f"| {name} | {r} | {n} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
