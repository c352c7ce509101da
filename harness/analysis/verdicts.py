"""From a study to the content of verdicts.json (`docs/design.md`; protocol, points 3 to 6)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.analysis import cells, stats, wording
from harness.analysis.cells import CellSummary
from harness.analysis.study import RACED_OUT, SETTLED, Arena, Study, number
from harness.records.record import FAILURES

ALPHA = 0.05


def judge(study: Study) -> dict[str, Any]:
    """The verdict on every task.

    Differences are a − b in units of the metric; `verdict` and `p_better` are said of a, whatever the
    metric's direction. The last strategy of a comparison is the baseline where it takes part.
    """
    contests = []
    for arena in study.arenas():
        summaries = cells.summarize(study, arena)
        pairs = _pairs([cell.strategy for cell in arena.cells], study.plan.get("baseline"))
        compared = [_compare(summaries[a], summaries[b], arena) for a, b in pairs]
        contests.append((arena, summaries, compared))
    # The race has decided, by validation, between who is in and who is out: no claim is left to make there.
    # Between two cells that are out nothing is decided: these claims count, unanswered.
    everything = [(c, s) for _, s, compared in contests for c in compared if _outs(c, s) != 1]
    adjusted = stats.holm([None if _outs(c, s) else c["p"] for c, s in everything])
    for (comparison, _), p in zip(everything, adjusted, strict=True):
        comparison["p_adjusted"] = p
    tasks = {
        arena.key: _verdict(arena, summaries, [_decide(c, arena) for c in compared], study)
        for arena, summaries, compared in contests
    }
    missing = sum(task["coverage"]["missing"] for task in tasks.values())
    return {
        "format": 1,
        "sweep": str(study.plan["name"]),
        "complete": not study.unfinished and not missing,
        "tasks": tasks,
    }


def _outs(comparison: Mapping[str, Any], summaries: Mapping[str, CellSummary]) -> int:
    """How many of the two cells are out of the race."""
    return sum(summaries[comparison[side]].cell.raced_out is not None for side in ("a", "b"))


def _pairs(strategies: list[str], baseline: str | None) -> list[tuple[str, str]]:
    """Every pair once, in the plan's order, the baseline always second."""
    return [(b, a) if a == baseline else (a, b) for a, b in itertools.combinations(strategies, 2)]


def _compare(a: CellSummary, b: CellSummary, arena: Arena) -> dict[str, Any]:
    """The paired comparison on the seeds that both have finished; no verdict yet."""
    shared = sorted(a.per_seed.keys() & b.per_seed.keys())
    d = stats.snapped([a.per_seed[seed] - b.per_seed[seed] for seed in shared])
    ci = stats.t_interval(d, 0.95)
    # One nonzero difference at every one of a few seeds has an interval of no width: not "equivalent" yet.
    spread = ci is not None and (ci[0] < ci[1] or ci[0] == 0 or len(shared) > stats.EXPLORATORY_SEEDS)
    return {
        "a": a.cell.strategy,
        "b": b.cell.strategy,
        "difference": float(np.mean(d)) if shared else None,
        "ci": None if ci is None else list(ci),
        "p": stats.paired_p(d),
        "p_adjusted": None,
        "p_better": stats.p_better(arena.sign * d),
        "n": len(shared),
        "verdict": RACED_OUT if a.cell.raced_out or b.cell.raced_out else "undetermined",
        # Both at once is possible: a difference may be certain and too small to matter.
        "negligible": spread and stats.inside(stats.t_interval(d, 0.90), arena.delta),
        "exploratory": stats.MIN_SEEDS <= len(shared) <= stats.EXPLORATORY_SEEDS,
    }


def _decide(comparison: dict[str, Any], arena: Arena) -> dict[str, Any]:
    """The comparison with its verdict; `negligible` becomes "better or worse, but inside ±delta"."""
    within = comparison["negligible"]
    p, ci = comparison["p_adjusted"], comparison["ci"]
    if comparison["verdict"] == RACED_OUT:
        return {**comparison, "negligible": False, "exploratory": False}
    if p is not None and p < ALPHA and stats.excludes_zero(ci):
        ahead = arena.sign * comparison["difference"] > 0
        return {**comparison, "verdict": "better" if ahead else "worse"}
    return {**comparison, "verdict": "equivalent" if within else "undetermined", "negligible": False}


