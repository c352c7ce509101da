"""Several studies as one: what is the same in them is one thing, the rest is told apart by their names."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.analysis.examples import Examples
from harness.analysis.frame import frame_of
from harness.analysis.study import PROVENANCE, RACED_OUT, SETTLED, Cell, Study, delta_of

Entry: TypeAlias = Mapping[str, Any]
Member: TypeAlias = tuple[str, Entry]
"""The study's name, and one of its tasks, backbones or strategies as planned."""

KINDS = ("tasks", "backbones", "strategies")


def merge(studies: Mapping[str, Study], name: str | None = None) -> Study:
    """One study of several, given by what to call them.

    Tasks are one if name, data and primary metric are the same (or data and metric, under two names),
    backbones if name and weights are; what a study does not say (a table knows neither data nor weights) is
    taken to be the same. Strategies are one if name and definition are the same and no run of the one
    contradicts one of the other. Trials of equal id are one.

    Seeds of sweeps mean the same in all of them, since all that is drawn comes from them. Those of tables
    are paired with each other by their number, and with a sweep's not at all.
    """
    if len(studies) == 1:
        return next(iter(studies.values()))
    studies, renumbered = _seeds_apart(studies)
    names = _Names(studies)
    cells = _cells(studies, names)
    rows, unequal = _rows(studies, names)
    listed = Counter(row["cell"] for row in rows)
    plans = {label: study.plan for label, study in studies.items()}
    planned = {(label, entry["id"]): entry for label, plan in plans.items() for entry in plan["cells"]}
    alike = len({study.confirm_seeds for study in studies.values()}) == 1
    plan = {
        "format": 1,
        "name": name or "+".join(studies),
        "baseline": next(
            (names.of("strategies", label, p["baseline"]) for label, p in plans.items() if p.get("baseline")),
            None,
        ),
        "seeds": {
            phase: max(int(p["seeds"][phase]) for p in plans.values()) for phase in ("tune", "confirm")
        },
        "search": _common(p.get("search") or {} for p in plans.values()) or {},
        "racing": _common(p.get("racing") for p in plans.values()),
        **names.entries,
        "cells": [
            {
                # Without one number of confirm seeds there is no plan that could be shown for all.
                **{k: v for k, v in planned[names.members[cell.id][0]].items() if alike or k != "budget"},
                **{"id": cell.id, "task": cell.task, "backbone": cell.backbone, "strategy": cell.strategy},
            }
            for cell in cells
        ],
        "merged": _serving_many(rows),
        "tables": [table for p in plans.values() for table in p.get("tables") or []],
        "remarks": [
            *_remarks(studies, names, renumbered, unequal),
            *(f"{label}: {remark}" for label, p in plans.items() for remark in p.get("remarks") or []),
        ],
        "notes": [f"{label}: {note}" for label, p in plans.items() for note in p.get("notes") or []],
    }
    return Study(
        plan=plan,
        frame=frame_of(rows),
        cells=tuple(dataclasses.replace(cell, listed=listed[cell.id]) for cell in cells),
        unreadable=tuple(f"{label}: {file}" for label, study in studies.items() for file in study.unreadable),
        unfinished=tuple(cell.id for cell in cells if cell.state not in SETTLED),
        provenance={
            part: dict(
                sorted(
                    sum((Counter(s.provenance.get(part, {})) for s in studies.values()), Counter()).items()
                )
            )
            for part in PROVENANCE
        },
        unused=sum(study.unused for study in studies.values()),
        sources=tuple(
            {
                source.backbone: source
                for label, study in studies.items()
                for found in study.sources
                for source in [
                    dataclasses.replace(found, backbone=names.of("backbones", label, found.backbone))
                ]
            }.values()
        ),
        examples=_examples(studies, names),
    )


