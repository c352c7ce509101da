"""Every path below `results/<sweep>/`, and the one way in which its files are written."""

from __future__ import annotations

import json
import os
import re
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import remote
from harness.records.patience import away, patiently


@dataclass(frozen=True)
class ResultPaths:
    """The files of one sweep's results folder."""

    root: Path

    @property
    def sweep(self) -> Path:
        return self.root / "sweep.yaml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def cells(self) -> Path:
        return self.root / "cells"

    def cell(self, cell_id: str) -> Path:
        return self.cells / f"{cell_id}.json"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, trial_id: str) -> Path:
        return self.trials / f"{trial_id}.json"

    @property
    def index(self) -> Path:
        """Records once more, many to a file: disposable, see `records.index`."""
        return self.root / "records"

    def predictions(self, trial_id: str) -> Path:
        return self.root / "predictions" / f"{trial_id}.parquet"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def checkpoint(self, trial_id: str) -> Path:
        return self.checkpoints / f"{trial_id}.pt"

    def source(self, trial_id: str) -> Path:
        """The folder of a backbone that a source trial has trained, as transformers saves models."""
        return self.root / "sources" / trial_id

    @property
    def studies(self) -> Path:
        """Of Optuna, an SQLite database."""
        return self.root / "optuna.db"

    @property
    def quarantine(self) -> Path:
        """Files that were found damaged, see `records.quarantine`."""
        return self.root / "quarantine"

    @property
    def notes(self) -> Path:
        """Why each of them is there."""
        return self.quarantine / "notes"

    @property
    def frame(self) -> Path:
        return self.root / "trials.parquet"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tb"

    @property
    def report_html(self) -> Path:
        return self.root / "report.html"

    @property
    def report_md(self) -> Path:
        return self.root / "report.md"

    @property
    def verdicts(self) -> Path:
        return self.root / "verdicts.json"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def tune(self) -> Path:
        """Ray Tune's own state: disposable, the records are what counts."""
        return self.root / ".tune"


def opened(place: Path | str, name: str = "", view: bool = False) -> ResultPaths:
    """The results at a folder or URI, or in the folder `name` below it.

    Args:
        view: to look at, see `remote.Mirror`.

    Raises: InputError for a URI that cannot be used.
    """
    if isinstance(place, Path):
        return ResultPaths(place / name)
    return ResultPaths(remote.mirrored(f"{place}/{name}".rstrip("/"), view))


_LONGEST = 100  # of what a name becomes in a path: file systems take 255 bytes, and several names share them


def slug(name: str) -> str:
    """What a name becomes in a path: one part of it, not too long, and where it can the name itself."""
    text = re.sub(r"[^A-Za-z0-9._=,-]+", "_", name)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 9]}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its place and rename it, so that a reader never meets half of it; then to the URI
    that the results are on, if they are. A folder or storage that is away is waited for.

    Raises: StorageError if it stays away.
    """
    patiently(f"{path}: writing", lambda: _replace_file(path, write), away)
    remote.push(path)


def remove_file(path: Path) -> None:
    """Remove a file of the results, if it is there."""
    remote.remove(path)


def _replace_file(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `mkstemp`: its files are private to their owner, and results are read by others.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: void(temporary.write_text(text, encoding="utf-8")))


def void(_: Any) -> None:
    """Drops a value where a callback is to return none."""


def write_json(path: Path, value: Any) -> None:
    """Raises: ValueError for a number that JSON has no word for (NaN, infinity)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
