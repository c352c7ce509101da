"""From a study to the content of verdicts.json (`docs/design.md`; protocol, points 3 to 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.analysis import across, advice, cells, stats, wording
from harness.analysis.cells import CellSummary
from harness.analysis.comparisons import Contest, compare
from harness.analysis.frame import number
from harness.analysis.outcomes import Outcome, outcomes
from harness.analysis.standing import Standing, stand
from harness.analysis.study import SETTLED, Arena, Study
from harness.records.record import FAILURES


def judge(study: Study) -> dict[str, Any]:
    """The verdict on every task, and over all of them."""
    summaries = {arena.key: cells.summarize(study, arena) for arena in study.arenas()}
    contests = [_contest(study, arena, summaries[arena.key]) for arena in study.arenas()]
    baseline = study.plan.get("baseline")
    compared = compare(contests, baseline)
    imputed = any(outcome.imputed for contest in contests for outcome in contest.outcomes.values())
    if imputed:
        measured = [contest.measured() for contest in contests]
        without = compare(measured, baseline)
    tasks = {}
    for place, contest in enumerate(contests):
        key = contest.arena.key
        standing = stand(contest, summaries[key], compared[place], without[place] if imputed else ())
        tasks[key] = _verdict(contest, summaries[key], compared[place], standing, study)
        if imputed:
            other = stand(measured[place], summaries[key], without[place])
            tasks[key]["sensitivity"] = _sensitivity(standing, other)
    for key, verdict in tasks.items():
        verdict["advice"] = advice.advise(verdict, study)
        verdict["sentence"] = wording.sentence(key, verdict)
    missing = sum(task["coverage"]["missing"] for task in tasks.values())
    return {
        "format": 1,
        "sweep": str(study.plan["name"]),
        "complete": not study.unfinished and not missing,
        "tasks": tasks,
        "across": across.judge(study, contests, tasks),
    }


def _contest(study: Study, arena: Arena, summaries: Mapping[str, CellSummary]) -> Contest:
    out = frozenset(name for name, summary in summaries.items() if summary.cell.raced_out is not None)
    return Contest(arena, outcomes(study, arena, summaries), out)


def _sensitivity(standing: Standing, without: Standing) -> dict[str, Any]:
    """What the verdict were if runs that diverged were left out instead of scored as the constant predictor,
    and what of it would change."""
    told = {name: getattr(without, name) for name in ("leader", "tie_set", "recommended")}
    return {**told, "changed": [name for name, value in told.items() if value != getattr(standing, name)]}


def _verdict(
    contest: Contest,
    summaries: Mapping[str, CellSummary],
    comparisons: list[dict[str, Any]],
    standing: Standing,
    study: Study,
) -> dict[str, Any]:
    arena, runs = contest.arena, contest.outcomes
    baseline = study.plan.get("baseline")
    out = {name: summary.cell.raced_out for name, summary in summaries.items() if summary.cell.raced_out}
    scored = [name for name, outcome in runs.items() if outcome.scores and name not in out]
    leader = standing.leader
    return {
        "task": arena.task["name"],
        "backbone": arena.backbone,
        "primary": arena.primary,
        "direction": arena.task["direction"],
        "delta": arena.delta,
        "split": study.split,
        "leader": leader,
        "tie_set": standing.tie_set,
        "recommended": standing.recommended,
        "priced": standing.priced,
        "baseline": baseline if baseline in summaries else None,
        "comparisons": comparisons,
        "raced_out": {name: {**why, "trials": summaries[name].cell.listed} for name, why in out.items()},
        "seeds": _paired_seeds(runs, scored),
        "coverage": _coverage(summaries, study),
        "failures": {
            status: sum(summary.statuses.get(status, 0) for summary in summaries.values())
            for status in FAILURES
        },
        "scores": {name: _score(runs[name], summary) for name, summary in summaries.items()},
        "warnings": [*cells.warnings(summaries), *_unknown_examples(runs)],
        "sensitivity": None,
        **_against_constant(None if leader is None else runs[leader].mean, arena, study),
    }


def _unknown_examples(runs: Mapping[str, Outcome]) -> list[str]:
    """Where some runs have their examples recorded and others do not."""
    known = any(run.values for run in runs.values())
    return [
        f"{name}: the examples of {len(run.scores) - len(run.values)} of {len(run.scores)} runs are not "
        "known, so that it is compared on fewer seeds, or over seeds alone"
        for name, run in runs.items()
        if known and len(run.values) < len(run.scores)
    ]


def _against_constant(best: float | None, arena: Arena, study: Study) -> dict[str, Any]:
    """The constant predictor's score, the margin that the task asks for, and whether the leader's mean beats
    the one by the other (None where no margin is asked for)."""
    constant = arena.constant(study.split)
    margin = number(arena.task.get("margin"))
    met = None
    if margin is not None and constant is not None:
        met = best is not None and arena.sign * (best - constant) >= margin
    return {"constant": constant, "margin": margin, "margin_met": met}


def _paired_seeds(runs: Mapping[str, Outcome], scored: list[str]) -> int:
    """How many seeds every scored strategy has."""
    shared = [set(runs[name].scores) for name in scored]
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


def _score(outcome: Outcome, summary: CellSummary) -> dict[str, Any]:
    estimate = outcome.estimate
    rate = stats.wilson(outcome.failed, outcome.runs)
    return {
        "mean": outcome.mean,
        "ci": None if estimate is None else list(estimate.interval()),
        "n": len(outcome.scores),
        "examples": 0 if estimate is None else estimate.n,
        "per_seed": {str(seed): score for seed, score in outcome.scores.items()},
        "imputed": sorted(outcome.imputed),
        "failures": dict(summary.headline_failures),
        "failure_rate": None
        if rate is None
        else {"failed": outcome.failed, "runs": outcome.runs, "poor": outcome.poor, "ci": list(rate)},
        "cost_device_s": summary.cost["device_s"],
        "cost_flops": summary.cost["flops"],
        "trainable_params": summary.cost["trainable_params"],
        "hyperparameters": summary.hyperparameters,
    }
