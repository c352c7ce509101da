"""A tidy table of scores, from any tool, as a study: from there on a report is made as of a sweep.

One row is one run in one metric, or one example of it; `docs/reports.md` describes the columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.choose import fitting
from harness.analysis.frame import COSTS, frame_of
from harness.analysis.sheet import REQUIRED, Sheet, listed, load_sheet, typed
from harness.analysis.study import DELTA, Cell, Study
from harness.errors import Mistakes, nearest

UNNAMED = "—"
"""The backbone of a table that names none."""

_RUN = ["task", "backbone", "strategy", "phase", "seed", "setting"]


@dataclass(frozen=True)
class Reading:
    """How a table is to be read.

    Attributes:
        metric: the headline metric; where the table has no column `metric`, the name of its scores.
        direction: "max" or "min", of a headline metric of which neither table nor harness says it.
        known: the directions of the harness's own metrics, by name.
        tasks: names or patterns of the tasks that must have the metric; all, if empty.
    """

    metric: str | None = None
    direction: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Scores of single test examples, in one order for all runs of a task.

    Attributes:
        parts: by run and metric, shape (examples, 1).
        names: by task and metric, the examples.
    """

    parts: Mapping[tuple[int, str], NDArray[np.float64]]
    names: Mapping[tuple[str, str], tuple[str, ...]]


def read_table(path: Path, reading: Reading | None = None) -> Study:
    """Read a CSV, TSV or Parquet file.

    Raises: InputError with every mistake of the table and the lines that it is in.
    """
    reading = reading or Reading()
    sheet, mistakes = load_sheet(path), Mistakes()
    rows = typed(sheet, mistakes)
    if rows.empty or not all(name in sheet.frame for name in REQUIRED):
        mistakes.raise_any()
    rows = _named(rows, sheet, reading)
    _check_phases(rows, sheet, mistakes)
    rows["run"] = rows.groupby(_RUN, sort=False).ngroup()
    _check_runs(rows, sheet, mistakes)
    headlines = _headlines(rows, sheet, reading, mistakes)
    directions = _directions(rows, sheet, headlines, reading, mistakes)
    # Where rows could not be used, of course examples are lacking.
    examples = _examples(rows, sheet, mistakes if len(rows) == len(sheet.frame) else Mistakes())
    mistakes.raise_any()
    return _study(rows, sheet, path, headlines, directions, examples, _guesses(directions, rows, reading))


def _named(rows: pd.DataFrame, sheet: Sheet, reading: Reading) -> pd.DataFrame:
    """With what the table leaves unsaid: backbone, metric, phase and split."""
    phase, split = rows["phase"], rows["split"]
    tested = (split == "test") | (phase == "confirm") | ((phase == "") & (split == ""))
    # Scores on validation and nothing else are no confirmation of anything.
    untold = "confirm" if tested.any() else "tune"
    rows = rows.assign(
        backbone=rows["backbone"].where(rows["backbone"] != "", UNNAMED),
        phase=phase.where(phase != "", np.where((split == "validation"), untold, "confirm")),
    )
    if "metric" not in sheet.frame:
        rows["metric"] = reading.metric or "score"
    rows["split"] = split.where(split != "", np.where(rows["phase"] == "tune", "validation", "test"))
    rows["setting"] = rows["config"].where(rows["phase"] == "tune", "")
    return rows


def _check_phases(rows: pd.DataFrame, sheet: Sheet, mistakes: Mistakes) -> None:
    if (rows["phase"] == "confirm").any() and not (rows["split"] == "test").any():
        mistakes.add(
            sheet.place,
            "has confirm runs, and no score on the test split",
            "without confirm runs a report is made of the validation scores",
        )


def _check_runs(rows: pd.DataFrame, sheet: Sheet, mistakes: Mistakes) -> None:
    """Nothing said twice, and nothing said differently in the rows of one run."""

    def blame(wrong: pd.Series[bool], reason: str, hint: str = "") -> None:
        if wrong.any():
            runs = rows[wrong].drop_duplicates("run")
            places = zip(runs["task"], runs["strategy"], runs["seed"], strict=True)
            named = listed([f"{task}, {strategy}, seed {seed}" for task, strategy, seed in places])
            mistakes.add(sheet.at(rows.index[wrong.to_numpy()]), f"{reason} ({named})", hint)

    by_run = rows.groupby("run", sort=False)
    settings = by_run["config"].transform("nunique") > 1
    blame(
        settings, "one confirm run with several settings", "trials of a search say tune in a column 'phase'"
    )
    one = ["run", "metric", "split"]
    exampled = rows["example"] != ""
    hint = "" if "example" in sheet.frame else "a column 'example' tells examples of one run apart"
    twice = rows.duplicated([*one, "example"], keep=False) & ~settings
    blame(twice, "the same run more than once", hint)
    mixed = exampled.groupby([rows[name] for name in one], sort=False).transform("nunique") > 1
    blame(mixed, "one run both as a whole and by examples")
    for name in ("status", *COSTS):
        blame(by_run[name].transform("nunique") > 1, f"one run with more than one {name}")


