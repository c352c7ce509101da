"""A part of a study, or the same study by another metric: as a study again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from harness.analysis.study import Study, delta_of
from harness.errors import Mistakes, bad, nearest


def only(study: Study, tasks: Sequence[str] = (), strategies: Sequence[str] = ()) -> Study:
    """The cells of some tasks and strategies, given as names or patterns (`full*`); none given: all.

    A task may also be called as the report calls it (`bbc @ minilm-l6`).

    Raises: InputError for what matches nothing, or if together they leave no cell.
    """
    if not tasks and not strategies:
        return study
    mistakes = Mistakes()
    keys = {cell.id: arena.key for arena in study.arenas() for cell in arena.cells}
    there = [cell.strategy for cell in study.cells]
    wanted = _matches("--task", tasks, [*(cell.task for cell in study.cells), *keys.values()], mistakes)
    who = _matches("--strategy", strategies, there, mistakes)
    mistakes.raise_any()
    cells = [c for c in study.cells if (c.task in wanted or keys[c.id] in wanted) and c.strategy in who]
    if not cells:
        raise bad("--strategy", "none of the strategies takes part in one of the tasks")
    return _kept(study, {cell.id for cell in cells})


def fitting(pattern: str, names: Collection[str]) -> set[str]:
    """The names that a pattern means: the one written so, as names may hold brackets, or all that it fits."""
    return {pattern} & set(names) or {name for name in names if fnmatchcase(name, pattern)}


def _matches(
    option: str, patterns: Sequence[str], names: Collection[str], mistakes: Mistakes
) -> Collection[str]:
    names = set(names)
    if not patterns:
        return names
    found: set[str] = set()
    for pattern in patterns:
        fits = fitting(pattern, names)
        if not fits:
            mistakes.add(option, f"nothing is called '{pattern}'", nearest(pattern, names))
        found |= fits
    return found


def _kept(study: Study, ids: Collection[str]) -> Study:
    plan = study.plan
    cells = tuple(cell for cell in study.cells if cell.id in ids)
    used = {
        "tasks": {cell.task for cell in cells},
        "strategies": {cell.strategy for cell in cells},
        "backbones": {cell.backbone for cell in cells},
    }
    shown = {kind: [entry for entry in plan[kind] if entry["name"] in names] for kind, names in used.items()}
    left_out = [
        f"{kind}: {', '.join(str(entry['name']) for entry in plan[kind] if entry['name'] not in names)}"
        for kind, names in used.items()
        if len(shown[kind]) < len(plan[kind])
    ]
    remarks = list(plan.get("remarks") or [])
    if left_out:
        remarks.append(
            f"This report shows a part of the results and leaves out {'; '.join(left_out)}. Claims are "
            "adjusted for the number of those that are shown, not for those that are left out."
        )
    baseline = plan.get("baseline")
    if baseline is not None and baseline not in used["strategies"]:
        remarks.append(f"The baseline, {baseline}, is not shown; differences are taken to each leader.")
        baseline = None
    frame = study.frame[study.frame["cell"].isin(ids)].reset_index(drop=True)
    merged = [
        {**entry, "cells": [c for c in entry["cells"] if c in ids]} for entry in plan.get("merged") or []
    ]
    return dataclasses.replace(
        study,
        plan={
            **plan,
            **shown,
            "cells": [entry for entry in plan["cells"] if entry["id"] in ids],
            "merged": [entry for entry in merged if len(entry["cells"]) > 1],
            "baseline": baseline,
            "remarks": remarks,
        },
        frame=frame,
        cells=cells,
        unfinished=tuple(cell for cell in study.unfinished if cell in ids),
        sources=tuple(source for source in study.sources if source.backbone in used["backbones"]),
    )


def with_baseline(study: Study, name: str) -> Study:
    """Differences are taken to this strategy. Raises: InputError if there is none of that name."""
    names = [str(strategy["name"]) for strategy in study.plan["strategies"]]
    if name not in names:
        raise bad("--baseline", f"there is no strategy '{name}'", nearest(name, names))
    return dataclasses.replace(study, plan={**study.plan, "baseline": name})


def with_delta(study: Study, delta: float) -> Study:
    """Differences within ±delta, in units of each task's metric, count as none."""
    return _with_tasks(study, lambda task: {**task, "delta": delta}, study.frame)


def with_metric(
    study: Study,
    metric: str,
    known: Mapping[str, str],
    direction: str | None = None,
    tasks: Sequence[str] = (),
) -> Study:
    """Another recorded metric as the headline of every task (of those that `tasks` means, if there are any).

    What was tuned was selected by the plan's own metric and stays so. A margin and a perfect score are
    said of the plan's metric and are dropped with it.

    Args:
        known: the directions of metrics by name; `direction` holds for a metric that is not in it.

    Raises: InputError if a task does not record it, or the metric has another direction.
    """
    mistakes = Mistakes()
    if direction is not None and known.get(metric, direction) != direction:
        mistakes.add("--direction", f"{metric} has the direction {known[metric]}")
    keys = {arena.key: arena.task["name"] for arena in study.arenas()}
    keys |= {name: name for name in keys.values()}
    wanted = {keys[key] for pattern in tasks or keys for key in fitting(pattern, keys)}
    asked = [task for task in study.plan["tasks"] if task["name"] in wanted]
    for task in asked:
        recorded = _recorded(study, task)
        if metric not in recorded:
            mistakes.add("--metric", f"task '{task['name']}' has no '{metric}'", nearest(metric, recorded))
    mistakes.raise_any()
    changed = {task["name"]: task for task in asked if task["primary"] != metric}
    if not changed:
        return study
    way = known.get(metric) or direction or "max"
    remarks = list(study.plan.get("remarks") or [])
    was = ", ".join(dict.fromkeys(str(task["primary"]) for task in changed.values()))
    if any(cell.budget for cell in study.cells):
        remarks.append(f"Scores are {metric} here; settings were selected by validation {was}.")
    deltas = ", ".join(dict.fromkeys(f"{delta_of(task):g}" for task in changed.values()))
    remarks.append(f"δ = {deltas} was set for {was}, not for {metric}; --delta sets another.")
    if metric not in known and direction is None:
        remarks.append(f"Nothing says whether more or less {metric} is better: more is taken to be.")
    frame = study.frame.copy()
    rows = frame["task"].isin(changed)
    for split in ("validation", "test"):
        values = frame.get(f"{split}.{metric}")
        frame.loc[rows, f"score_{split}"] = float("nan") if values is None else values[rows]

    def other(task: dict[str, Any]) -> dict[str, Any]:
        return (
            task
            if task["primary"] == metric
            else {**task, "primary": metric, "direction": way, "margin": None, "best": None}
        )

    return _with_tasks(study, other, frame, remarks)


def _recorded(study: Study, task: Mapping[str, Any]) -> list[str]:
    """The metrics that some trial of a task has."""
    rows = study.frame[study.frame["task"] == task["name"]]
    names = [name for name in rows if name.startswith(("validation.", "test.")) and rows[name].notna().any()]
    return list(dict.fromkeys(name.partition(".")[2] for name in names))


def _with_tasks(
    study: Study, change: Callable[[dict[str, Any]], dict[str, Any]], frame: pd.DataFrame,
    remarks: Sequence[str] | None = None,
) -> Study:  # fmt: skip
    plan = {**study.plan, "tasks": [change(task) for task in study.plan["tasks"]]}
    if remarks is not None:
        plan["remarks"] = list(remarks)
    return dataclasses.replace(study, plan=plan, frame=frame)