class _Names:
    """What tasks, backbones, strategies and cells of the studies are called in the merged one.

    Attributes:
        entries: the merged plan's tasks, backbones and strategies.
        members: of each merged cell the (study, cell id) that it consists of.
    """

    def __init__(self, studies: Mapping[str, Study]) -> None:
        self.entries: dict[str, list[dict[str, Any]]] = {}
        self._names: dict[tuple[str, str, str], str] = {}
        self._unite(studies, "tasks", _same_task)
        self._unite(studies, "backbones", _same_backbone)
        runs: dict[tuple[str, str], dict[tuple[Any, ...], str]] = {}

        def runs_of(label: str, strategy: str) -> dict[tuple[Any, ...], str]:
            if (label, strategy) not in runs:
                runs[label, strategy] = _runs(studies[label], label, strategy, self)
            return runs[label, strategy]

        def same_strategy(a: Member, b: Member) -> bool:
            if a[1]["name"] != b[1]["name"] or a[1].get("definition") != b[1].get("definition"):
                return False
            ours, theirs = (runs_of(label, str(entry["name"])) for label, entry in (a, b))
            return all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys())

        self._unite(studies, "strategies", same_strategy)
        self.members: dict[str, list[tuple[str, str]]] = {}
        places: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        for label, study in studies.items():
            for cell in study.cells:
                places.setdefault(self.place(label, cell), []).append((label, cell.id))
        order = [{e["name"]: i for i, e in enumerate(self.entries[kind])} for kind in KINDS]
        for place in sorted(places, key=lambda p: [at[n] for at, n in zip(order, p, strict=True)]):
            found = places[place]
            self.members["+".join(label for label, _ in found) + f":{found[0][1]}"] = found
        self._cells = {member: cell for cell, found in self.members.items() for member in found}

    def of(self, kind: str, label: str, name: object) -> str:
        return self._names[kind, label, str(name)]

    def place(self, label: str, cell: Cell) -> tuple[str, str, str]:
        parts = zip(KINDS, (cell.task, cell.backbone, cell.strategy), strict=True)
        task, backbone, strategy = (self.of(kind, label, name) for kind, name in parts)
        return task, backbone, strategy

    def cell(self, label: str, cell_id: str) -> str:
        return self._cells[label, cell_id]

    def apart(self, kind: str) -> list[str]:
        """Names that were changed because they mean different things."""
        own = {name for (k, _, name) in self._names if k == kind}
        return [entry["name"] for entry in self.entries[kind] if entry["name"] not in own]

    def renamed(self, kind: str) -> list[str]:
        """`b in B is a`, where the same thing had two names."""
        apart = self.apart(kind)
        return [
            f"{name} in {label} is {new}"
            for (k, label, name), new in self._names.items()
            if k == kind and new != name and new not in apart
        ]

    def _unite(self, studies: Mapping[str, Study], kind: str, same: Callable[[Member, Member], bool]) -> None:
        groups: list[list[Member]] = []
        for label, study in studies.items():
            for entry in study.plan[kind]:
                near = sorted(
                    groups, key=lambda g: g[0][1]["name"] != entry["name"]
                )  # of the same name first
                fits = (g for g in near if all(m[0] != label and same(m, (label, entry)) for m in g))
                group = next(fits, None)
                if group is None:
                    groups.append([(label, entry)])
                else:
                    group.append((label, entry))
        count = Counter(str(group[0][1]["name"]) for group in groups)
        self.entries[kind] = []
        taken = {name for name in count if count[name] == 1}
        for group in groups:
            name = str(group[0][1]["name"])
            if count[name] > 1:
                name = f"{name} ({', '.join(label for label, _ in group)})"
                while name in taken:
                    name += "′"
                taken.add(name)
            self._names |= {(kind, label, str(entry["name"])): name for label, entry in group}
            self.entries[kind].append({**_filled([entry for _, entry in group]), "name": name})


def _filled(entries: list[Entry]) -> dict[str, Any]:
    """The first entry, with what it does not say taken from the others."""
    found = dict(entries[0])
    for entry in entries[1:]:
        found |= {key: value for key, value in entry.items() if found.get(key) in (None, "", [], {})}
    if len(deltas := {float(e["delta"]) for e in entries if e.get("delta") is not None}) > 1:
        found["delta"] = min(deltas)  # the stricter one, whichever came first
    if len({e.get("margin") for e in entries}) > 1:
        found["margin"] = None
    return found


