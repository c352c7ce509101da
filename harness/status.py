"""How far a sweep has come, from its files alone: what has ended, what runs, how fast, and what is left.

Looking again is cheap: a record is read once, and again only if its file has changed.

What runs and how fast is said of the present run alone (see `harness.pace`): a sweep that no run is at work
on has no pace and no time left.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.pace import Pace, pace
from harness.records.paths import ResultPaths, slug
from harness.records.quarantine import remarks, worded
from harness.records.reader import Reader, at_work_since
from harness.records.record import STATUSES
from harness.records.tensorboard import task_folder

# Cells in these states get no more trials; as in `analysis/study.py`, which takes seconds to import.
SETTLED = ("done", "raced out", "blocked")
# Trials are counted in this order.
_FATES = (*STATUSES, "running", "missing", "unreadable")
# The clock of a file system may stand at an earlier tick than the one of a process.
_TICK = 1.0


@dataclass(frozen=True)
class Running:
    """A trial at work; `started` in seconds since the epoch, `cell` empty for one that is no cell's."""

    trial_id: str
    cell: str
    task: str
    backbone: str
    strategy: str
    phase: str
    started: float


@dataclass(frozen=True)
class CellStatus:
    """Attributes:
    trials: number of the trials that the cell has asked for, by fate: a record's status, "running", or
        "missing" where there is no record yet.
    planned: trials that the cell will have asked for in the end, as far as is known now.
    best: the best validation score of a finished trial, in the task's primary metric.
    """

    id: str
    task: str
    backbone: str
    strategy: str
    state: str
    winner: dict[str, Any] | None
    raced_out: dict[str, Any] | None
    trials: Mapping[str, int]
    planned: int
    best: float | None

    @property
    def settled(self) -> bool:
        return self.state in SETTLED


@dataclass(frozen=True)
class Status:
    """Attributes:
    since: when the run that is at work began, in seconds since the epoch; None if none is.
    trials: number of trials by fate, each trial once, however many cells share it.
    planned: trials in all, each once.
    device_s: of all trials that have ended.
    damaged: a line for each file that a run found damaged and made or ran again.
    """

    sweep: str
    done: bool
    since: float | None
    trials: Mapping[str, int]
    planned: int
    cells: tuple[CellStatus, ...]
    running: tuple[Running, ...]
    pace: Pace | None
    device_s: float
    metrics: Mapping[str, str]
    seen: float
    damaged: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        return sum(n for fate, n in self.trials.items() if fate not in ("running", "missing", "unreadable"))

    def as_dict(self) -> dict[str, Any]:
        cells = [
            {
                "task": cell.task,
                "backbone": cell.backbone,
                "strategy": cell.strategy,
                "state": cell.state,
                "winner": cell.winner,
                **({"raced_out": cell.raced_out} if cell.raced_out else {}),
                "trials": dict(cell.trials),
                "planned": cell.planned,
                "best_validation": cell.best,
            }
            for cell in self.cells
        ]
        running = [
            {
                "trial_id": trial.trial_id,
                "task": trial.task,
                "backbone": trial.backbone,
                "strategy": trial.strategy,
                "phase": trial.phase,
                "seconds": round(max(0.0, self.seen - trial.started), 1),
            }
            for trial in self.running
        ]
        return {
            "sweep": self.sweep,
            "done": self.done,
            "at_work": self.since is not None,
            "trials": dict(self.trials),
            "planned": self.planned,
            "trials_per_minute": round(self.pace.a_minute, 3) if self.pace else None,
            "seconds_left": [round(end, 1) for end in self.pace.left] if self.pace else None,
            "device_seconds": round(self.device_s, 3),
            "running": running,
            "cells": cells,
            "damaged": list(self.damaged),
        }


