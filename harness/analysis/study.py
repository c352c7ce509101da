"""What a results folder holds, as one tidy frame: one row per (cell, trial)."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.examples import Examples, examples_of, spoilt_predictions, unknown_examples
from harness.analysis.frame import COSTS, frame_of, number
from harness.errors import bad
from harness.records import index, remote
from harness.records.paths import ResultPaths
from harness.records.quarantine import remarks, worded
from harness.records.record import STATUSES
from harness.records.seal import read_sealed, unsealed
from harness.records.sound import sound

PROVENANCE = ("versions", "git", "code", "hardware", "data", "weights")
DELTA = 0.01
"""Of tasks that do not say."""

RACED_OUT = "raced out"
SETTLED = ("done", RACED_OUT, "blocked")
SPACES = ("grid", "choice", "uniform", "loguniform", "int")


@dataclass(frozen=True)
class Cell:
    """One cell as planned, with how far it got."""

    id: str
    task: str
    backbone: str
    strategy: str
    budget: int
    space: Mapping[str, Mapping[str, Any]]
    state: str  # "planned" (no file yet) | "tuning" | "confirming" | "raced out" | "done"
    winner: dict[str, Any] | None
    listed: int  # trials that the cell has asked for so far
    raced_out: dict[str, Any] | None = None  # why it is out of the race, see `racing.Out`
    problem: str = ""  # what ended its search early


def delta_of(task: Mapping[str, Any]) -> float:
    """The margin within which a difference counts as none, of a task in a plan."""
    return float(task.get("delta", DELTA))


@dataclass(frozen=True)
class Arena:
    """Where strategies compete: one task on one backbone; `key` names it in verdicts and report."""

    key: str
    task: dict[str, Any]
    backbone: str
    cells: tuple[Cell, ...]

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return -1 if self.task["direction"] == "min" else 1

    @property
    def primary(self) -> str:
        return str(self.task["primary"])

    @property
    def delta(self) -> float:
        return delta_of(self.task)

    def constant(self, split: str) -> float | None:
        """The constant predictor's score in the primary metric, where it is known."""
        return number((self.task.get("constant") or {}).get(split, {}).get(self.primary))


@dataclass(frozen=True)
class Source:
    """The training of a backbone on its source task: `scores` by split, in the source task's primary metric;
    `status` is "missing" as long as there is no record."""

    backbone: str
    task: str
    primary: str
    status: str
    reason: str
    scores: Mapping[str, float | None]
    device_s: float | None


@dataclass(frozen=True)
class Study:
    """A results folder, read.

    Attributes:
        plan: plan.json as it is.
        frame: one row per (cell, trial); `status` is the record's, or "missing" (no record yet) or
            "unreadable". Scores stand as recorded: only "finished" rows are comparable. Sorted by cell,
            phase, seed and trial, whatever the order of files.
        cells: the planned cells, in the plan's order.
        unreadable: "file: why" for each file that exists and cannot be used.
        damaged: a line for each file that a run found damaged and made or ran again.
        mixed: ids of cells whose records were made by different versions of packages or code.
        unfinished: ids of the cells that are not done, in the plan's order.
        sources: the backbones that were trained on a source task first.
        examples: asked for (trial id, metric), gives what each test example adds to a trial's score, shape
            (examples, k), in the form that the plan names for the metric (see `harness/metrics/forms.py`);
            None where it is not known.
        again: the command that carries the sweep on; None for what is no sweep.
        provenance: per part, each distinct value (as JSON) with its number of trials.
        unused: number of records that no cell of the present plan asks for.
    """

    plan: dict[str, Any]
    frame: pd.DataFrame
    cells: tuple[Cell, ...]
    unreadable: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    provenance: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unused: int = 0
    sources: tuple[Source, ...] = ()
    examples: Examples = unknown_examples
    again: str | None = None

    @property
    def confirm_seeds(self) -> int:
        return int(self.plan["seeds"]["confirm"])

    @property
    def split(self) -> str:
        """The split of the headline: test, or validation in a sweep without confirm phase."""
        return "test" if self.confirm_seeds else "validation"

    def arenas(self) -> list[Arena]:
        """Every (task, backbone) that has a cell, in the plan's order."""
        tasks = {str(task["name"]): task for task in self.plan["tasks"]}
        single = len(self.plan["backbones"]) == 1
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault((cell.task, cell.backbone), []).append(cell)
        return [
            Arena(task if single else f"{task} @ {backbone}", tasks[task], backbone, tuple(cells))
            for (task, backbone), cells in groups.items()
        ]


