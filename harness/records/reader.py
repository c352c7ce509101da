"""A results folder, read again and again while a sweep writes it: each file once, and anew if it changed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from harness.errors import bad
from harness.records import index
from harness.records.index import Stamp
from harness.records.paths import ResultPaths
from harness.records.patience import reading
from harness.records.pull import refresh
from harness.records.record import STATUSES
from harness.records.seal import read_sealed, unsealed
from harness.records.sound import sound


@dataclass(frozen=True)
class Ended:
    """What is kept of a record: `validation` by metric, seconds as in `Cost`."""

    stamp: Stamp
    status: str
    validation: Mapping[str, Any]
    wall_s: float
    device_s: float

    @property
    def at(self) -> float:
        """In seconds since the epoch."""
        return self.stamp[1] / 1e9


@dataclass(frozen=True)
class Listed:
    """A cell's file: its tune trials, each with its configuration (as JSON), and its confirm trials."""

    stamp: Stamp
    state: str
    winner: dict[str, Any] | None
    raced_out: dict[str, Any] | None
    tune: tuple[tuple[str, str], ...]
    confirm: tuple[str, ...]

    @property
    def asked(self) -> Iterator[str]:
        """Ids of all its trials."""
        yield from (trial_id for trial_id, _ in self.tune)
        yield from self.confirm

    @property
    def at(self) -> float:
        """When it was written, in seconds since the epoch."""
        return self.stamp[1] / 1e9

    @property
    def configurations(self) -> set[str]:
        return {configuration for _, configuration in self.tune}


_NOTHING = Listed((0, 0), "planned", None, None, (), ())


class Reader:
    """Attributes:
    plan: plan.json as it is.
    cells: what each cell of the plan has asked for, by id.
    ended: what is kept of each record, by trial id.
    """

    def __init__(self, paths: ResultPaths) -> None:
        self.paths = paths
        self.plan: dict[str, Any] = {}
        self.cells: dict[str, Listed] = {}
        self.ended: dict[str, Ended] = {}
        self._plan_stamp: Stamp | None = None

    def read(self) -> None:
        """Read what has changed. Raises: InputError if there is no usable plan; StorageError."""
        refresh(self.paths)
        self._read_plan()
        for cell in self.plan["cells"]:
            self._read_cell(str(cell["id"]))
        self._read_records()

    def _read_plan(self) -> None:
        path = self.paths.plan
        try:
            stamp = _stamp(path)
            if stamp == self._plan_stamp:
                return
            plan = sound(path, read_sealed)
            if plan.get("format") != 1:
                raise ValueError("not of a format that this version reads")
            if missing := {"name", "seeds", "tasks", "cells"} - plan.keys():
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        except FileNotFoundError:
            raise bad(str(path), "there is no plan here", "is this the results folder of a sweep?") from None
        except ValueError as error:
            raise bad(str(path), f"not a usable plan: {error}") from error
        self.plan, self._plan_stamp = plan, stamp

    def _read_cell(self, cell_id: str) -> None:
        path = self.paths.cell(cell_id)
        try:
            stamp = _stamp(path)
        except FileNotFoundError:
            self.cells[cell_id] = _NOTHING
            return
        if self.cells.get(cell_id, _NOTHING).stamp == stamp:
            return
        try:
            stored = sound(path, read_sealed)
            self.cells[cell_id] = Listed(
                stamp=stamp,
                state=str(stored["state"]),
                winner=stored.get("winner"),
                raced_out=stored.get("raced_out"),
                tune=tuple(
                    (str(entry["trial_id"]), json.dumps(entry["hyperparameters"], sort_keys=True))
                    for entry in stored["tune"]
                ),
                confirm=tuple(str(entry["trial_id"]) for entry in stored["confirm"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.cells[cell_id] = replace(_NOTHING, stamp=stamp, state="unreadable")

    def _read_records(self) -> None:
        stored = index.stamps(self.paths)
        for trial_id in self.ended.keys() - stored.keys():
            del self.ended[trial_id]
        known = self.ended
        left = {i: stamp for i, stamp in stored.items() if i not in known or known[i].stamp != stamp}
        if len(left) >= index.BATCH:  # for fewer, the index would take longer than the files
            new = dict(left)
            for trial_id, text in index.covered(self.paths, "brief", left):
                self.ended[trial_id] = _kept(trial_id, new[trial_id], text)
        for trial_id, stamp in left.items():
            self.ended[trial_id] = _kept(trial_id, stamp, _text(self.paths.trial(trial_id)))

    def to_come(self, planned: Mapping[str, Any]) -> tuple[list[str], int]:
        """Tune trials that a cell of the plan has yet to ask for: the ids of those that are known beforehand,
        and the number of the others."""
        listed, seeds = self.cells[str(planned["id"])], int(self.plan["seeds"]["tune"])
        if ids := planned.get("trials"):
            given = {trial_id for trial_id, _ in listed.tune}
            # where the first seed was handed out, a seed that is not listed is not wanted any more
            waiting = [ids[i : i + seeds] for i in range(0, len(ids), seeds) if ids[i] not in given]
            return [trial_id for configuration in waiting for trial_id in configuration], 0
        return [], max(0, int(planned["budget"]) - seeds * len(listed.configurations))

    def curve(self, trial_id: str) -> list[dict[str, Any]]:
        """The evaluations of a trial; none if its record cannot be read."""
        try:
            return list(unsealed(_text(self.paths.trial(trial_id)))["curve"])
        except (ValueError, KeyError, TypeError):
            return []


def at_work_since(paths: ResultPaths) -> float | None:
    """When the run began that holds the results folder now, in seconds since the epoch; None if none does."""
    owner = paths.lock.with_suffix(".owner")
    try:
        said = json.loads(owner.read_text(encoding="utf-8"))
        since, host, process = owner.stat().st_mtime, said["host"], int(said["pid"])
        # A run that was killed leaves the file, and its number may be another process's by now. Of another
        # host nothing can be known.
        if host == socket.gethostname() and psutil.Process(process).create_time() > since + 5:
            return None
    except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        return None
    return since


def _kept(trial_id: str, stamp: Stamp, text: str) -> Ended:
    try:
        record = unsealed(text)
        if record["trial_id"] == trial_id and record["status"] in STATUSES:
            cost, validation = record.get("cost") or {}, (record.get("metrics") or {}).get("validation") or {}
            seconds = (float(cost.get(name) or 0.0) for name in ("wall_s", "device_s"))
            scores = {str(k): None if v is None else float(v) for k, v in validation.items()}
            return Ended(stamp, record["status"], scores, *seconds)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return Ended(stamp, "unreadable", {}, 0.0, 0.0)


def _text(path: Path) -> str:
    try:
        return reading(path, lambda: path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ""


def _stamp(path: Path) -> Stamp:
    stat = reading(path, path.stat)
    return stat.st_size, stat.st_mtime_ns