def _headlines(rows: pd.DataFrame, sheet: Sheet, reading: Reading, mistakes: Mistakes) -> dict[str, str]:
    """The primary metric of every task, in the table's order."""
    found: dict[str, str] = {}
    for task, group in rows.groupby("task", sort=False)["metric"]:
        metrics = list(dict.fromkeys(group))
        wanted = not reading.tasks or any(fitting(pattern, [str(task)]) for pattern in reading.tasks)
        if reading.metric in metrics or not wanted or (len(metrics) == 1 and reading.metric is None):
            found[str(task)] = str(reading.metric if reading.metric in metrics else metrics[0])
        elif reading.metric is None:
            hint = f"choose one with --metric: {', '.join(metrics)}"
            mistakes.add(sheet.place, f"task '{task}' has several metrics", hint)
        else:
            hint = nearest(reading.metric, metrics)
            mistakes.add("--metric", f"task '{task}' has no '{reading.metric}'", hint)
    return found


def _directions(
    rows: pd.DataFrame, sheet: Sheet, headlines: Mapping[str, str], reading: Reading, mistakes: Mistakes
) -> dict[str, str]:
    """The direction of every headline metric: the table's word, else the harness's, else the option's."""
    found: dict[str, str] = {}
    for metric in dict.fromkeys(headlines.values()):
        told = rows[(rows["metric"] == metric) & (rows["direction"] != "")]
        said = list(dict.fromkeys(told["direction"]))
        known = reading.known.get(metric)
        if len(said) > 1:
            mistakes.add(sheet.at(told.index), f"{metric} has more than one direction: max and min")
        elif said and known not in (None, said[0]):
            mistakes.add(sheet.at(told.index), f"{metric} has the direction {known}, not {said[0]}")
        found[metric] = said[0] if said else known or reading.direction or "max"
    if reading.direction and found and reading.direction not in found.values():
        listed_ = ", ".join(f"{metric} {direction}" for metric, direction in found.items())
        mistakes.add("--direction", f"{reading.direction} is that of no metric here: {listed_}")
    return found


def _guesses(directions: Mapping[str, str], rows: pd.DataFrame, reading: Reading) -> list[str]:
    """What the report has to say since nobody said it."""
    told = set(rows["metric"][rows["direction"] != ""])
    return [
        f"Nothing says whether more or less {metric} is better: more is taken to be (else: --direction min)."
        for metric in directions
        if metric not in told and metric not in reading.known and reading.direction is None
    ]


def _examples(rows: pd.DataFrame, sheet: Sheet, mistakes: Mistakes) -> Examples:
    """Every run of a task must have the same test examples: means over different ones are not comparable."""
    scored = rows[(rows["example"] != "") & (rows["split"] == "test") & (rows["status"] == "finished")]
    parts: dict[tuple[int, str], NDArray[np.float64]] = {}
    names: dict[tuple[str, str], tuple[str, ...]] = {}
    for key, group in scored.groupby(["task", "metric"], sort=False):
        task, metric = map(str, key)
        single = group.drop_duplicates(["run", "example"])
        wide = single.pivot(index="run", columns="example", values="score")
        order = _ordered(wide.columns)
        short = wide.index[wide.isna().any(axis=1)]
        if len(short):
            some = group[group["run"].isin(short)]
            runs = some.drop_duplicates("run")
            named = [f"{s}, seed {seed}" for s, seed in zip(runs["strategy"], runs["seed"], strict=True)]
            reason = f"task '{task}': runs that lack some of the {len(order)} examples ({listed(named)})"
            mistakes.add(sheet.at(runs.index), reason)
        values = wide[order].to_numpy(dtype=np.float64)
        parts |= {
            (run, metric): row.reshape(-1, 1) for run, row in zip(wide.index.tolist(), values, strict=True)
        }
        names[task, metric] = tuple(order)
    return Examples(parts, names)