def _verdict(
    arena: Arena, summaries: Mapping[str, CellSummary], comparisons: list[dict[str, Any]], study: Study
) -> dict[str, Any]:
    baseline = study.plan.get("baseline")
    out = {name: summary.cell.raced_out for name, summary in summaries.items() if summary.cell.raced_out}
    scored = [name for name, summary in summaries.items() if summary.per_seed and name not in out]
    leader = min(scored, key=lambda name: _standing(summaries[name], arena), default=None)
    verdict: dict[str, Any] = {
        "task": arena.task["name"],
        "backbone": arena.backbone,
        "primary": arena.primary,
        "direction": arena.task["direction"],
        "delta": arena.delta,
        "split": study.split,
        "leader": leader,
        "tie_set": [],
        "recommended": None,
        "baseline": baseline if baseline in summaries else None,
        "comparisons": comparisons,
        "raced_out": {name: {**why, "trials": summaries[name].cell.listed} for name, why in out.items()},
        "seeds": _paired_seeds(summaries, scored),
        "coverage": _coverage(summaries, study),
        "failures": {
            status: sum(summary.statuses.get(status, 0) for summary in summaries.values())
            for status in FAILURES
        },
        "scores": {name: _score(summary) for name, summary in summaries.items()},
        "warnings": cells.warnings(summaries),
        **_against_constant(None if leader is None else summaries[leader].mean, arena, study),
    }
    if leader is not None:
        tied = [name for name in scored if name == leader or not _beats(verdict, leader, name)]
        verdict["tie_set"] = tied
        # cost decides only where enough seeds were compared to call it a tie: else the cheapest may be chance
        weighed = [name for name in tied if name == leader or _paired(verdict, leader, name)]
        verdict["recommended"] = min(weighed, key=lambda name: _price(summaries[name]))
    verdict["sentence"] = wording.sentence(arena.key, verdict)
    return verdict


def _against_constant(best: float | None, arena: Arena, study: Study) -> dict[str, Any]:
    """The constant predictor's score, the margin that the task asks for, and whether the leader's mean beats
    the one by the other (None where no margin is asked for)."""
    constant = number((arena.task.get("constant") or {}).get(study.split, {}).get(arena.primary))
    margin = number(arena.task.get("margin"))
    met = None
    if margin is not None and constant is not None:
        met = best is not None and arena.sign * (best - constant) >= margin
    return {"constant": constant, "margin": margin, "margin_met": met}


def _standing(summary: CellSummary, arena: Arena) -> tuple[float, tuple[float, float, str]]:
    """Sort key of the leader: the best mean; between equal means the cheaper."""
    assert summary.mean is not None
    return -arena.sign * summary.mean, _price(summary)


def _price(summary: CellSummary) -> tuple[float, float, str]:
    """Sort key of the recommendation: device seconds of one run, trainable parameters, name."""
    device, parameters = summary.cost["device_s"], summary.cost["trainable_params"]
    return (
        math.inf if device is None else device,
        math.inf if parameters is None else parameters,
        summary.cell.strategy,
    )


def _beats(verdict: Mapping[str, Any], leader: str, name: str) -> bool:
    comparison = wording.pair(verdict, leader, name)
    return comparison is not None and comparison["verdict"] == "better" and not comparison["negligible"]


def _paired(verdict: Mapping[str, Any], leader: str, name: str) -> bool:
    comparison = wording.pair(verdict, leader, name)
    return comparison is not None and comparison["n"] >= stats.MIN_SEEDS


def _paired_seeds(summaries: Mapping[str, CellSummary], scored: list[str]) -> int:
    """How many seeds every scored strategy has finished."""
    shared = [set(summaries[name].per_seed) for name in scored]
    return len(set.intersection(*shared)) if shared else 0


def _coverage(summaries: Mapping[str, CellSummary], study: Study) -> dict[str, int]:
    """Trials per fate over the cells; a trial that serves two cells counts in both."""
    planned = finished = stopped = recorded = 0
    for summary in summaries.values():
        cell, statuses = summary.cell, summary.statuses
        # A cell that is done may have asked for less: nothing to confirm, or a space that ran dry.
        whole = cell.listed if cell.state in SETTLED else max(cell.listed, cell.budget + study.confirm_seeds)
        planned += whole
        finished += statuses.get("finished", 0)
        stopped += statuses.get("stopped", 0)
        recorded += cell.listed - statuses.get("missing", 0) - statuses.get("unreadable", 0)
    return {"planned": planned, "finished": finished, "missing": planned - recorded, "stopped": stopped}


def _score(summary: CellSummary) -> dict[str, Any]:
    values = list(summary.per_seed.values())
    ci = stats.t_interval(values)
    return {
        "mean": summary.mean,
        "ci": None if ci is None else list(ci),
        "n": len(values),
        "per_seed": {str(seed): score for seed, score in summary.per_seed.items()},
        "failures": dict(summary.headline_failures),
        "cost_device_s": summary.cost["device_s"],
        "trainable_params": summary.cost["trainable_params"],
        "hyperparameters": summary.hyperparameters,
    }
