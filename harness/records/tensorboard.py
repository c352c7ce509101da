"""TensorBoard: curves of every trial, HParams groups that work, a chart per task, and texts.

One folder per task and backbone with the table's columns; one run per trial below it. Runs of one
configuration share a group, so the seed stays out of the group's name. The HParams table shows a metric
only if its tag is a scalar of the run, and shows the last value.

What is said of all trials of a task is a run of its own, `report`, with one for each strategy below it. A
chart of the "Custom Scalars" tab draws its tags of every run that has them, in the run's colour: tags name
the task, so that no chart draws another task's curves, whichever folder TensorBoard is opened on.

Not written by torch: its `add_hparams` makes a sub-run with a time stamp, and reports must not need torch.
Nor by tensorboard's `EventFileWriter`, which starts a thread for every file: a trial writes few events, and
a reader is to see them at once.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import summary_v2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from harness.records import remote
from harness.records.paths import ResultPaths, slug

# The `metric` tags of the HParams table; written as scalars by every trial that has them.
FINAL_VALIDATION = "final/validation"
FINAL_TEST = "final/test"
CELL_COLUMNS = ("task", "backbone", "strategy", "phase")

# The run of what is said of all trials. Neither a task's folder nor a trial's is named so: they have dots.
REPORT = "report"

_PUSH_SECONDS = 60.0

Band: TypeAlias = Sequence[tuple[int, float, float, float]]
"""A curve with a margin: step, value, lower and upper end."""


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
    """Writes the curves of one trial. A trial that is resumed writes its run again from the start. Results on
    a URI get them every minute and at the end."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._pushed, self._closed = folder, time.monotonic(), False
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
        if time.monotonic() - self._pushed > _PUSH_SECONDS:
            remote.push_folder(self._folder)
            self._pushed = time.monotonic()

    def hyperparameters(self, trial: Mapping[str, Any], group: str) -> None:
        """The trial's row of the HParams table; runs with one `group` are one row."""
        values = {**{name: trial[name] for name in CELL_COLUMNS}, **trial["hyperparameters"]}
        plain = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in values.items()}
        self._events.add(summary_v2.hparams_pb(plain, trial_id=group), 0)

    def close(self) -> None:
        self._events.close()
        if not self._closed:
            self._closed = True
            remote.push_folder(self._folder)


def _anew(folder: Path) -> _EventFile:
    """The one event file of a run, in place of those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in remote.names(folder):
        if name.startswith("events.out.tfevents."):
            remote.remove(folder / name)
    return _EventFile(folder)


def write_experiment(folder: Path, axes: Iterable[str]) -> None:
    """The columns of the HParams table: what names a cell, then the hyper-parameters `axes`."""
    columns = [summary_v2.HParam(name) for name in (*CELL_COLUMNS, *axes)]
    metrics = [
        summary_v2.Metric(FINAL_VALIDATION, display_name="validation"),
        summary_v2.Metric(FINAL_TEST, display_name="test"),
    ]
    events = _anew(folder)
    events.add(summary_v2.hparams_config_pb(hparams=columns, metrics=metrics), 0)
    events.close()
    for file in folder.glob("events.out.tfevents.*"):
        remote.push(file)


def write_summary(
    folder: Path,
    texts: Mapping[str, str],
    title: str = "",
    curves: Mapping[str, Mapping[str, Band]] | None = None,
) -> None:
    """The run `report` of a folder, and those of the strategies; to be cleared before.

    Args:
        texts: Markdown by tag.
        title: of the task among the custom scalars.
        curves: by strategy and by title of the chart that draws them.
    """
    if not texts and not curves:
        return
    events = _anew(folder / REPORT)
    for tag, text in texts.items():
        events.add(text_pb(tag, text), 0)
    if curves:
        names = dict.fromkeys(name for bands in curves.values() for name in bands)
        tags = {
            name: [f"{folder.name}/{name}{end}" for end in ("", ", lowest", ", highest")] for name in names
        }
        layout = layout_pb2.Layout(category=[layout_pb2.Category(title=title)])
        for name, (value, lower, upper) in tags.items():
            chart = layout.category[0].chart.add(title=name)
            chart.margin.series.add(value=value, lower=lower, upper=upper)
        events.add(_layout_pb(layout), 0)
        runs: set[str] = set()
        for strategy, bands in curves.items():
            name = slug(strategy).strip(".") or "_"
            while name in runs:  # another strategy's, that differs from it in what a path cannot hold
                name += "_"
            runs.add(name)
            _write_bands(folder / REPORT / name, {tuple(tags[title]): band for title, band in bands.items()})
    events.close()
    remote.push_folder(folder / REPORT)


def _write_bands(folder: Path, bands: Mapping[tuple[str, ...], Band]) -> None:
    """A run of a strategy's curves, each by its three tags."""
    at: defaultdict[int, list[Any]] = defaultdict(list)
    for tags, band in bands.items():
        for step, *values in band:
            pairs = zip(tags, values, strict=True)
            at[step] += [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in pairs]
    events = _anew(folder)
    for step in sorted(at):
        events.add(summary_pb2.Summary(value=at[step]), step)
    events.close()


def clear_summaries(paths: ResultPaths) -> None:
    """Remove every run `report`: a sweep may have other tasks and strategies than when they were written."""
    for folder in (paths.tensorboard / REPORT, *paths.tensorboard.glob(f"*/{REPORT}")):
        shutil.rmtree(folder, ignore_errors=True)


def _layout_pb(layout: Any) -> Any:
    """`tensorboard.plugins.custom_scalar.summary.pb` without TensorFlow."""
    tensor = make_tensor_proto(layout.SerializeToString())
    metadata = custom_scalars.create_summary_metadata()
    value = summary_pb2.Summary.Value(tag=custom_scalars.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor)
    return summary_pb2.Summary(value=[value])
