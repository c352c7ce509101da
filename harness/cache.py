"""What a machine keeps between runs: folders named by the hash of their content, each written once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness import pulse

# So often a process that waits for another one's folder gives a sign of life.
_WAIT_SECONDS = 1.0
CACHE_VARIABLE = "HARNESS_CACHE"
# What a sealed folder says of its files. Hidden: a model's fingerprint and its readers pass it over.
_LIST = ".checksums"


def cache_folder() -> Path:
    """`HARNESS_CACHE`, or `finetune-harness` below the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-harness"


def digest(value: Any, length: int = 16) -> str:
    """Hash of plain values that does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def checksum(path: Path, size: int | None = None) -> str:
    """CRC-32 of a file, or of its first `size` bytes, in hexadecimals: against accidents, at gigabytes a
    second. Raises: OSError."""
    found, left = 0, size
    with path.open("rb") as file:
        while block := file.read(1 << 22 if left is None else min(1 << 22, left)):
            found = zlib.crc32(block, found)
            left = None if left is None else left - len(block)
    return f"{found:08x}"


def is_sealed(folder: Path) -> bool:
    return (folder / _LIST).exists()


def seal(folder: Path) -> None:
    """Leave a list of the folder's files with their checksums in it."""
    listed = {str(path.relative_to(folder)): checksum(path) for path in _files(folder)}
    (folder / _LIST).write_text(json.dumps({"files": listed, "list": digest(listed)}), encoding="utf-8")


def fault(folder: Path) -> str:
    """Why a sealed folder is not what was written; empty if it is. Reads all of it.

    Raises: OSError if a file is there and cannot be read, which says nothing of what was written.
    """
    try:
        content = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        listed = content["files"]
        if digest(listed) != content["list"]:
            return f"{_LIST} is not what was written"
    except FileNotFoundError:
        return f"{_LIST} is missing"
    except (ValueError, KeyError, TypeError) as error:
        return f"{_LIST} cannot be read ({type(error).__name__})"
    for name, said in listed.items():
        try:
            if checksum(folder / name) != said:
                return f"{name} is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
    return ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _LIST)


def discard(folder: Path) -> None:
    """Delete a folder as one: nobody meets half of it. Locks and what others write beside it stay."""
    doomed = folder.with_name(f".discarded.{folder.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def whole(
    folder: Path,
    write: Callable[[Path], None],
    told: Callable[[Path, str], None],
    parts: Sequence[str] = (".",),
    look: Callable[[Path], str] = fault,
) -> Path:
    """`written_once`, and once more if it is damaged.

    Args:
        write: leaves a seal in each part.
        told: of the folder and what is wrong with it.
        parts: subfolders to look at.
        look: what is wrong with one, as `fault` says it.
    """
    written_once(folder, write)
    if any(look(folder / part) for part in parts):
        with locked(folder.with_name(f"{folder.name}.check.lock")):
            # another process may have seen to it by now
            if why := next(filter(None, (look(folder / part) for part in parts)), ""):
                told(folder, why)
                discard(folder)
                written_once(folder, write)
    return folder


def written_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, filled by `write` if it is not there. Safe to call from many processes."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if folder.exists():
            return folder
        # not `mkdtemp`: its folders are private to their owner, and a machine's cache may be shared
        temporary = folder.with_name(f".writing.{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)  # of a writer that was killed
        try:
            temporary.mkdir()
            write(temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Raises: Halted if the process is asked to end while another one holds the lock."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_WAIT_SECONDS)
        except Timeout:  # who holds it may take long
            pulse.come_round()
    try:
        yield
    finally:
        lock.release()