def _ordered(names: Iterable[str]) -> list[str]:
    """As numbers where all are."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(names)


def _study(
    rows: pd.DataFrame, sheet: Sheet, path: Path, headlines: Mapping[str, str], directions: Mapping[str, str],
    examples: Examples, guesses: list[str],
) -> Study:  # fmt: skip
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    runs = rows.drop_duplicates("run").set_index("run")
    ids = {
        run: hashlib.sha256(json.dumps([digest, *map(str, key)]).encode()).hexdigest()[:16]
        for run, key in zip(runs.index, runs[_RUN].itertuples(index=False, name=None), strict=True)
    }
    strategies, backbones = (list(dict.fromkeys(runs[name])) for name in ("strategy", "backbone"))
    there = set(zip(runs["task"], runs["backbone"], runs["strategy"], strict=True))
    keys = [(t, b, s) for t in headlines for b in backbones for s in strategies if (t, b, s) in there]
    cells = {key: f"c{index:04d}" for index, key in enumerate(keys)}
    frame = frame_of(_frame_rows(rows, runs, ids, cells, headlines))
    tune, confirm = (frame[frame["phase"] == phase] for phase in ("tune", "confirm"))
    metrics = rows.groupby("task", sort=False)["metric"].unique()
    unused = f"Columns that are not used: {', '.join(sheet.unused)}." if sheet.unused else ""
    plan = {
        "format": 1,
        "name": path.stem,
        "baseline": None,
        "seeds": {phase: _seeds(part) for phase, part in (("tune", tune), ("confirm", confirm))},
        "search": {},
        "tasks": [
            {
                "name": task,
                "primary": primary,
                "direction": directions[primary],
                "metrics": list(metrics[task]),
                "delta": DELTA,
                "forms": {metric: "mean" for metric in metrics[task] if (task, metric) in examples.names},
                "splits": {"test": len(names)} if (names := examples.names.get((task, primary))) else {},
                "examples": hashlib.sha256(json.dumps(names).encode()).hexdigest() if names else None,
            }
            for task, primary in headlines.items()
        ],
        "backbones": [{"name": name} for name in backbones],
        "strategies": [{"name": name} for name in strategies],
        "cells": [
            {"id": cell, "task": task, "backbone": backbone, "strategy": strategy}
            for (task, backbone, strategy), cell in cells.items()
        ],
        "tables": [{"file": path.name, "sha256": digest, f"{sheet.unit}s": len(sheet.frame)}],
        "remarks": guesses,
        "notes": [unused] if unused else [],
    }
    by_id = {(ids[run], metric): values for (run, metric), values in examples.parts.items()}
    return Study(
        plan=plan,
        frame=frame,
        cells=tuple(_cell(cell, key, frame, bool(sheet.axes)) for key, cell in cells.items()),
        examples=lambda trial_id, metric: by_id.get((trial_id, metric)),
    )


def _seeds(part: pd.DataFrame) -> int:
    """The most seeds that any cell has."""
    return int(part.groupby("cell")["seed"].nunique().max()) if len(part) else 0


def _frame_rows(
    rows: pd.DataFrame, runs: pd.DataFrame, ids: Mapping[int, str], cells: Mapping[tuple[str, str, str], str],
    headlines: Mapping[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    scores: dict[int, dict[str, float]] = {}
    means = rows[rows["score"].notna()].groupby(["run", "split", "metric"], sort=False)["score"].mean()
    for run, split, metric, score in means.reset_index().itertuples(index=False, name=None):
        scores.setdefault(run, {})[f"{split}.{metric}"] = float(score)
    costs = rows.groupby("run", sort=False)[list(COSTS)].first()
    found = []
    for run, said in zip(runs.index, runs.to_dict("records"), strict=True):
        of_run, primary = scores.get(run, {}), headlines[said["task"]]
        found.append(
            {
                **{name: said[name] for name in ("task", "backbone", "strategy", "phase", "seed", "config")},
                "cell": cells[said["task"], said["backbone"], said["strategy"]],
                "trial_id": ids[run],
                "status": said["status"],
                "reason": said["reason"],
                "score_validation": of_run.get(f"validation.{primary}"),
                "score_test": of_run.get(f"test.{primary}"),
                **of_run,
                **costs.loc[run].to_dict(),
                **{f"hp.{axis}": value for axis, value in json.loads(said["config"]).items()},
            }
        )
    return found


def _cell(cell: str, key: tuple[str, str, str], frame: pd.DataFrame, axes: bool) -> Cell:
    of_cell = frame[frame["cell"] == cell]
    confirmed = of_cell["config"][of_cell["phase"] == "confirm"].unique()
    return Cell(
        id=cell,
        task=key[0],
        backbone=key[1],
        strategy=key[2],
        budget=int((of_cell["phase"] == "tune").sum()),
        space={},
        state="done",  # no plan says that anything is missing
        winner=json.loads(confirmed[0]) if axes and len(confirmed) == 1 else None,
        listed=len(of_cell),
    )
