"""Results on a URI: a folder of this machine's cache stands for it, and everything written there goes there.

The URI holds the truth, the folder is a copy: of what a process has written or looked for. So whoever reads
and writes files below the folder need not know of the URI, as long as files are written by `replace_file`.
For paths that stand for no URI every function here does nothing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.cache import cache_folder, digest, locked
from harness.errors import HarnessError
from harness.records.stores import Store, Version, is_uri, store


class Mirror(NamedTuple):
    """A folder that stands for a URI. One is for runs, which write; another for those who look on (`view`):
    what these fetch and forget must not get in a run's way."""

    store: Store
    view: bool


_mirrors: dict[Path, Mirror] = {}


def mirrored(uri: str, view: bool = False) -> Path:
    """The folder of this machine that stands for a URI from now on. Raises: InputError as `Store` does."""
    found = store(uri)
    root = cache_folder() / "results" / f"{digest(found.uri)}{'.view' if view else ''}"
    _mirrors[root] = Mirror(found, view)
    return root


def mirror(path: Path) -> tuple[Mirror, Path] | None:
    """What a path is below of, and the folder that stands for it."""
    for root, found in _mirrors.items():
        if path == root or root in path.parents:
            return found, root
    return None


def shown(place: Path) -> str:
    """The URI that a path stands for, or the path: for messages, and for commands to be typed."""
    found = mirror(place)
    if found is None:
        return str(place)
    uri, key = found[0].store.uri, _key(place, found[1])
    return uri if key == "." else f"{uri}/{key}"


def above(root: Path) -> str:
    """What `--results` has to say for these results."""
    return str(root.parent) if mirror(root) is None else shown(root).rpartition("/")[0]


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def push(path: Path) -> None:
    """A file has been written. It gets the time of change that it has there: so a copy is known again."""
    if (found := mirror(path)) is not None:
        there, key = found[0].store, _key(path, found[1])
        there.put(path, key)
        _known(path, there.version(key))


def push_folder(folder: Path) -> None:
    """Files of a folder have been written, and what else lies in its place is to go."""
    if (found := mirror(folder)) is None or not folder.is_dir():
        return
    there, root = found[0].store, found[1]
    own = {_key(path, root): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for key, path in own.items():
        there.put(path, key)
    for key, version in there.listed(_key(folder, root)).items():
        if key not in own:
            there.remove(key)
        else:
            _known(own[key], version)


def push_database(path: Path) -> None:
    """An SQLite database, as it stands: others may be writing to it."""
    if (found := mirror(path)) is None or not path.exists():
        return
    snapshot = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(snapshot)) as target:
            source.backup(target)
        there, key = found[0].store, _key(path, found[1])
        there.put(snapshot, key)
        if path.read_bytes() == snapshot.read_bytes():
            _known(path, there.version(key))
    finally:
        snapshot.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, here and there; also one that is not here."""
    path.unlink(missing_ok=True)
    if (found := mirror(path)) is not None:
        found[0].store.remove(_key(path, found[1]))


def remove_folder(folder: Path) -> None:
    """Remove what a folder holds there; it is not here any more."""
    if (found := mirror(folder)) is not None:
        for key in found[0].store.listed(_key(folder, found[1])):
            found[0].store.remove(key)


def latest(path: Path) -> Path:
    """The path itself, its file as it is now: another node may have written or removed it."""
    if (found := mirror(path)) is not None:
        key = _key(path, found[1])
        version = found[0].store.version(key)
        if version is None:
            path.unlink(missing_ok=True)
        elif version != local_version(path):
            found[0].store.fetch({key: version}, found[1])
    return path


def anew(path: Path) -> Path:
    """The path itself, its file or folder fetched whatever is here, if it is there."""
    if (found := mirror(path)) is not None:
        if path.is_dir():
            if present(path):
                shutil.rmtree(path)
            return latest_folder(path)
        key = _key(path, found[1])
        if (version := found[0].store.version(key)) is not None:
            found[0].store.fetch({key: version}, found[1])
    return path


def latest_folder(folder: Path) -> Path:
    """The path itself, its folder as it is now; as a whole or not at all, where another process looks."""
    if (found := mirror(folder)) is None:
        return folder
    there, root = found[0].store, found[1]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")):
        wanted = there.listed(_key(folder, root))
        if wanted and any(local_version(root / key) != version for key, version in wanted.items()):
            fresh = folder.with_name(f".fetching.{folder.name}")
            shutil.rmtree(fresh, ignore_errors=True)
            there.fetch(wanted, fresh)
            shutil.rmtree(folder, ignore_errors=True)
            (fresh / _key(folder, root)).rename(folder)
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def present(folder: Path) -> bool:
    """Whether there is such a folder, here or, for a URI, there."""
    found = mirror(folder)
    return folder.is_dir() if found is None else bool(found[0].store.names(_key(folder, found[1])))


def names(root: Path) -> list[str]:
    """What lies directly in a folder."""
    if (found := mirror(root)) is not None:
        return found[0].store.names("" if root == found[1] else _key(root, found[1]))
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


def _known(path: Path, version: Version | None) -> None:
    """This file is that version, if it is."""
    own = local_version(path)
    if own is not None and version is not None and own.size == version.size:
        os.utime(path, ns=(version.changed, version.changed))


def local_version(path: Path) -> Version | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return Version(stat.st_size, stat.st_mtime_ns)


def check(root: Path) -> None:
    """Raises: InputError if results are on a URI that cannot be written."""
    if (found := mirror(root)) is not None:
        found[0].store.check()


@contextmanager
def telling(root: Path) -> Iterator[None]:
    """What ends a run whose storage has failed is that failure, whatever was made of it on the way.

    Raises: StorageError.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        found = mirror(root)
        if found is not None and found[0].store.failure is not None:
            raise found[0].store.failure from error
        raise


def place_of(text: str) -> Path | str:
    """What a command line names: a folder, or a URI."""
    return text.rstrip("/") if is_uri(text) else Path(text)
