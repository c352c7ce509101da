"""Over all tasks: what a strategy gains on the baseline, on how many tasks it wins, and ranks where there are
enough tasks for them.

Tasks are taken as they are: numbers generalise over seeds, and over examples where those are known, not over
other tasks. Scores in different metrics are put on one scale whose ends are fixed in advance: 0 is the
constant predictor, 1 is perfect.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, trim_mean, wilcoxon

from harness.analysis import stats, wording
from harness.analysis.bootstrap import counts, interval
from harness.analysis.comparisons import ALPHA, Contest
from harness.analysis.outcomes import Outcome, shared_examples
from harness.analysis.study import Study, number

Array = NDArray[np.float64]

DRAWS = 10_000
MIN_TASKS = 2
MIN_TASKS_FOR_RANKS = 10
_SEED = 20160805
_AT_ONCE = 1 << 23


def judge(
    study: Study, contests: Sequence[Contest], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What can be said over all tasks: `strategies` that take part in all of them, with enough seeds. With
    fewer than two tasks, or no common scale, there is a `reason` and nothing else."""
    found: dict[str, Any] = {"tasks": len(contests), "strategies": {}, "ranks": None}
    if len(contests) < MIN_TASKS:
        return {**found, "reason": "there is one task only"}
    scale = _scale(study.split, contests)
    if scale is None:
        return {**found, "reason": "the tasks' metrics have no common scale"}
    baseline = study.plan.get("baseline")
    entered = dict.fromkeys(name for contest in contests for name in contest.outcomes)
    everywhere = [name for name in entered if all(_paired(c, name, baseline) for c in contests)]
    if not everywhere:
        return {**found, "reason": "no strategy has 3 seeds on every task"}
    if baseline not in everywhere:
        baseline = None
    for name in everywhere:
        gain = {} if baseline in (None, name) else _gain(contests, name, str(baseline), scale, tasks)
        found["strategies"][name] = {"iqm": _iqm(contests, name, scale), **gain}
    if len(contests) >= MIN_TASKS_FOR_RANKS and len(everywhere) > 2:
        found["ranks"] = _ranks(contests, everywhere, scale)
    return {**found, "unit": scale.unit, "baseline": baseline}


@dataclass(frozen=True)
class Scale:
    """How scores become comparable: (score − zero) / width, by task; more is better.

    Attributes:
        unit: in words.
    """

    unit: str
    zero: Mapping[str, float]
    width: Mapping[str, float]

    def of(self, contest: Contest, score: Any) -> Any:
        key = contest.arena.key
        return (score - self.zero[key]) / self.width[key]


def _scale(split: str, contests: Sequence[Contest]) -> Scale | None:
    """The metric itself where all tasks have the same; else the constant predictor and a perfect score are 0
    and 1 on every task. None where a constant predictor or a perfect score is not known."""
    kinds = {(contest.arena.primary, contest.arena.sign) for contest in contests}
    if len(kinds) == 1:
        ((metric, sign),) = kinds
        zero, width = {c.arena.key: 0.0 for c in contests}, {c.arena.key: float(sign) for c in contests}
        return Scale(metric, zero, width)
    zero, width = {}, {}
    for contest in contests:
        arena = contest.arena
        constant = number((arena.task.get("constant") or {}).get(split, {}).get(arena.primary))
        best = number(arena.task.get("best"))
        if constant is None or best is None or best == constant:
            return None
        zero[arena.key], width[arena.key] = constant, best - constant
    return Scale("share of the way from the constant predictor to a perfect score", zero, width)


