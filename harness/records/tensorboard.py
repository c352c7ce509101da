"""TensorBoard: curves of every trial, and HParams groups that work.

One folder per task and backbone with the table's columns; one run per trial below it. Runs of one
configuration share a group, so the seed stays out of the group's name. The HParams table shows a metric
only if its tag is a scalar of the run, and shows the last value.

Not written by torch: its `add_hparams` makes a sub-run with a time stamp, and reports must not need torch.
Nor by tensorboard's `EventFileWriter`, which starts a thread for every file: a trial writes few events, and
a reader is to see them at once.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.record_writer import RecordWriter

from harness.records.paths import ResultPaths

# The `metric` tags of the HParams table; written as scalars by every trial that has them.
FINAL_VALIDATION = "final/validation"
FINAL_TEST = "final/test"
CELL_COLUMNS = ("task", "backbone", "strategy", "phase")


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=,-]+", "_", name)


def task_folder(paths: ResultPaths, task: str, backbone: str) -> Path:
    return paths.tensorboard / f"{slug(task)}.{slug(backbone)}"


def run_folder(paths: ResultPaths, trial: Mapping[str, Any]) -> Path:
    name = f"{slug(trial['strategy'])}.{trial['phase']}.{trial['trial_id']}"
    return task_folder(paths, trial["task"], trial["backbone"]) / name


class _EventFile:
    """One event file; every event is on disk when `add` returns."""

    def __init__(self, folder: Path) -> None:
        now = time.time()
        # Named as tensorboard names its own: readers look for the first part, and take files in this order.
        name = f"events.out.tfevents.{int(now):010}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._writer = RecordWriter(self._file)
        self._write(event_pb2.Event(wall_time=now, file_version="brain.Event:2"))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def add(self, summary: Any, step: int) -> None:
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self._file.close()


class RunWriter:
    """Writes the curves of one trial. A trial that is resumed writes its run again from the start."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._events = _EventFile(folder)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        entries = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._events.add(summary_pb2.Summary(value=entries), step)

    def point(self, point: Mapping[str, Any]) -> None:
        """One entry of a record's curve."""
        values = {f"validation/{name}": value for name, value in point["validation"].items()}
        for name in ("train_loss", "validation_loss", "learning_rate"):
            if point.get(name) is not None:
                values[name] = point[name]
        self.scalars(values, point["step"])

    def hyperparameters(self, trial: Mapping[str, Any], group: str) -> None:
        """The trial's row of the HParams table; runs with one `group` are one row."""
        values = {**{name: trial[name] for name in CELL_COLUMNS}, **trial["hyperparameters"]}
        plain = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in values.items()}
        self._events.add(summary_v2.hparams_pb(plain, trial_id=group), 0)

    def close(self) -> None:
        self._events.close()


def write_experiment(folder: Path, axes: Iterable[str]) -> None:
    """The columns of the HParams table: what names a cell, then the hyper-parameters `axes`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    columns = [summary_v2.HParam(name) for name in (*CELL_COLUMNS, *axes)]
    metrics = [
        summary_v2.Metric(FINAL_VALIDATION, display_name="validation"),
        summary_v2.Metric(FINAL_TEST, display_name="test"),
    ]
    events = _EventFile(folder)
    events.add(summary_v2.hparams_config_pb(hparams=columns, metrics=metrics), 0)
    events.close()
