"""Trial records: one self-explaining JSON file per trial that has ended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from harness.records.paths import ResultPaths, replace_file, write_json

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
    were reserved."""

    trial_id: str
    status: Status
    reason: str
    metrics: dict[str, dict[str, float] | None]
    curve: list[dict[str, Any]]
    cost: Cost
    resources: dict[str, float] | None


class Record(Brief):
    """A trial that has ended. `metrics.test` is null in the tune phase: test is sealed there. `stages` are
    what trained when (epochs, rungs frozen from the input), `drift` and `retention` what `training.kept`
    measures, `sharing` says what was not done for this trial alone: depths at which what the frozen rungs
    give was `stored`, trials of the `bundle`, and whether their heads were `batched`."""

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
_NEEDED = Record.__required_keys__ - {"retention", "stages", "sharing", "resources"}


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
    write_json(paths.trial(record["trial_id"]), finite(record))


def read_record(path: Path, trial_id: str | None = None) -> Record | None:
    """The record of a trial, by default the one that the file is named after; None if the file does not hold
    it."""
    try:
        return parse_record(path.read_text(encoding="utf-8"), trial_id or path.stem)
    except (OSError, ValueError):
        return None


def parse_record(text: str, trial_id: str) -> Record | None:
    """The record of a trial in JSON; None if the text is no record, or another trial's."""
    try:
        record: Record = json.loads(text)
        known = record["trial_id"] == trial_id and record["status"] in STATUSES
        known = known and record.keys() >= _NEEDED
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if known else None


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
    }


def read_records(paths: ResultPaths) -> Iterator[Record]:
    """Every readable record, in the order of trial ids."""
    for path in sorted(paths.trials.glob("*.json")):
        record = read_record(path)
        if record is not None:
            yield record


def write_predictions(
    paths: ResultPaths, trial_id: str, rows: list[dict[str, Any]], parts: Mapping[str, Any] | None = None
) -> None:
    """Predictions per test example: columns `example`, `reference`, `prediction`, the kind's extras, and what
    the example adds to each metric (`parts`, shape (examples, k) each), as lists of numbers."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    for metric, values in (parts or {}).items():
        frame[f"{PARTS}{metric}"] = list(values)
    replace_file(paths.predictions(trial_id), lambda path: frame.to_parquet(path, index=False))
