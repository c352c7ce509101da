"""What earlier runs left of a sweep, looked at once when a run begins: what is whole counts, what is damaged
is set aside and made or run again."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from harness.cache import is_sealed
from harness.plan import Cell, Plan
from harness.records import index, remote
from harness.records.paths import ResultPaths, remove_file, write_text
from harness.records.quarantine import read_or_set_aside, remark, set_aside
from harness.records.record import (
    FINAL,
    Brief,
    brief,
    parse_record,
    predictions_fault,
    read_record,
    record_fault,
)
from harness.records.seal import read_sealed
from harness.records.sound import folder_fault, sound
from harness.search.base import Values, key


def briefs(paths: ResultPaths, writer: index.IndexWriter) -> dict[str, str]:
    """Of every record what a campaign needs, by trial id, as JSON: objects would take ten times the memory.

    A damaged record is taken from the index where that has it; else its trial will be run again.
    """
    left = index.stamps(paths)
    spoilt: list[Path] = []
    found = dict(index.covered(paths, "brief", left, spoilt))
    for part in spoilt:
        remove_file(part)
        remark(paths, part, "an index that is not what was written; its records are indexed again")
    damaged = []
    for trial_id in left:
        record = read_record(paths.trial(trial_id))
        if record is None:
            damaged.append(trial_id)
            continue
        found[trial_id] = json.dumps(brief(record))
        writer.add(trial_id)
    copies = index.copies(paths, damaged) if damaged else {}
    for trial_id in damaged:
        path = paths.trial(trial_id)
        record = parse_record(copies.get(trial_id, ""), trial_id)
        what = "its trial is run again" if record is None else "the index had a copy"
        set_aside(paths, path, f"{record_fault(path)}; {what}")
        if record is not None:
            write_text(path, copies[trial_id])
            found[trial_id] = json.dumps(brief(record))
            writer.add(trial_id)
    return found


def set_aside_cells(paths: ResultPaths) -> None:
    """A cell's file is written again from records, whatever became of it."""
    for path in sorted(paths.cells.glob("*.json")):
        read_or_set_aside(paths, path, read_sealed, "it is written again from records")


def predictions_whole(paths: ResultPaths, record: Brief) -> bool:
    """Whether a trial's predictions are those that its record speaks of. If not, they are set aside."""
    why = predictions_fault(paths, record["trial_id"], record.get("predictions"))
    if not why:
        return True
    path = paths.predictions(record["trial_id"])
    if path.exists():
        set_aside(paths, path, f"{why}; its trial is run again")
    else:
        remark(paths, path, f"{why}; its trial is run again")
    return False


def source_whole(paths: ResultPaths, trial_id: str) -> bool:
    """Whether the weights that a source trial left are there, and are what it left. If they are not, they are
    set aside. Those of before there were checksums count."""
    folder = paths.source(trial_id)

    def look(folder: Path) -> bool:
        if why := folder_fault(folder) if folder.is_dir() and is_sealed(folder) else "":
            raise ValueError(why)
        return True

    there = remote.present(folder)
    return bool(
        there and read_or_set_aside(paths, folder, look, "it is trained again, or taken from the cache")
    )


def search_remembers(plan: Plan, paths: ResultPaths) -> bool:
    """Whether the search has what it keeps below the results. What is damaged is set aside."""
    try:
        return sound(paths.studies, lambda path: plan.sweep.search.remembers(path.parent))
    except ValueError as error:
        for path in sorted(paths.root.glob("optuna.db*")):  # and its journal
            set_aside(paths, path, f"{error}; the search is told of every record again")
        return False


def asked_for(plan: Plan, paths: ResultPaths, cell: Cell) -> list[Values]:
    """The configurations that a cell has asked for, in this order, as far as they are of the present plan."""
    found: dict[str, Values] = {}
    try:
        for entry in sound(paths.cell(cell.id), read_sealed)["tune"]:
            with suppress(KeyError):  # of axes that the cell no longer has
                values = cell.values_of(entry["hyperparameters"])
                if plan.trial(cell, values, entry["seed"], "tune").trial_id == entry["trial_id"]:
                    found.setdefault(key(values), values)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return list(found.values())


def remove_checkpoints(paths: ResultPaths, ended: dict[str, str] | None = None) -> None:
    """Delete leftover checkpoints: of trials that have ended, or all once nothing is owed any more.

    Args:
        ended: briefs by trial id.
    """
    for name in remote.names(paths.checkpoints):
        half = name.startswith(".")  # of a writer that was killed
        text = (ended or {}).get(Path(name).stem)
        if ended is None or half or (text is not None and json.loads(text)["status"] in FINAL):
            remove_file(paths.checkpoints / name)