def _gain(
    contests: Sequence[Contest],
    name: str,
    baseline: str,
    scale: Scale,
    tasks: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Mean gain over the baseline with a bootstrap interval, mean probability of improvement, and on how many
    tasks the strategy is better for sure."""
    pairs = [(contest, contest.outcomes[name], contest.outcomes[baseline]) for contest in contests]
    gains = [_difference(contest, ours, theirs, scale) for contest, ours, theirs in pairs]
    chances = [stats.p_better([float(np.mean(row)) for row in gain]) for gain in gains]
    one_sided = []
    for contest, _, _ in pairs:
        comparison = wording.pair(tasks[contest.arena.key], name, baseline)
        assert comparison is not None and comparison["p"] is not None
        ahead = contest.arena.sign * comparison["difference"] > 0
        one_sided.append(comparison["p"] / 2 if ahead else 1 - comparison["p"] / 2)
    rng = np.random.default_rng(_SEED)
    drawn = np.mean([_resampled(gain, rng) for gain in gains], axis=0)
    return {
        "gain": float(np.mean([gain.mean() for gain in gains])),
        "ci": list(interval(drawn)),
        "p_better": float(np.mean([chance for chance in chances if chance is not None])),
        "better_on_at_least": stats.partial_conjunction(one_sided, ALPHA),
    }


def _difference(contest: Contest, a: Outcome, b: Outcome, scale: Scale) -> Array:
    """By shared seed, and by example where they are known: (R, n), n = 1 otherwise."""
    seeds = sorted(a.scores.keys() & b.scores.keys())
    if shared_examples(a, b):
        d = np.stack([a.values[seed] - b.values[seed] for seed in seeds])
    else:
        d = np.array([[a.scores[seed] - b.scores[seed]] for seed in seeds])
    found: Array = d / scale.width[contest.arena.key]
    return found


def _resampled(d: Array, rng: np.random.Generator) -> Array:
    """The mean of (R, n) on resampled seeds and examples, (draws,). Seeds few in number are drawn as they
    are, which makes intervals too narrow; the spread between them is widened by R / (R − 1) for that."""
    r, n = d.shape
    mean = d.mean()
    rows = counts(r, DRAWS, rng) / r
    found: Array = mean + (rows @ d.mean(axis=1) - mean) * math.sqrt(r / (r - 1))
    if n > 1:
        columns = d.mean(axis=0) - mean
        step = max(1, _AT_ONCE // n)
        for at in range(0, DRAWS, step):
            part = slice(at, min(at + step, DRAWS))
            found[part] += counts(n, part.stop - part.start, rng) @ columns / n
    return found


def _iqm(contests: Sequence[Contest], name: str, scale: Scale) -> dict[str, Any]:
    """Interquartile mean over all runs of all tasks, with a bootstrap interval stratified by task.

    Source: Agarwal et al. 2021, arXiv 2108.13264 (rliable).
    """
    runs = [scale.of(contest, np.array(list(contest.outcomes[name].scores.values()))) for contest in contests]
    rng = np.random.default_rng(_SEED)
    drawn = [run[rng.integers(len(run), size=(DRAWS, len(run)))] for run in runs]
    return {
        "value": float(trim_mean(np.concatenate(runs), 0.25)),
        "ci": list(interval(trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1))),
    }


def _ranks(contests: Sequence[Contest], names: Sequence[str], scale: Scale) -> dict[str, Any]:
    """Friedman's test over tasks, then every pair by Wilcoxon's signed ranks with Holm. Not Nemenyi: whether
    two strategies differ must not depend on who else took part.

    Source: Demšar 2006, JMLR 7; Benavoli, Corani & Mangili 2016, JMLR 17.
    """
    scores = np.array(
        [[scale.of(contest, contest.outcomes[name].mean) for name in names] for contest in contests]
    )
    ranks = np.array([rankdata(-row) for row in np.round(scores, 12)])
    pairs = list(itertools.combinations(range(len(names)), 2))
    raw = [_wilcoxon(scores[:, i] - scores[:, j]) for i, j in pairs]
    test = friedmanchisquare(*scores.T) if len(np.unique(ranks)) > 1 else None
    return {
        "mean": dict(zip(names, ranks.mean(axis=0).tolist(), strict=True)),
        "friedman": {
            "statistic": float(test.statistic) if test else 0.0,
            "p": float(test.pvalue) if test else 1.0,
        },
        "pairs": [
            {"a": names[i], "b": names[j], "p": p, "p_adjusted": adjusted}
            for (i, j), p, adjusted in zip(pairs, raw, stats.holm(list(raw)), strict=True)
        ],
    }


def _wilcoxon(differences: Array) -> float:
    d = stats.snapped(differences)
    return 1.0 if np.all(d == 0) else float(wilcoxon(d).pvalue)


def _paired(contest: Contest, name: str, baseline: str | None) -> bool:
    """Whether a strategy takes part everywhere with seeds enough, shared with the baseline."""
    outcome = contest.outcomes.get(name)
    if outcome is None or contest.out(name) or len(outcome.scores) < stats.MIN_SEEDS:
        return False
    other = contest.outcomes.get(baseline or "")
    return other is None or len(outcome.scores.keys() & other.scores.keys()) >= stats.MIN_SEEDS
