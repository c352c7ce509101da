"""Files that are not what was written: moved to `quarantine/`, where nobody reads them, each with a line that
says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from harness.records import remote
from harness.records.paths import ResultPaths, remove_file


class Remark(TypedDict):
    """What was found: `file` below the results or in the cache, `reason`, and `kept`, where it lies now (null
    if it could be made again and was deleted)."""

    file: str
    reason: str
    kept: str | None


def set_aside(paths: ResultPaths, path: Path, reason: str) -> None:
    """Move a damaged file or folder out of the way."""
    paths.quarantine.mkdir(parents=True, exist_ok=True)
    number = 1
    while (target := paths.quarantine / f"{path.name}.{number}").exists():
        number += 1
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    if target.is_file():  # where the results are on a URI, there, too
        remove_file(path)
        remote.push(target)
    remark(paths, path, reason, target)


def remark(paths: ResultPaths, path: Path, reason: str, kept: Path | None = None) -> None:
    """Note that a file was damaged or missing. One write at the end of a file: others may note theirs."""
    paths.quarantine.mkdir(parents=True, exist_ok=True)
    said: Remark = {
        "file": _below(paths, path),
        "reason": reason,
        "kept": None if kept is None else _below(paths, kept),
    }
    with _notes(paths).open("a", encoding="utf-8") as file:
        file.write(json.dumps(said) + "\n")
    remote.push(_notes(paths))


def remarks(paths: ResultPaths) -> list[Remark]:
    """All that was noted so far, oldest first; lines that cannot be read are passed over."""
    try:
        lines = _notes(paths).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: list[Remark] = []
    for line in lines:
        try:
            said = json.loads(line)
            kept = said["kept"]
            found.append(
                {
                    "file": str(said["file"]),
                    "reason": str(said["reason"]),
                    "kept": None if kept is None else str(kept),
                }
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def worded(found: Remark) -> str:
    """One line for people."""
    where = f"; kept as {found['kept']}" if found["kept"] else ""
    return f"{found['file']}: {found['reason']}{where}"


def _notes(paths: ResultPaths) -> Path:
    return paths.quarantine / "notes.jsonl"


def _below(paths: ResultPaths, path: Path) -> str:
    return str(path.relative_to(paths.root)) if path.is_relative_to(paths.root) else str(path)