def load_study(paths: ResultPaths) -> Study:
    """Read a results folder; files that cannot be read are named in the study, never fatal.

    Raises: InputError if plan.json, without which nothing has a meaning, is missing or unusable.
    """
    plan = _plan(paths.plan)
    unreadable: list[str] = []
    primaries = {str(task["name"]): str(task["primary"]) for task in plan["tasks"]}
    definitions = {str(s["name"]): _leaves(s.get("definition") or {}) for s in plan["strategies"]}
    provenance: dict[str, Counter[str]] = {part: Counter() for part in PROVENANCE}
    read = [_cell(planned, paths, unreadable) for planned in plan["cells"]]
    cells = [cell for cell, _ in read]
    stored = index.stamps(paths)
    asked_for = {trial_id for _, asked in read for _, trial_id, _, _ in asked}
    records = _records(paths, asked_for, stored, unreadable, provenance)
    made_by = {i: record.pop("made_by") for i, record in records.items() if "made_by" in record}
    spoilt = spoilt_predictions(paths, records, unreadable)
    rows: list[dict[str, Any]] = []
    for cell, asked in read:
        for place, (phase, trial_id, seed, hyperparameters) in enumerate(asked):
            rows.append(
                {
                    "cell": cell.id,
                    "task": cell.task,
                    "backbone": cell.backbone,
                    "strategy": cell.strategy,
                    "phase": phase,
                    "asked": place,
                    "seed": seed,
                    "trial_id": trial_id,
                    "config": json.dumps(hyperparameters, sort_keys=True),
                    "score_validation": records[trial_id].get(f"validation.{primaries[cell.task]}"),
                    "score_test": records[trial_id].get(f"test.{primaries[cell.task]}"),
                    **records[trial_id],
                    **{f"strategy.{key}": value for key, value in definitions.get(cell.strategy, {}).items()},
                    **{f"hp.{axis}": value for axis, value in hyperparameters.items()},
                }
            )
    sources = list(plan.get("sources") or [])
    return Study(
        plan=plan,
        frame=frame_of(rows),
        cells=tuple(cells),
        unreadable=tuple(sorted(unreadable)),
        damaged=tuple(map(worded, remarks(paths))),
        mixed=tuple(
            cell.id
            for cell, asked in read
            if len({made_by[trial_id] for _, trial_id, _, _ in asked if trial_id in made_by}) > 1
        ),
        unfinished=tuple(cell.id for cell in cells if cell.state not in SETTLED),
        provenance={part: dict(sorted(counts.items())) for part, counts in provenance.items()},
        unused=len(stored.keys() - records.keys() - {str(source["trial_id"]) for source in sources}),
        sources=tuple(_source(source, paths, unreadable) for source in sources),
        examples=examples_of(paths, spoilt),
        again=_again(paths) if paths.sweep.exists() else None,
    )


def _again(paths: ResultPaths) -> str:
    return shlex.join(["harness", "run", str(paths.sweep), "--results", remote.above(paths.root)])


def _read(path: Path, text: str | None = None) -> dict[str, Any]:
    """A JSON object from a file, or from its text. Raises: FileNotFoundError, ValueError, StorageError."""
    return sound(path, read_sealed) if text is None else unsealed(text)


def _plan(path: Path) -> dict[str, Any]:
    try:
        plan = _read(path)
        if plan.get("format") != 1:
            raise ValueError(f"its format is {plan.get('format')!r}, this version reads 1")
        missing = {"name", "seeds", "tasks", "backbones", "strategies", "cells"} - plan.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except FileNotFoundError:
        raise bad(str(path), "there is no plan here", "is this the results folder of a sweep?") from None
    except ValueError as error:
        raise bad(str(path), f"not a usable plan: {error}") from error
    return plan


def _cell(
    planned: Mapping[str, Any], paths: ResultPaths, unreadable: list[str]
) -> tuple[Cell, list[tuple[str, str, int, dict[str, Any]]]]:
    """The planned cell with its state, and what it asked for: (phase, trial, seed, hyper-parameters)."""
    path = paths.cell(str(planned["id"]))
    asked: list[tuple[str, str, int, dict[str, Any]]] = []
    state, winner, raced_out, problem = "planned", None, None, ""
    if path.exists():
        try:
            stored = _read(path)
            asked = [
                (phase, str(entry["trial_id"]), int(entry["seed"]), dict(entry["hyperparameters"]))
                for phase in ("tune", "confirm")
                for entry in stored[phase]
            ]
            state = str(stored["state"])
            winner = None if stored.get("winner") is None else dict(stored["winner"])
            raced_out = dict(stored["raced_out"]) if state == RACED_OUT else None
            problem = str(stored.get("problem", ""))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            asked, state, winner = [], "unreadable", None
            unreadable.append(_complaint(path, error))
    cell = Cell(
        id=str(planned["id"]),
        task=str(planned["task"]),
        backbone=str(planned["backbone"]),
        strategy=str(planned["strategy"]),
        budget=int(planned["budget"]),
        space=planned.get("space") or {},
        state=state,
        winner=winner,
        listed=len(asked),
        raced_out=raced_out,
        problem=problem,
    )
    return cell, asked


