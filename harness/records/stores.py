"""What lies below a URI (`s3://bucket/folder`), through fsspec: read, written, listed; with patience."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from harness.errors import InputError, StorageError, bad, nearest
from harness.records import patience

# Stores in which a name has its old content or its new one, and never half of it, while it is written.
_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"})
# Errors of these libraries that are no OSError: connections that fail, time-outs.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "requests", "urllib3")
_CHECK_SECONDS = 10.0
_AT_ONCE = 64

T = TypeVar("T")


class Version(NamedTuple):
    """What tells one content of an object from another: bytes, and nanoseconds by the storage's clock."""

    size: int
    changed: int


def is_uri(place: str | Path) -> bool:
    return "://" in str(place)


@lru_cache(maxsize=64)
def store(uri: str) -> Store:
    """One per URI and process. Raises: InputError as `Store` does."""
    return Store(uri)


class Store:
    """Keys are paths below the URI. Every method waits for a storage that is away.

    Attributes:
        failure: what made a call give up, if one has: nothing is waited for after that.
        taken: who has taken over what lies here, if somebody has: this process changes nothing any more.

    Raises: InputError for a URI that cannot be used, or whose driver is not installed; the methods
        StorageError for a storage that stays away or refuses.
    """

    def __init__(self, uri: str) -> None:
        import fsspec
        from fsspec.registry import known_implementations

        protocol, _, rest = uri.partition("://")
        if ":" in rest.partition("/")[0].rpartition("@")[0]:
            reason = "holds a password, which would be kept in files"
            hint = "give credentials by the environment, or in the files of the storage's own tools"
            raise bad(f"{protocol}://…", reason, hint)
        if any(sign in uri for sign in ("?", "#", "::")):
            plain = re.split("[?#]|::", uri)[0]  # what follows may be a signature
            raise bad(plain, "is followed by '?', '#' or '::', which a plain address has not")
        known = fsspec.available_protocols()
        if protocol not in known:
            raise bad(uri, f"no storage is called '{protocol}'", nearest(protocol, known))
        try:
            # Listings are looked up anew each time: others write there, too.
            self._fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except ImportError as error:
            package = known_implementations.get(protocol, {}).get("class", "fsspec").partition(".")[0]
            package = package if package != "fsspec" else (error.name or protocol)
            raise bad(uri, f"needs the package {package}", f"pip install {package}") from error
        except Exception as error:
            raise bad(uri, f"cannot be used: {patience.said(error)}") from error
        _try_once(self._fs)
        self.uri = uri.rstrip("/")
        self._path = str(path).rstrip("/")
        self._whole = protocol in _WHOLE
        self.failure: StorageError | None = None
        self.taken = ""

    def _do(self, what: str, attempt: Callable[[], T], seconds: float | None = None) -> T:
        """Args: `seconds` to wait for a storage that is away, and not to take it for a failure of the run."""
        given, seconds = seconds, 0.0 if self.failure is not None and seconds is None else seconds
        try:
            return patience.patiently(f"{self.uri}: {what}", attempt, _passing, seconds)
        except StorageError as error:
            self.failure = self.failure or (error if given is None and not self.taken else None)
            raise
        except Exception as error:
            if not _refusal(error):
                raise
            refused = StorageError(f"{self.uri}: {what}: {_refused(error)}")
            self.failure = self.failure or (refused if given is None else None)
            raise refused from error

    def _change(self, what: str, attempt: Callable[[], T], seconds: float | None = None) -> T:
        """What was begun while these results were ours may be tried again when they are no more."""

        def ours() -> T:
            if self.taken:
                raise StorageError(f"{self.uri}: {self.taken}")
            return attempt()

        return self._do(what, ours, seconds)

    def _at(self, key: str) -> str:
        return f"{self._path}/{key}" if key else self._path

    def listed(self, folder: str, seconds: float | None = None) -> dict[str, Version]:
        """All that lies below a folder, by key; also the one object that has this key itself."""
        try:
            found = self._do("listing", lambda: self._fs.find(self._at(folder), detail=True), seconds)
        except FileNotFoundError:
            return {}
        skip = len(self._path) + 1
        return {
            str(path)[skip:]: _version(info)
            for path, info in found.items()
            if info["type"] == "file" and not str(path).rpartition("/")[2].startswith(".writing.")
        }

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder."""
        try:
            found = self._do("listing", lambda: self._fs.ls(self._at(folder), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found} - {""})

    def version(self, key: str) -> Version | None:
        try:
            return _version(self._do("looking", lambda: self._fs.info(self._at(key))))
        except FileNotFoundError:
            return None

    def read(self, key: str, seconds: float | None = None) -> bytes | None:
        try:
            return bytes(self._do("reading", lambda: self._fs.cat_file(self._at(key)), seconds))
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes, seconds: float | None = None) -> None:
        self._put(key, lambda path: self._fs.pipe_file(path, content), seconds)

    def put(self, path: Path, key: str) -> None:
        """A file as a whole."""
        self._put(key, lambda place: self._fs.put_file(str(path), place))

    def _put(self, key: str, write: Callable[[str], Any], seconds: float | None = None) -> None:
        place = self._at(key)

        def attempt() -> None:
            if self._whole:
                write(place)
                return
            folder, _, name = place.rpartition("/")
            beside = f"{folder}/.writing.{name}.{os.getpid()}.{threading.get_ident()}"
            self._fs.makedirs(folder, exist_ok=True)
            write(beside)
            self._fs.mv(beside, place)

        try:
            self._change("writing", attempt, seconds)
        except FileNotFoundError as error:
            raise StorageError(f"{self.uri}: writing: it is not there: {patience.said(error)}") from error

    def create(self, key: str, content: bytes) -> bool:
        """Write what is not there; False if it is. Of several who try at once one succeeds."""

        def attempt() -> None:
            if not self._whole:
                self._fs.makedirs(self._at(key).rpartition("/")[0], exist_ok=True)
                with self._fs.open(self._at(key), "xb") as file:
                    file.write(content)
                return
            self._fs.pipe_file(self._at(key), content, mode="create")

        try:
            self._change("writing", attempt)
        except FileExistsError:  # perhaps by a try whose answer was lost
            return self.read(key) == content
        return True

    def remove(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._change("removing", lambda: self._fs.rm_file(self._at(key)))

    def fetch(self, wanted: dict[str, Version], root: Path) -> None:
        """Download below `root`, each file at once or not at all, its time of change that of its version.
        What is gone by now is left out."""
        keys = list(wanted)
        for start in range(0, len(keys), _AT_ONCE):
            chunk = keys[start : start + _AT_ONCE]
            try:
                self._fetch(chunk, wanted, root)
            except FileNotFoundError:
                for key in chunk:
                    with contextlib.suppress(FileNotFoundError):
                        self._fetch([key], wanted, root)

    def _fetch(self, keys: Sequence[str], wanted: dict[str, Version], root: Path) -> None:
        mark = f"{os.getpid()}.{threading.get_ident()}"
        targets = [root / key for key in keys]
        beside = [path.with_name(f".{path.name}.{mark}") for path in targets]
        for path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            sources = [self._at(key) for key in keys]
            self._do("reading", lambda: self._fs.get(sources, [str(path) for path in beside]))
            for key, temporary, path in zip(keys, beside, targets, strict=True):
                os.utime(temporary, ns=(wanted[key].changed, wanted[key].changed))
                temporary.replace(path)
        finally:
            for temporary in beside:
                temporary.unlink(missing_ok=True)

    def check(self) -> None:
        """Write, read and remove something. Raises: InputError if one of these is not possible."""
        key, content = f".check.{secrets.token_hex(8)}", b"harness"
        try:
            self.write(key, content, _CHECK_SECONDS)
            if self.read(key) != content:
                raise bad(self.uri, "does not give back what was written there")
            self.remove(key)
        except InputError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, FileNotFoundError):
                raise bad(
                    self.uri, f"is not there: {patience.said(cause)}", "make the bucket first"
                ) from error
            raise bad(self.uri, f"cannot be written: {_refused(cause)}") from error


def _try_once(fs: Any) -> None:
    """S3 has two clients, one above the other, each of which tries five times with pauses of its own. How
    often is tried, and for how long, `patience` is to say alone."""
    if {"s3", "s3a"} & set([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        fs.retries = 1
        fs.config_kwargs = {**fs.config_kwargs, "retries": {"total_max_attempts": 1}}  # read when it connects


def _refusal(error: BaseException) -> bool:
    return isinstance(error, PermissionError) or "Credentials" in type(error).__name__


def _refused(error: BaseException) -> str:
    if "Credentials" in type(error).__name__:
        return f"no credentials for it in this environment ({patience.said(error)})"
    if isinstance(error, PermissionError):
        return f"not allowed with these credentials ({patience.said(error)})"
    return patience.said(error)


def _passing(error: Exception) -> bool:
    """Whether it may work a little later."""
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in _CLIENTS and not isinstance(error, OSError):
        return "Credentials" not in name and "Validation" not in name
    lasting = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, lasting):
        return False
    # What a storage says comes as an OSError, often without a number; EBUSY (16) asks to slow down.
    return isinstance(error, (TimeoutError, ConnectionError)) or (
        isinstance(error, OSError) and (error.errno in (None, 16) or patience.away(error))
    )


def _version(info: dict[str, Any]) -> Version:
    """fsspec has no word for the time of change that all of its file systems use."""
    names = ("LastModified", "last_modified", "mtime", "updated", "created")
    changed = next((info[name] for name in names if info.get(name) is not None), 0)
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed.replace("Z", "+00:00"))
    seconds = changed.timestamp() if isinstance(changed, datetime) else float(changed)
    return Version(int(info["size"] or 0), int(seconds * 1e9))
