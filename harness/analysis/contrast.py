"""Two studies against each other: what changed from A to B for each strategy, and what else differs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from harness.analysis import wording
from harness.analysis.merge import agree, merge
from harness.analysis.study import PROVENANCE, Cell, Study, delta_of
from harness.analysis.verdicts import judge
from harness.errors import bad

Place: TypeAlias = tuple[str, str, str]
"""Task, backbone ("" where each study has one) and strategy."""

BOTH = "both"


def contrast(
    studies: Mapping[str, Study], sweeps: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """What B is worth against A, for each strategy on each task that both have.

    The two studies are the strategies of a judgement of its own, paired and adjusted as any other;
    differences are B − A. Where the data differ, only seeds are paired and not examples.

    Args:
        studies: A, then B, by what to call them.
        sweeps: the sweep files, as far as there are any.

    Raises: InputError if the two have nothing in common.
    """
    (a, ours), (b, theirs) = studies.items()
    places = {label: _places(study, studies) for label, study in studies.items()}
    shared = [place for place in places[a] if place in places[b]]
    apart = [place for place in shared if not _comparable(place, ours, theirs)]
    compared = [place for place in shared if place not in apart]
    if not compared:
        hint = "--metric names one that both record" if apart else _inventory(studies)
        raise bad(f"{a}, {b}", "no strategy is there in both on a task of the same primary metric", hint)
    keys = {place: json.dumps(place) for place in compared}
    same_data = {place: _same_data(place, ours, theirs) for place in compared}
    sides = {
        label: _side(study, label, {places[label][p].id: keys[p] for p in compared}, ours, same_data, keys)
        for label, study in studies.items()
    }
    merged = merge(sides)
    verdicts = judge(merged)["tasks"]
    return {
        "a": a,
        "b": b,
        "comparisons": [_entry(place, verdicts[keys[place]], a, b) for place in compared],
        "other_metric": [_named(place) for place in apart],
        "only_a": [_named(place) for place in places[a] if place not in places[b]],
        "only_b": [_named(place) for place in places[b] if place not in places[a]],
        "differs": [*_differs(studies, sweeps or {}), *_winners(compared, places, a, b)],
        "remarks": [
            *merged.plan["remarks"][1:],  # the first tells what was put together
            *(
                f"{label} is not finished: {len(side.unfinished)} of {len(side.cells)} cells are open."
                for label, side in sides.items()
                if side.unfinished
            ),
        ],
    }


def _places(study: Study, studies: Mapping[str, Study]) -> dict[Place, Cell]:
    """The cells by where they stand, in the plan's order."""
    single = all(len(other.plan["backbones"]) == 1 for other in studies.values())
    return {(cell.task, "" if single else cell.backbone, cell.strategy): cell for cell in study.cells}


def _inventory(studies: Mapping[str, Study]) -> str:
    found = []
    for label, study in studies.items():
        tasks, strategies = (
            wording.names([str(entry["name"]) for entry in study.plan[kind]], 8)
            for kind in ("tasks", "strategies")
        )
        found.append(f"{label} has {strategies} on {tasks}")
    return "; ".join(found)


def _named(place: Place) -> dict[str, str]:
    return dict(zip(("task", "backbone", "strategy"), place, strict=True))


def _task(study: Study, name: str) -> dict[str, Any]:
    return next(task for task in study.plan["tasks"] if task["name"] == name)


def _comparable(place: Place, ours: Study, theirs: Study) -> bool:
    a, b = _task(ours, place[0]), _task(theirs, place[0])
    return all(a[key] == b[key] for key in ("primary", "direction"))


def _same_data(place: Place, ours: Study, theirs: Study) -> bool:
    """Whether nothing says that the test examples are others."""
    a, b = _task(ours, place[0]), _task(theirs, place[0])
    return agree(a, b, "data", "examples") and agree(a["splits"], b["splits"], "test")


