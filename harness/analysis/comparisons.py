"""Every pair of strategies on every task: the difference, how sure it is, and which of three words it
gets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.analysis import stats
from harness.analysis.crossed import Estimate
from harness.analysis.frame import number
from harness.analysis.outcomes import Outcome, compared
from harness.analysis.study import RACED_OUT, Arena

ALPHA = 0.05


@dataclass(frozen=True)
class Contest:
    """The strategies that compete on one task, what their headline runs came to, and which of them are out of
    the race."""

    arena: Arena
    outcomes: Mapping[str, Outcome]
    raced_out: frozenset[str] = frozenset()

    @property
    def width(self) -> float:
        """How far one example can move a score of one example, about: 1 for metrics with a perfect score, of
        which all lie between -1 and 1."""
        scores = [abs(score) for run in self.outcomes.values() for score in run.scores.values()]
        return 1.0 if number(self.arena.task.get("best")) is not None else max(scores, default=1.0)

    def out(self, *names: str) -> int:
        """How many of these strategies are out of the race."""
        return sum(name in self.raced_out for name in names)

    def measured(self) -> Contest:
        """The same without what was imputed."""
        return replace(self, outcomes={name: run.measured() for name, run in self.outcomes.items()})


def compare(contests: Sequence[Contest], baseline: str | None) -> list[list[dict[str, Any]]]:
    """Every pair of each contest, the baseline always second, with p-values after Holm over all of them.

    Differences are a − b in units of the metric; `verdict` and `p_better` are said of a, whatever the
    metric's direction.
    """
    found = [
        (contest, pair, *compared(*(contest.outcomes[name] for name in pair)))
        for contest in contests
        for pair in _pairs(list(contest.outcomes), baseline)
    ]
    # Pairs with a cell that is out of the race are no claims any more, but the family is what was asked.
    claims = [
        None if estimate is None or contest.out(*pair) else estimate.p for contest, pair, _, estimate in found
    ]
    adjusted, alpha = iter(stats.holm(claims)), ALPHA / max(1, len(claims))
    decided: dict[str, list[dict[str, Any]]] = {contest.arena.key: [] for contest in contests}
    for contest, pair, shared, estimate in found:
        decided[contest.arena.key].append(_decided(contest, pair, shared, estimate, next(adjusted), alpha))
    return list(decided.values())


def _pairs(strategies: list[str], baseline: str | None) -> list[tuple[str, str]]:
    return [(b, a) if a == baseline else (a, b) for a, b in itertools.combinations(strategies, 2)]


def _decided(
    contest: Contest,
    pair: tuple[str, str],
    shared: list[int],
    estimate: Estimate | None,
    p_adjusted: float | None,
    alpha: float,
) -> dict[str, Any]:
    """The comparison with its verdict.

    Args:
        alpha: Holm's hardest threshold, for what the design could have found.
    """
    arena, (a, b) = contest.arena, pair
    ours, theirs = (contest.outcomes[name].scores for name in pair)
    d = stats.snapped([ours[seed] - theirs[seed] for seed in shared])
    racing = contest.out(a, b) > 0
    ci = None if estimate is None else estimate.interval(0.95)
    within = _within(estimate, arena, contest.width) and not racing
    verdict = RACED_OUT if racing else "equivalent" if within else "undetermined"
    if not racing and p_adjusted is not None and p_adjusted < ALPHA and stats.excludes_zero(ci):
        assert estimate is not None
        verdict = "better" if arena.sign * estimate.mean > 0 else "worse"
    told = None if racing else estimate
    return {
        "a": a,
        "b": b,
        "difference": float(np.mean(d)) if shared else None,
        "ci": None if ci is None else list(ci),
        "p": None if estimate is None else estimate.p,
        "p_adjusted": p_adjusted,
        "p_better": stats.p_better(arena.sign * d),
        "n": len(shared),
        "examples": 0 if estimate is None else estimate.n,
        "variance": None if estimate is None else _shares(estimate),
        "detectable": told.detectable(alpha) if told is not None and told.error > 0 else None,
        "seeds_needed": told.seeds_to_separate(alpha)
        if told is not None and verdict == "undetermined"
        else None,
        "verdict": verdict,
        # Both at once is possible: a difference may be certain and too small to matter.
        "negligible": within and verdict in ("better", "worse"),
        "exploratory": not racing and stats.MIN_SEEDS <= len(shared) <= stats.EXPLORATORY_SEEDS,
    }


def _within(estimate: Estimate | None, arena: Arena, width: float) -> bool:
    """Whether the difference is equivalent to none (two one-sided tests at 5 %)."""
    if estimate is None:
        return False
    # One nonzero difference at every one of a few seeds has an interval of no width: not "equivalent" yet.
    spread = estimate.error > 0 or estimate.mean == 0 or estimate.r > stats.EXPLORATORY_SEEDS
    low, high = estimate.interval(0.90)
    if estimate.n:
        # Of something that n examples never showed up to 3 / n may be so (the rule of three, 95 %): few
        # examples on which nobody differs are no proof.
        unseen = 3 * width / estimate.n
        low, high = min(low, estimate.mean - unseen), max(high, estimate.mean + unseen)
    return spread and stats.inside((low, high), arena.delta)


def _shares(estimate: Estimate) -> dict[str, float]:
    """What part of the variance of the difference is due to seeds, to examples, and to both together."""
    total = sum(estimate.parts)
    return {
        name: part / total if total else 0.0
        for name, part in zip(("seeds", "examples", "both"), estimate.parts, strict=True)
    }