def _common(values: Iterable[Any]) -> Any:
    """The one value, or None where there are several."""
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else None


def agree(a: Entry, b: Entry, *keys: str) -> bool:
    """Whether nothing that both say differs."""
    return all(a.get(key) == b.get(key) for key in keys if a.get(key) is not None and b.get(key) is not None)


def _same_task(a: Member, b: Member) -> bool:
    ours, theirs = a[1], b[1]
    if any(ours[key] != theirs[key] for key in ("primary", "direction")):
        return False
    if not agree(ours, theirs, "data", "examples") or not agree(ours["splits"], theirs["splits"], "test"):
        return False
    return bool(ours["name"] == theirs["name"] or (ours.get("data") and ours["data"] == theirs.get("data")))


def _same_backbone(a: Member, b: Member) -> bool:
    return bool(a[1]["name"] == b[1]["name"] and agree(a[1], b[1], "weights"))


def _runs(study: Study, label: str, strategy: str, names: _Names) -> dict[tuple[Any, ...], str]:
    """What two studies may not say differently of one strategy: which trial ran a seed, and the winners."""
    found: dict[tuple[Any, ...], str] = {}
    frame = study.frame[study.frame["strategy"] == strategy]
    columns = [frame[name].tolist() for name in ("task", "backbone", "phase", "config", "seed", "trial_id")]
    for task, backbone, phase, config, seed, trial_id in zip(*columns, strict=True):
        place = names.of("tasks", label, task), names.of("backbones", label, backbone)
        found[(*place, phase, config if phase == "tune" else "", seed)] = trial_id
    for cell in study.cells:
        if cell.strategy == strategy and cell.winner is not None:
            place = names.of("tasks", label, cell.task), names.of("backbones", label, cell.backbone)
            found[(*place, "winner")] = json.dumps(cell.winner, sort_keys=True)
    return found


def _cells(studies: Mapping[str, Study], names: _Names) -> list[Cell]:
    by_id = {(label, cell.id): cell for label, study in studies.items() for cell in study.cells}
    found = []
    for new, members in names.members.items():
        cells = [by_id[member] for member in members]
        task, backbone, strategy = names.place(members[0][0], cells[0])
        states = [cell.state for cell in cells]
        open_ = [state for state in states if state not in SETTLED]
        out = cells[0].raced_out if all(state == RACED_OUT for state in states) else None
        if out is not None:
            out = {**out, "leader": names.of("strategies", members[0][0], out["leader"])}
        found.append(
            Cell(
                id=new,
                task=task,
                backbone=backbone,
                strategy=strategy,
                budget=max(cell.budget for cell in cells),
                space=next((cell.space for cell in cells if cell.space), {}),
                state=open_[0] if open_ else RACED_OUT if out is not None else "done",
                winner=next((cell.winner for cell in cells if cell.winner is not None), None),
                listed=0,  # counted when trials that several studies list are known
                raced_out=out,
            )
        )
    return found


