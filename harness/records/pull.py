"""Brings the copy of results on a URI up to date: what is new is fetched, what is gone is forgotten.

A record that the index has is written from there instead of being fetched: it has to be the same size, and
the storage has to have got it before the index. It gets the time of change that its row says, so that the row
stands for the file here, too (see `records.index`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.records import index, lease, remote
from harness.records.paths import ResultPaths
from harness.records.stores import Store, Version

PLAN = ("sweep.yaml", "plan.json", "verdicts.json")
NOTES = "quarantine/notes"
PREDICTIONS, CURVES, STUDIES = "predictions", "tb", "optuna.db"

# Someone who looks on asks again and again; so many seconds lie between two pulls at least.
_PAUSE_SECONDS = 5.0
_pulled: dict[Path, float] = {}


def pull(paths: ResultPaths, *more: str, records: bool = True) -> None:
    """Fetch the plan, what was noted of damage, cells and records (`records`), and what else is named: a file
    or a folder of the results.

    Raises: StorageError if the storage stays away.
    """
    found = remote.mirror(paths.root)
    if found is None:
        return
    there = found[0].store
    for name in (*PLAN, NOTES, *more):
        if name == STUDIES:
            _forget_journals(paths)
        _bring(there, paths.root, name)
    if records:
        _bring(there, paths.root, paths.cells.name)
        _records(there, paths)
    if found[0].view:
        lease.show(there, paths.lock.with_suffix(".owner"))
        _pulled[paths.root] = time.monotonic()


def refresh(paths: ResultPaths) -> None:
    """`pull` for those who look on, where it is some seconds ago; a run knows what it has."""
    found = remote.mirror(paths.root)
    if found is not None and found[0].view:
        if time.monotonic() - _pulled.get(paths.root, -_PAUSE_SECONDS) >= _PAUSE_SECONDS:
            pull(paths)


def _bring(there: Store, root: Path, name: str) -> dict[str, Version]:
    """A file or folder as it is there; returns what there is."""
    listed = there.listed(name)
    there.fetch({k: v for k, v in listed.items() if remote.local_version(root / k) != v}, root)
    _forget(root, name, listed)
    return listed


def _forget(root: Path, name: str, listed: dict[str, Version]) -> None:
    for path in (root / name).rglob("[!.]*"):
        if path.is_file() and path.relative_to(root).as_posix() not in listed:
            path.unlink(missing_ok=True)


def _forget_journals(paths: ResultPaths) -> None:
    """What a process that was killed was doing to the database here: SQLite would undo it in another one."""
    for end in ("-journal", "-wal", "-shm"):
        paths.studies.with_name(f"{paths.studies.name}{end}").unlink(missing_ok=True)


def _records(there: Store, paths: ResultPaths) -> None:
    parts = _bring(there, paths.root, paths.index.name)
    listed = there.listed(paths.trials.name)
    wanted = {k: v for k, v in listed.items() if remote.local_version(paths.root / k) != v}
    for key in sorted(parts):
        _restore(paths, key, parts[key], listed, wanted)
    there.fetch(wanted, paths.root)
    _forget(paths.root, paths.trials.name, listed)


def _restore(
    paths: ResultPaths, part: str, put: Version, listed: dict[str, Version], wanted: dict[str, Version]
) -> None:
    """Write the records that a part of the index has, none if it is damaged; they are not wanted any more."""
    for trial_id, size, changed, text in index.rows(
        paths.root / part, "trial_id", "size", "mtime_ns", "record"
    ):
        path = paths.trial(trial_id)
        key = path.relative_to(paths.root).as_posix()
        version = listed.get(key)
        if version is None or version.size != size or version.changed > put.changed:
            continue
        if remote.local_version(path) != (size, changed):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text, encoding="utf-8")
            os.utime(temporary, ns=(changed, changed))
            temporary.replace(path)
        wanted.pop(key, None)
