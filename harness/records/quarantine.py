"""Files that are not what was written: moved to `quarantine/`, where nobody reads them, each with a line that
says why."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypedDict, TypeVar

from harness.records import remote
from harness.records.paths import ResultPaths, remove_file, slug
from harness.records.patience import reading
from harness.records.sound import sound

T = TypeVar("T")

# Every process notes what it finds in a file of its own: on a URI, and on some servers, the notes of two
# would overwrite each other in one.
_NAME = f"{slug(socket.gethostname())}.{secrets.token_hex(4)}"
_noting = threading.Lock()


class Remark(TypedDict):
    """What was found: `file` below the results or in the cache, `reason`, and `kept`, where it lies now (null
    if it could be made again and was deleted)."""

    file: str
    reason: str
    kept: str | None


def read_or_set_aside(paths: ResultPaths, path: Path, read: Callable[[Path], T], then: str) -> T | None:
    """What a file or folder of the results holds; None if it is not there, or not what was written, and then
    it is set aside.

    Args:
        read: as `sound` takes it.
        then: what becomes of it, for the note.

    Raises: StorageError if it cannot be read.
    """
    try:
        return sound(path, read)
    except FileNotFoundError:
        return None
    except ValueError as error:
        set_aside(paths, path, f"{error}; {then}")
        return None


def set_aside(paths: ResultPaths, path: Path, reason: str) -> None:
    """Move a damaged file or folder out of the way; where the results are on a URI, there, too."""
    paths.quarantine.mkdir(parents=True, exist_ok=True)
    taken = {entry.name for entry in paths.quarantine.iterdir()} | set(remote.names(paths.quarantine))
    number = 1
    while f"{path.name}.{number}" in taken:
        number += 1
    target = paths.quarantine / f"{path.name}.{number}"
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    if target.is_dir():
        remote.push_folder(target)
        remote.remove_folder(path)
    else:
        remote.push(target)
        remove_file(path)
    remark(paths, path, reason, target)


def remark(paths: ResultPaths, path: Path, reason: str, kept: Path | None = None) -> None:
    """Note that a file was damaged or missing."""
    said: Remark = {
        "file": _below(paths, path),
        "reason": reason,
        "kept": None if kept is None else _below(paths, kept),
    }
    notes = paths.notes / f"{_NAME}.{os.getpid()}.jsonl"
    with _noting:
        notes.parent.mkdir(parents=True, exist_ok=True)
        with notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
        remote.push(notes)


def remarks(paths: ResultPaths) -> list[Remark]:
    """All that was noted so far, of each process the oldest first; lines that are damaged are passed over."""
    found: list[Remark] = []
    # the first is of before every process had notes of its own
    for notes in (paths.quarantine / "notes.jsonl", *sorted(paths.notes.glob("*.jsonl"))):
        try:
            text = reading(notes, partial(notes.read_text, encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        found += filter(None, map(_remark, text.splitlines()))
    return found


def since(before: list[Remark], now: list[Remark]) -> list[Remark]:
    """What has been noted since."""
    known = list(before)
    new = []
    for found in now:
        if found in known:
            known.remove(found)
        else:
            new.append(found)
    return new


def fetch_notes(paths: ResultPaths) -> None:
    """Of results on a URI, what others have noted."""
    for name in remote.names(paths.notes) if remote.mirror(paths.root) else ():
        if not (paths.notes / name).exists():  # what this machine has noted it has sent
            remote.latest(paths.notes / name)


def _remark(line: str) -> Remark | None:
    try:
        said = json.loads(line)
        kept = said["kept"]
        return {
            "file": str(said["file"]),
            "reason": str(said["reason"]),
            "kept": None if kept is None else str(kept),
        }
    except (ValueError, KeyError, TypeError):
        return None


def worded(found: Remark) -> str:
    """One line for people."""
    where = f"; kept as {found['kept']}" if found["kept"] else ""
    return f"{found['file']}: {found['reason']}{where}"


def _below(paths: ResultPaths, path: Path) -> str:
    return str(path.relative_to(paths.root)) if path.is_relative_to(paths.root) else str(path)