def _rows(studies: Mapping[str, Study], names: _Names) -> tuple[list[dict[str, Any]], int]:
    """The rows of all frames; of a trial that several studies list in a cell, the one that came furthest. And
    how many such trials came out differently."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    unequal = set()
    for label, study in studies.items():
        for row in study.frame.to_dict("records"):
            known = {str(k): v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))}
            known["cell"] = names.cell(label, known["cell"])
            for kind, column in zip(KINDS, ("task", "backbone", "strategy"), strict=True):
                known[column] = names.of(kind, label, known[column])
            key = known["cell"], known["trial_id"]
            if key not in found or _further(known) > _further(found[key]):
                found[key] = known
            elif any(
                known.get(score) != found[key].get(score) for score in ("score_validation", "score_test")
            ):
                unequal.add(key)
    return list(found.values()), len(unequal)


def _further(row: Entry) -> int:
    return 0 if row["status"] in ("missing", "unreadable") else 2 if row["status"] == "finished" else 1


def _serving_many(rows: Iterable[Entry]) -> list[dict[str, Any]]:
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(row["trial_id"], []).append(row["cell"])
    return [{"trial_id": trial, "cells": found} for trial, found in cells.items() if len(found) > 1]


def _seeds_apart(studies: Mapping[str, Study]) -> tuple[dict[str, Study], list[str]]:
    """Seeds of tables renumbered where a sweep has the same numbers, and the tables that this was done to."""
    ours = {int(s) for study in studies.values() if not study.plan.get("tables") for s in study.frame["seed"]}
    theirs = {int(s) for study in studies.values() if study.plan.get("tables") for s in study.frame["seed"]}
    if not ours & theirs:
        return dict(studies), []
    numbers = {seed: max(ours) + 1 + place for place, seed in enumerate(sorted(theirs))}
    tables = [label for label, study in studies.items() if study.plan.get("tables")]
    changed = {
        label: dataclasses.replace(
            study, frame=study.frame.assign(seed=study.frame["seed"].map(numbers).astype("int64"))
        )
        for label, study in studies.items()
        if label in tables
    }
    return {label: changed.get(label, study) for label, study in studies.items()}, tables


def _examples(studies: Mapping[str, Study], names: _Names) -> Examples:
    """Asks the study that has the trial, as long as its metric is made of examples as in the merged plan."""
    forms = {task["name"]: task.get("forms") or {} for task in names.entries["tasks"]}
    owners: dict[str, tuple[Study, Mapping[str, str], Mapping[str, str]]] = {}
    for label, study in studies.items():
        own = {str(task["name"]): task.get("forms") or {} for task in study.plan["tasks"]}
        finished = study.frame[study.frame["status"] == "finished"]
        for trial_id, task in zip(finished["trial_id"], finished["task"], strict=True):
            owners.setdefault(trial_id, (study, own[task], forms[names.of("tasks", label, task)]))

    def examples(trial_id: str, metric: str) -> NDArray[np.float64] | None:
        if trial_id not in owners:
            return None
        study, own, merged = owners[trial_id]
        return study.examples(trial_id, metric) if own.get(metric) == merged.get(metric) else None

    return examples


def _remarks(studies: Mapping[str, Study], names: _Names, renumbered: list[str], unequal: int) -> list[str]:
    """What a reader has to know of how things were put together."""
    found = [f"Put together from {', '.join(studies)}."]
    for kind, why in (
        ("tasks", "their data or primary metrics differ"),
        ("backbones", "their weights differ"),
        ("strategies", "their definitions differ, or each has its own runs of the same seeds"),
    ):
        if apart := names.apart(kind):
            found.append(f"Of one name and not the same ({why}): {', '.join(apart)}.")
        if renamed := names.renamed(kind):
            found.append(f"The same {kind} under two names: {'; '.join(renamed)}.")
    margins: dict[str, set[float]] = {}
    for label, study in studies.items():
        for task in study.plan["tasks"]:
            margins.setdefault(names.of("tasks", label, task["name"]), set()).add(delta_of(task))
    if unlike := [name for name, deltas in margins.items() if len(deltas) > 1]:
        found.append(f"δ differs, the smaller one is taken: {', '.join(unlike)}.")
    tables = [label for label, study in studies.items() if study.plan.get("tables")]
    if tables:
        found.append("A table does not say what data and weights are behind it: their names have to do.")
    if renumbered:
        found.append(
            f"Seeds of {', '.join(renumbered)} were renumbered: those of a table mean nothing in a sweep, so "
            "that no comparison is paired across the two."
        )
    if len(tables) > 1:
        found.append("Seeds of tables are paired by their numbers.")
    if unequal:
        found.append(
            f"{unequal} trial(s) are in several of these and did not come out the same: the first counts, "
            "and harness compare shows the difference."
        )
    confirms = {label: study.confirm_seeds for label, study in studies.items()}
    if without := [label for label, seeds in confirms.items() if not seeds and max(confirms.values())]:
        found.append(f"Without confirm phase, and so without test scores: {', '.join(without)}.")
    return found