class Watcher:
    """Looks at a results folder, as often as asked."""

    def __init__(self, paths: ResultPaths) -> None:
        self._read = Reader(paths)

    def look(self, now: float | None = None) -> Status:
        """How far the sweep is now (in seconds since the epoch; default: by the clock).

        Raises: InputError if there is no usable plan.
        """
        read, now = self._read, time.time() if now is None else now
        since = at_work_since(read.paths)
        # Before the records: a trial that ends meanwhile has ended, and does not run beside the next one.
        folders = [] if since is None else _run_folders(read.paths)
        read.read()
        states = {str(planned["id"]): self._state(planned) for planned in read.plan["cells"]}
        begun = {} if since is None else self._begun(folders, since)
        running = {trial.trial_id: trial for trial in begun.values() if self._runs(trial)}
        cells = tuple(self._cell(planned, states, running) for planned in read.plan["cells"])
        done = all(cell.settled for cell in cells)
        paced = None
        if since is not None:
            # a cell's file of before this run says nothing of what the run will ask of the cell
            done = done and all(read.cells[cell.id].at >= since - _TICK for cell in cells)
            start = min((trial.started for trial in begun.values()), default=since)
            unsettled = [cell.id for cell in cells if not cell.settled]
            at_work = [(trial.cell, trial.phase) for trial in running.values()]
            paced = pace(read, unsettled, at_work, since, max(since, start), now)
        return Status(
            sweep=str(read.plan["name"]),
            done=done,
            since=since,
            trials=self._fates(running),
            planned=self._planned(cells),
            cells=cells,
            running=tuple(sorted(running.values(), key=lambda trial: (trial.started, trial.trial_id))),
            pace=paced,
            device_s=sum(ended.device_s for ended in read.ended.values()),
            metrics={str(task["name"]): str(task["primary"]) for task in read.plan["tasks"]},
            seen=now,
            damaged=tuple(map(worded, remarks(read.paths))),
        )

    def _state(self, planned: Mapping[str, Any]) -> str:
        """The state of a cell; what a grown sweep adds to a cell that was done is still to do."""
        listed = self._read.cells[str(planned["id"])]
        if listed.state != "done":
            return listed.state
        if planned.get("trials") and len(listed.configurations) < planned["configurations"]:
            return "tuning"
        if listed.winner is not None and len(listed.confirm) < self._read.plan["seeds"]["confirm"]:
            return "confirming"
        return "done"

    def _begun(self, folders: Iterable[tuple[str, os.DirEntry[str]]], since: float) -> dict[str, Running]:
        """The trials that the present run has begun, by id: each makes a folder for its curve first."""
        read = self._read
        cells: dict[tuple[str, str], Mapping[str, Any]] = {}
        where: dict[str, tuple[str, str]] = {}
        for planned in (*read.plan["cells"], *(read.plan.get("sources") or [])):
            task, backbone = str(planned["task"]), str(planned["backbone"])
            folder = task_folder(read.paths, task, backbone).name
            where[folder] = (task, backbone)
            if "strategy" in planned:
                cells[folder, slug(str(planned["strategy"]))] = planned
        begun: dict[str, Running] = {}
        for folder, entry in folders:
            strategy, phase, trial_id = ("", "", *entry.name.rsplit(".", 2))[-3:]
            ended = read.ended.get(trial_id)
            earlier = ended is not None and ended.at < since - _TICK and ended.status != "failed"
            if not phase or earlier or folder not in where:
                continue
            started = _changed(entry)
            if started is not None and started >= since - _TICK:
                cell = cells.get((folder, strategy))
                begun[trial_id] = Running(
                    trial_id=trial_id,
                    cell="" if cell is None else str(cell["id"]),
                    task=where[folder][0],
                    backbone=where[folder][1],
                    strategy=strategy if cell is None else str(cell["strategy"]),
                    phase=phase,
                    started=started,
                )
        return begun

    def _runs(self, trial: Running) -> bool:
        ended = self._read.ended.get(trial.trial_id)
        return ended is None or ended.at < trial.started

    def _fate(self, trial_id: str, running: Mapping[str, Running]) -> str:
        if trial_id in running:
            return "running"
        ended = self._read.ended.get(trial_id)
        return "missing" if ended is None else ended.status

    def _fates(self, running: Mapping[str, Running]) -> dict[str, int]:
        asked = {trial_id for listed in self._read.cells.values() for trial_id in listed.asked}
        return _counted(self._fate(trial_id, running) for trial_id in asked)

    def _cell(
        self, planned: Mapping[str, Any], states: Mapping[str, str], running: Mapping[str, Running]
    ) -> CellStatus:
        listed, plan = self._read.cells[str(planned["id"])], self._read.plan
        state, asked = states[str(planned["id"])], list(listed.asked)
        known, unknown = self._read.to_come(planned)
        rest = len(known) + unknown + max(0, int(plan["seeds"]["confirm"]) - len(listed.confirm))
        return CellStatus(
            id=str(planned["id"]),
            task=str(planned["task"]),
            backbone=str(planned["backbone"]),
            strategy=str(planned["strategy"]),
            state=state,
            winner=listed.winner,
            raced_out=listed.raced_out if state == "raced out" else None,
            trials=_counted(self._fate(trial_id, running) for trial_id in asked),
            planned=len(asked) + (0 if state in SETTLED else rest),
            best=self._best(planned, asked),
        )

    def _best(self, planned: Mapping[str, Any], asked: Iterable[str]) -> float | None:
        task = next(task for task in self._read.plan["tasks"] if task["name"] == planned["task"])
        found = [self._read.ended[trial_id] for trial_id in asked if trial_id in self._read.ended]
        scores = [ended.validation.get(task["primary"]) for ended in found if ended.status == "finished"]
        known = [float(score) for score in scores if score is not None]
        return (min if task["direction"] == "min" else max)(known) if known else None

    def _planned(self, cells: Iterable[CellStatus]) -> int:
        """Trials in all: those asked for, and those still to be, each once where cells share them."""
        asked = Counter(trial_id for listed in self._read.cells.values() for trial_id in listed.asked)
        rest = sum(cell.planned - sum(cell.trials.values()) for cell in cells)
        for merged in self._read.plan.get("merged") or []:
            rest -= len(merged["cells"]) - max(1, asked[merged["trial_id"]])
        return len(asked) + max(0, rest)


def _counted(fates: Iterable[str]) -> dict[str, int]:
    """By fate, in an order that depends on nothing else."""
    return dict(sorted(Counter(fates).items(), key=lambda entry: _FATES.index(entry[0])))


def _run_folders(paths: ResultPaths) -> list[tuple[str, os.DirEntry[str]]]:
    """The folders of all trials' curves, each with the name of the folder that it is in."""
    return [(task.name, run) for task in _folders(paths.tensorboard) for run in _folders(Path(task.path))]


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _changed(entry: os.DirEntry[str]) -> float | None:
    try:
        return entry.stat().st_mtime
    except OSError:  # the trial has begun once more meanwhile
        return None
