"""Every pair of strategies on every task: the difference, how sure it is, and which of three words it
gets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis import stats
from harness.analysis.crossed import Estimate
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

    def out(self, *names: str) -> int:
        """How many of these strategies are out of the race."""
        return sum(name in self.raced_out for name in names)


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
    # The race has decided, by validation, between who is in and who is out: no claim is left to make there.
    # Between two cells that are out nothing is decided: these claims count, unanswered.
    claims = [
        None if estimate is None or contest.out(*pair) else estimate.p
        for contest, pair, _, estimate in found
        if contest.out(*pair) != 1
    ]
    adjusted, alpha = iter(stats.holm(claims)), ALPHA / max(1, len(claims))
    decided: dict[str, list[dict[str, Any]]] = {contest.arena.key: [] for contest in contests}
    for contest, pair, shared, estimate in found:
        p = next(adjusted) if contest.out(*pair) != 1 else None
        decided[contest.arena.key].append(_decided(contest, pair, shared, estimate, p, alpha))
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
    within = _within(estimate, arena.delta) and not racing
    verdict = RACED_OUT if racing else "equivalent" if within else "undetermined"
    if not racing and p_adjusted is not None and p_adjusted < ALPHA and stats.excludes_zero(ci):
        assert estimate is not None
        verdict = "better" if arena.sign * estimate.mean > 0 else "worse"
    told = estimate is not None and not racing
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
        "detectable": estimate.detectable(alpha) if told and estimate is not None else None,
        "seeds_needed": estimate.seeds_to_separate(alpha)
        if told and estimate is not None and verdict == "undetermined"
        else None,
        "verdict": verdict,
        # Both at once is possible: a difference may be certain and too small to matter.
        "negligible": within and verdict in ("better", "worse"),
        "exploratory": not racing and stats.MIN_SEEDS <= len(shared) <= stats.EXPLORATORY_SEEDS,
    }


def _within(estimate: Estimate | None, delta: float) -> bool:
    """Whether the difference is equivalent to none (two one-sided tests at 5 %)."""
    if estimate is None:
        return False
    # One nonzero difference at every one of a few seeds has an interval of no width: not "equivalent" yet.
    spread = estimate.error > 0 or estimate.mean == 0 or estimate.r > stats.EXPLORATORY_SEEDS
    return spread and stats.inside(estimate.interval(0.90), delta)


def _shares(estimate: Estimate) -> dict[str, float]:
    """What part of the variance of the difference is due to seeds, to examples, and to both together."""
    total = sum(estimate.parts)
    return {
        name: part / total if total else 0.0
        for name, part in zip(("seeds", "examples", "both"), estimate.parts, strict=True)
    }
