"""Who leads a task, who ties with the leader, and whom of them to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.cells import CellSummary
from harness.analysis.comparisons import Contest
from harness.analysis.stats import MIN_SEEDS, excludes_zero

COSTS = ("flops", "device_s")
"""What a strategy costs by itself; time where that is not known. Time leaves out what trials shared."""

CHEAPER = 0.05
"""Costs that differ by a smaller share are the same: clocks vary by as much."""


@dataclass(frozen=True)
class Standing:
    """Attributes: `priced` names the cost that decided between the tie set; None where it is not known."""

    leader: str | None
    tie_set: list[str]
    recommended: str | None
    priced: str | None


def stand(
    contest: Contest,
    summaries: Mapping[str, CellSummary],
    comparisons: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]] = (),
) -> Standing:
    """Nobody leads by its mean alone over a strategy that beats it, and nobody is recommended for having
    failed.

    Args:
        measured: the comparisons without runs that diverged. A strategy that the leader beats there, and is
            behind with them, does not join the tie set for the noise that its failures bring.
    """
    scored = [name for name, run in contest.outcomes.items() if run.scores and not contest.out(name)]
    if not scored:
        return Standing(None, [], None, None)
    beats, behind = _beats(comparisons), _beats(measured)
    leader = _leader(contest, scored, summaries, beats)
    means = {name: contest.outcomes[name].mean or 0.0 for name in scored}
    sign = contest.arena.sign
    tied = [
        name
        for name in scored
        if name == leader
        or not (
            (leader, name) in beats or ((leader, name) in behind and sign * (means[leader] - means[name]) > 0)
        )
    ]
    # Cost decides only where enough seeds were compared to call it a tie: else the cheapest may be chance.
    # And not between a leader and one that it is ahead of by the interval of this one pair: Holm's adjustment
    # keeps claims few, it is no reason to take what is probably worse.
    paired, ahead = _paired(comparisons), _ahead(comparisons, sign)
    failed = len(contest.outcomes[leader].imputed)
    candidates = [
        name
        for name in tied
        if name == leader
        or (
            (leader, name) in paired
            and (leader, name) not in ahead
            and len(contest.outcomes[name].imputed) <= failed
        )
    ]
    for cost in COSTS:
        prices = {name: summaries[name].cost[cost] for name in candidates}
        known = {name: price for name, price in prices.items() if price is not None}
        if len(known) == len(candidates):
            least = min(known.values())
            near = [name for name, price in known.items() if price <= least * (1 + CHEAPER)]
            best = leader if leader in near else max(near, key=lambda name: sign * means[name])
            return Standing(leader, tied, best, cost)
    return Standing(leader, tied, leader, None)


def _leader(
    contest: Contest,
    scored: Sequence[str],
    summaries: Mapping[str, CellSummary],
    beats: set[tuple[str, str]],
) -> str:
    """The best mean over the seeds that all share, among strategies with seeds enough; between equal means
    the cheaper. Where seeds differ and somebody beats it on those that the two share, that one leads."""
    runs = {name: contest.outcomes[name].scores for name in scored}
    enough = [name for name in scored if len(runs[name]) >= MIN_SEEDS] or list(scored)
    common = set.intersection(*(set(runs[name]) for name in enough))
    if len(common) < MIN_SEEDS:
        common = set().union(*(set(runs[name]) for name in enough))

    def rank(name: str) -> tuple[float, tuple[float, float, str]]:
        mean = float(np.mean([score for seed, score in runs[name].items() if seed in common]))
        return -contest.arena.sign * mean, _price(summaries[name])

    leader = min(enough, key=rank)
    seen = {leader}
    while ahead := [name for name in enough if (name, leader) in beats and name not in seen]:
        leader = min(ahead, key=rank)
        seen.add(leader)
    return leader


def _price(summary: CellSummary) -> tuple[float, float, str]:
    """FLOPs and device seconds of one run, name."""
    flops, device = (math.inf if summary.cost[name] is None else summary.cost[name] for name in COSTS)
    return flops or 0.0, device or 0.0, summary.cell.strategy


def _beats(comparisons: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """(a, b) where a is better than b, and not negligibly."""
    found = set()
    for comparison in comparisons:
        if not comparison["negligible"]:
            if comparison["verdict"] == "better":
                found.add((comparison["a"], comparison["b"]))
            elif comparison["verdict"] == "worse":
                found.add((comparison["b"], comparison["a"]))
    return found


def _ahead(comparisons: Sequence[Mapping[str, Any]], sign: int) -> set[tuple[str, str]]:
    """(a, b) where the interval of a − b lies on a's side of 0, and the difference may matter."""
    found = set()
    for comparison in comparisons:
        if comparison["verdict"] == "equivalent" or comparison["negligible"]:
            continue
        if excludes_zero(None if comparison["ci"] is None else tuple(comparison["ci"])):
            pair = (comparison["a"], comparison["b"])
            found.add(pair if sign * comparison["difference"] > 0 else pair[::-1])
    return found


def _paired(comparisons: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    pairs = [(c["a"], c["b"]) for c in comparisons if c["n"] >= MIN_SEEDS]
    return {*pairs, *((b, a) for a, b in pairs)}
