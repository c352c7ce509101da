"""What TensorBoard shows of a sweep as a whole: a chart per task that contrasts strategies, and the verdict.

Each is written anew where a report is written and where TensorBoard is opened, from the records of then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from harness.analysis import wording
from harness.records.paths import ResultPaths
from harness.records.reader import Listed, Reader
from harness.records.tensorboard import Band, clear_summaries, task_folder, write_summary
from harness.report.render import markdown_text

_SHOWN = "the winner of each strategy: mean over seeds, from the lowest to the highest"


def write_boards(paths: ResultPaths, verdicts: Mapping[str, Any] | None = None) -> None:
    """Charts from the records, texts from the verdicts (default: those of the last report, if there is one).

    Raises: InputError if there is no usable plan.
    """
    # Charts are there to look at: where another command writes the same ones at this moment, it has its way.
    with contextlib.suppress(OSError):
        _write_boards(paths, verdicts)


def _write_boards(paths: ResultPaths, verdicts: Mapping[str, Any] | None) -> None:
    found = _last(paths) if verdicts is None else verdicts
    tasks: Mapping[str, Any] = found.get("tasks", {})
    read = Reader(paths)
    read.read()
    clear_summaries(paths)
    if tasks:
        texts = {"verdict": _sentences(found), "strategies × tasks": _matrix(tasks)}
        write_summary(paths.tensorboard, texts)
    single = len(read.plan["backbones"]) == 1
    for task in read.plan["tasks"]:
        for backbone in dict.fromkeys(c["backbone"] for c in read.plan["cells"] if c["task"] == task["name"]):
            key = task["name"] if single else f"{task['name']} @ {backbone}"
            texts = {"verdict": markdown_text(tasks[key]["sentence"])} if key in tasks else {}
            curves = _curves(read, task, backbone)
            write_summary(task_folder(paths, task["name"], backbone), texts, f"{key} ({_SHOWN})", curves)


def _last(paths: ResultPaths) -> Mapping[str, Any]:
    try:
        found = json.loads(paths.verdicts.read_text(encoding="utf-8"))
        return found if found["format"] == 1 else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sentences(verdicts: Mapping[str, Any]) -> str:
    """Every task's sentence, as a list."""
    said = [f"* {markdown_text(task['sentence'])}" for task in verdicts["tasks"].values()]
    partial = "" if verdicts["complete"] else "**The sweep is not done: all of this is provisional.**\n\n"
    return partial + "\n".join(said)


def _matrix(tasks: Mapping[str, Any]) -> str:
    """Strategies × tasks as a Markdown table."""
    names = dict.fromkeys(name for task in tasks.values() for name in task["scores"])
    arrows = {"max": "↑", "min": "↓"}
    headings = [f"{key}: {task['primary']} {arrows[task['direction']]}" for key, task in tasks.items()]
    rows = [["strategy", *map(markdown_text, headings)], ["---"] * (len(headings) + 1)]
    rows += [[markdown_text(name), *(_place(task, name) for task in tasks.values())] for name in names]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _place(task: Mapping[str, Any], name: str) -> str:
    """A strategy's score with what the verdict says of it."""
    if name not in task["scores"]:
        return "not planned"
    said = "leader" if name == task["leader"] else "tie" if name in task["tie_set"] else ""
    recommended = "recommended" if name == task["recommended"] else ""
    return " · ".join(filter(None, (wording.score(task["scores"][name]), said, recommended)))


def _curves(read: Reader, task: Mapping[str, Any], backbone: str) -> dict[str, dict[str, Band]]:
    """By strategy and title the curves of the winner: of its confirm runs once there are any."""
    primary = str(task["primary"])
    found: dict[str, dict[str, Band]] = {}
    for planned in read.plan["cells"]:
        if (planned["task"], planned["backbone"]) != (task["name"], backbone):
            continue
        runs = [read.curve(trial_id) for trial_id in _runs(read, read.cells[str(planned["id"])])]
        curves = {
            f"validation {primary}": [_curve(run, primary, inside="validation") for run in runs],
            "validation loss": [_curve(run, "validation_loss") for run in runs],
            "training loss": [_curve(run, "train_loss") for run in runs],
        }
        bands: dict[str, Band] = {title: band for title, listed in curves.items() if (band := _band(listed))}
        if bands:
            found[str(planned["strategy"])] = bands
    return found


def _runs(read: Reader, cell: Listed) -> list[str]:
    """The finished confirm runs of a cell, or else the tune runs of its winner."""
    winner = json.dumps(cell.winner, sort_keys=True)
    tuned = [trial_id for trial_id, configuration in cell.tune if configuration == winner]
    for ids in (cell.confirm, tuned):
        if found := [i for i in ids if i in read.ended and read.ended[i].status == "finished"]:
            return found
    return []


def _curve(run: Sequence[Mapping[str, Any]], name: str, inside: str | None = None) -> dict[int, float]:
    """Values by step."""
    points = ((point["step"], (point[inside] if inside else point).get(name)) for point in run)
    return {step: value for step, value in points if value is not None}


def _band(curves: Sequence[Mapping[int, float]]) -> list[tuple[int, float, float, float]]:
    """Mean, lowest and highest at the steps that every run has come to: further on, the mean would be one of
    fewer runs."""
    shared = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    values = {step: [curve[step] for curve in curves] for step in sorted(shared)}
    return [(step, fmean(found), min(found), max(found)) for step, found in values.items()]