def _records(
    paths: ResultPaths, asked_for: set[str], stored: Mapping[str, index.Stamp], unreadable: list[str],
    provenance: dict[str, Counter[str]],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The columns of each trial; from the index as far as that covers them."""
    left = {trial_id: stamp for trial_id, stamp in stored.items() if trial_id in asked_for}
    found = {
        trial_id: _record(paths.trial(trial_id), unreadable, provenance, text)
        for trial_id, text in index.covered(paths, "record", left)
    }
    for trial_id in asked_for - found.keys():
        found[trial_id] = _record(paths.trial(trial_id), unreadable, provenance)
    return found


def _record(
    path: Path, unreadable: list[str], provenance: dict[str, Counter[str]], text: str | None = None
) -> dict[str, Any]:
    """The columns that a trial's record gives; only `status` where there is no usable record."""
    try:
        record = _read(path, text)
        status = record["status"]
        if status not in STATUSES:
            raise ValueError(f"unknown status {status!r}")
        if record["trial_id"] != path.stem:
            raise ValueError("holds another trial's record")
        columns: dict[str, Any] = {
            "status": status,
            "reason": str(record.get("reason") or ""),
            "kind": str(record.get("kind") or ""),
            "drift_relative_l2": number((record.get("drift") or {}).get("relative_l2")),
        }
        columns["frozen"] = number(min((s["frozen"] for s in record.get("stages") or []), default=None))
        columns["strength"] = number(
            ((record.get("recipe") or {}).get("regularizer") or {}).get("strength", 0)
        )
        for measure, prefix in (("rungs", "l2"), ("cka", "cka")):
            for rung, value in enumerate((record.get("drift") or {}).get(measure) or []):
                columns[f"{prefix}.{rung}"] = number(value)
        for side in ("before", "after"):
            columns[f"retention_{side}"] = number((record.get("retention") or {}).get(side))
        columns |= {name: number((record.get("cost") or {}).get(name)) for name in COSTS}
        for split in ("validation", "test"):
            metrics = (record.get("metrics") or {}).get(split) or {}
            columns |= {f"{split}.{name}": number(value) for name, value in metrics.items()}
        facts = dict(record.get("provenance") or {})
        columns["made_by"] = json.dumps([facts.get(part) for part in ("versions", "code")], sort_keys=True)
        columns["predictions"] = record.get("predictions")
    except FileNotFoundError:
        return {"status": "missing", "reason": ""}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        unreadable.append(_complaint(path, error))
        return {"status": "unreadable", "reason": unreadable[-1]}
    for part in PROVENANCE:
        if facts.get(part) is not None:
            provenance[part][json.dumps(facts[part], sort_keys=True)] += 1
    return columns


def _source(planned: Mapping[str, Any], paths: ResultPaths, unreadable: list[str]) -> Source:
    """A source trial as planned, with what its record says."""
    primary = str(planned["primary"])
    columns = _record(
        paths.trial(str(planned["trial_id"])), unreadable, {part: Counter() for part in PROVENANCE}
    )
    return Source(
        backbone=str(planned["backbone"]),
        task=str(planned["task"]),
        primary=primary,
        status=str(columns["status"]),
        reason=str(columns["reason"]),
        scores={split: columns.get(f"{split}.{primary}") for split in ("validation", "test")},
        device_s=columns.get("device_s"),
    )


def _complaint(path: Path, error: Exception) -> str:
    what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return f"{path.parent.name}/{path.name}: {what}"


def _leaves(definition: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A strategy's fixed values by dotted name; what is tuned shows as `hp.` columns instead."""
    found: dict[str, Any] = {}
    for key, value in definition.items():
        if not isinstance(value, Mapping):
            found[f"{prefix}{key}"] = value
        elif not (len(value) == 1 and next(iter(value)) in SPACES):
            found |= _leaves(value, f"{prefix}{key}.")
    return found