def _side(
    study: Study, label: str, cells: Mapping[str, str], ours: Study, same_data: Mapping[Place, bool],
    keys: Mapping[Place, str],
) -> Study:  # fmt: skip
    """A study whose only strategy is the study itself, on one task for each of its cells that is compared."""
    chosen = [cell for cell in study.cells if cell.id in cells]
    tasks = []
    for place, key in keys.items():
        own = _task(study, place[0])
        forms = (own.get("forms") or {}) if same_data[place] else {}
        splits = _task(ours, place[0])["splits"]
        delta = delta_of(_task(ours, place[0]))
        said = {"name": key, "data": None, "examples": None, "forms": forms, "splits": splits, "delta": delta}
        tasks.append({**own, **said})
    frame = study.frame[study.frame["cell"].isin(cells)]
    frame = frame.assign(
        # A trial that both have is two here: it may have come out differently.
        trial_id=[f"{label}:{trial_id}" for trial_id in frame["trial_id"]],
        task=[cells[cell] for cell in frame["cell"]],
        backbone=BOTH,
        strategy=label,
    )
    plan = study.plan
    return dataclasses.replace(
        study,
        plan={
            **plan,
            "baseline": label,
            "tasks": tasks,
            "backbones": [{"name": BOTH}],
            "strategies": [{"name": label}],
            "cells": [entry for entry in plan["cells"] if entry["id"] in cells],
            "merged": [],
        },
        frame=frame,
        cells=tuple(
            dataclasses.replace(cell, task=cells[cell.id], backbone=BOTH, strategy=label, raced_out=None)
            for cell in chosen
        ),
        unfinished=tuple(cell for cell in study.unfinished if cell in cells),
        sources=(),
        examples=lambda trial_id, metric: study.examples(trial_id.removeprefix(f"{label}:"), metric),
    )


def _entry(place: Place, verdict: Mapping[str, Any], a: str, b: str) -> dict[str, Any]:
    said = {key: verdict[key] for key in ("primary", "direction", "delta", "split")}
    compared = wording.pair(verdict, b, a) or {}
    return {
        **_named(place),
        **said,
        "scores": {label: verdict["scores"][label] for label in (a, b)},
        **{key: value for key, value in compared.items() if key not in ("a", "b")},
    }


def _differs(
    studies: Mapping[str, Study], sweeps: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What records, plans and sweep files say differently: `part`, `name`, and the values of both sides."""
    (a, ours), (b, theirs) = studies.items()
    for part in PROVENANCE:
        if ours.provenance.get(part) and theirs.provenance.get(part):
            yield from _unequal(part, _recorded(ours.provenance[part]), _recorded(theirs.provenance[part]))
    for kind, keys in (
        ("tasks", ("data", "examples", "splits", "delta")),
        ("backbones", ("weights", "parameters")),
    ):
        left, right = ({entry["name"]: entry for entry in study.plan[kind]} for study in (ours, theirs))
        for name in [name for name in left if name in right]:
            said = [dict(_leaves({key: side[name].get(key) for key in keys})) for side in (left, right)]
            yield from _unequal(f"{kind[:-1]} {name}", said[0], said[1], both=True)
    if a in sweeps and b in sweeps:
        said = [dict(_leaves(_without_name(sweeps[label]))) for label in (a, b)]
        yield from _unequal("sweep file", said[0], said[1])
    elif not any(study.plan.get("tables") for study in studies.values()):
        said = [
            dict(_leaves({key: study.plan.get(key) for key in ("strategies", "search", "seeds")}))
            for study in (ours, theirs)
        ]
        yield from _unequal("plan", said[0], said[1])


def _winners(
    compared: Sequence[Place], places: Mapping[str, Mapping[Place, Cell]], a: str, b: str
) -> Iterator[dict[str, Any]]:
    """The settings that tuning came to, where they are others."""
    for place in compared:
        left, right = (places[label][place].winner for label in (a, b))
        if left != right and left is not None and right is not None:
            name = " | ".join(filter(None, place))
            yield {"part": "winner", "name": name, "a": wording.settings(left), "b": wording.settings(right)}


def _unequal(
    part: str, left: Mapping[str, Any], right: Mapping[str, Any], both: bool = False
) -> Iterator[dict[str, Any]]:
    """With `both`, what one side does not say is no difference."""
    for name in dict.fromkeys([*left, *right]):
        values = left.get(name), right.get(name)
        if values[0] != values[1] and not (both and None in values):
            yield {"part": part, "name": name, "a": values[0], "b": values[1]}


def _recorded(values: Mapping[str, int]) -> dict[str, Any]:
    """By name, the value that all trials have, or the list of those that occur."""
    found: dict[str, set[str]] = {}
    for value in values:
        for name, leaf in _leaves(json.loads(value)):
            found.setdefault(name, set()).add(json.dumps(leaf, sort_keys=True))
    listed = {name: [json.loads(value) for value in sorted(leaves)] for name, leaves in found.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in listed.items()}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """By dotted path; entries of a list are called by their name where they have one."""
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Sequence) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
        for child in value:
            rest = {key: v for key, v in child.items() if key != "name"}
            yield from _leaves(rest, f"{name}.{child['name']}" if name else str(child["name"]))
    else:
        yield name, value


def _without_name(sweep: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sweep.items() if key != "name"}
