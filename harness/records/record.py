"""Trial records: one self-explaining JSON file per trial that has ended."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from harness.cache import checksum
from harness.records.paths import ResultPaths, replace_file
from harness.records.seal import read_sealed, unsealed, write_sealed
from harness.records.sound import sound

Status = Literal["finished", "stopped", "diverged", "infeasible", "failed"]
STATUSES: tuple[Status, ...] = ("finished", "stopped", "diverged", "infeasible", "failed")

# How a trial may end without a score, beside being stopped.
FAILURES: tuple[Status, ...] = ("diverged", "infeasible", "failed")
# A trial that ended so is done: running the sweep again does not run it again. `failed` is a fault of the
# machinery, not of the trial, and is tried again.
FINAL: tuple[Status, ...] = ("finished", "stopped", "diverged", "infeasible")

# Of the columns of predictions that say what an example adds to a metric; the metric's name follows.
PARTS = "parts."


class Cost(TypedDict):
    """What a trial took: seconds, seconds × devices reserved, FLOPs, optimiser steps, trainable
    parameters, megabytes at the peak (accelerator memory, or the process's resident memory on a CPU)."""

    wall_s: float
    device_s: float
    flops: float
    steps: int
    trainable_params: int
    peak_memory_mb: float


class Brief(TypedDict):
    """Of a record what a campaign and its views need: a tenth of it. `resources` are the CPUs and GPUs that
    were reserved, `predictions` is the checksum of the trial's file of predictions, null without one."""

    trial_id: str
    status: Status
    reason: str
    metrics: dict[str, dict[str, float] | None]
    curve: list[dict[str, Any]]
    cost: Cost
    resources: dict[str, float] | None
    predictions: str | None


class Record(Brief):
    """A trial that has ended. `metrics.test` is null in the tune phase: test is sealed there. `stages` are
    what trained when (epochs, rungs frozen from the input), `drift` and `retention` what `training.kept`
    measures, `sharing` says what was not done for this trial alone: depths at which what the frozen rungs
    give was `stored`, trials of the `bundle`, whether their heads were `batched`, and whether the last block
    was `narrowed` to the position that the head reads."""

    format: int
    phase: str
    task: str
    kind: str
    backbone: str
    strategy: str
    hyperparameters: dict[str, Any]
    recipe: dict[str, Any]
    stages: list[dict[str, Any]]
    seed: int
    drift: dict[str, Any]
    retention: dict[str, Any] | None
    sharing: dict[str, Any]
    attempts: int
    notes: list[str]
    provenance: dict[str, Any]


# Records of before these were written count all the same.
_NEEDED = Record.__required_keys__ - {"retention", "stages", "sharing", "resources", "predictions"}


def finite(value: Any) -> Any:
    """The same value with NaN and infinities as null: JSON knows no others."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(child) for child in value]
    return value


def write_record(paths: ResultPaths, record: Record) -> None:
    write_sealed(paths.trial(record["trial_id"]), finite(record))


def read_record(path: Path, trial_id: str | None = None) -> Record | None:
    """The record of a trial, by default the one that the file is named after; None if the file does not hold
    it. Raises: StorageError if it cannot be read."""
    try:
        return _sound_record(path, trial_id)
    except (FileNotFoundError, ValueError):
        return None


def _sound_record(path: Path, trial_id: str | None = None) -> Record:
    return sound(path, lambda there: _record(read_sealed(there), trial_id or path.stem))


def parse_record(text: str, trial_id: str) -> Record | None:
    """The record of a trial in JSON; None if the text is no record, another trial's, or damaged."""
    try:
        return _record(unsealed(text), trial_id)
    except ValueError:
        return None


def record_fault(path: Path) -> str:
    """Why a file holds no record of the trial that it is named after; empty if it does, or is gone."""
    try:
        _sound_record(path)
    except FileNotFoundError:
        return ""
    except ValueError as error:
        return f"no record: {error}"
    return ""


def _record(value: Any, trial_id: str) -> Record:
    """Raises: ValueError if it is not the record of this trial."""
    if missing := _NEEDED - value.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if value["trial_id"] != trial_id:
        raise ValueError("holds another trial's record")
    if value["status"] not in STATUSES:
        raise ValueError(f"unknown status {value['status']!r}")
    record: Record = value
    return record


def brief(record: Record) -> Brief:
    """What a campaign needs of a record. Of the curve that is epochs and scores."""
    shown = {"epoch", "validation"}
    curve = [{key: value for key, value in point.items() if key in shown} for point in record["curve"]]
    return {
        "trial_id": record["trial_id"],
        "status": record["status"],
        "reason": record["reason"],
        "metrics": record["metrics"],
        "curve": curve,
        "cost": record["cost"],
        "resources": record.get("resources"),
        "predictions": record.get("predictions"),
    }


def read_records(paths: ResultPaths) -> Iterator[Record]:
    """Every readable record, in the order of trial ids."""
    for path in sorted(paths.trials.glob("*.json")):
        record = read_record(path)
        if record is not None:
            yield record


def write_predictions(
    paths: ResultPaths, trial_id: str, rows: list[dict[str, Any]], parts: Mapping[str, Any] | None = None
) -> str:
    """Predictions per test example: columns `example`, `reference`, `prediction`, the kind's extras, and what
    the example adds to each metric (`parts`, shape (examples, k) each), as lists of numbers.

    Returns: the file's checksum, for the record.
    """
    import pandas as pd

    frame = pd.DataFrame(rows)
    for metric, values in (parts or {}).items():
        frame[f"{PARTS}{metric}"] = list(values)
    found: list[str] = []

    def write(path: Path) -> None:
        frame.to_parquet(path, index=False)
        found.append(checksum(path))

    replace_file(paths.predictions(trial_id), write)
    return found[-1]  # of the last try


def predictions_fault(paths: ResultPaths, trial_id: str, said: str | None) -> str:
    """Why the predictions of a trial are not those of which its record has `said` the checksum; empty if they
    are, or it speaks of none. Raises: StorageError if they cannot be read."""

    def look(path: Path) -> None:
        if checksum(path) != said:
            raise ValueError("its checksum is not that of its record")

    try:
        if said is not None:
            sound(paths.predictions(trial_id), look)
    except FileNotFoundError:
        return "is missing"
    except ValueError as error:
        return str(error)
    return ""
