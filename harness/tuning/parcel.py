"""What a submitted sweep takes to the cluster: its resolved file, small local files, plug-ins, a checkout of
the harness. What is wanted is named, and no folder sent because it happens to hold it: results, environments
and secrets stay where they are."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from glob import glob, has_magic
from importlib import metadata
from pathlib import Path
from typing import Any

import harness
from harness.document import dump
from harness.errors import bad
from harness.records import provenance
from harness.records.paths import write_json
from harness.registry import PLUGINS_VARIABLE
from harness.spec import Sweep, resolved

SWEEP, SENT, PLUGINS = "sweep.yaml", "sent.json", "plugins"
# Bytes of a sweep's local files and plug-ins: more belongs on storage that the cluster shares.
MOST = 100_000_000
# Never sent, wherever they lie. Hidden files are where tools keep tokens and environments.
KEPT = (
    ".*", "__pycache__", "*.pyc", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", "auth_token", "*.token", "credentials", "*credentials*.json", "secrets.*",
)  # fmt: skip
# The settings of a data set that name files. The others are its reader's: a `sep` may begin with `/`, too.
_PATHS = ("path", "data_files", "data_dir")
# Variables of the submitter's environment that say how a sweep runs, and can say nothing else.
_VARIABLES = (
    "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM",
    "OMP_NUM_THREADS",
)  # fmt: skip


@dataclass
class Parcel:
    """A folder to be sent.

    Attributes:
        files, size: how many files are in it, and their bytes.
        left: local files that were not sent, with the reason.
    """

    folder: Path
    files: int = 0
    size: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)


def pack(sweep: Sweep, folder: Path, shared: str | None = None) -> Parcel:
    """Fill an empty folder with what the sweep needs.

    Args:
        shared: a folder that the cluster shares; what lies below it is not sent.

    Raises: InputError for plug-ins that cannot be sent: the cluster has no others.
    """
    parcel = Parcel(folder)
    size = 0
    for index, path in enumerate(filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep))):
        for file in _own_files(Path(path)):
            size += file.stat().st_size
            if size > MOST:
                raise bad(PLUGINS_VARIABLE, f"names folders of more than {MOST / 1e6:.0f} MB")
            _copy(file, folder / PLUGINS / str(index) / file.relative_to(path))
    content = _Sender(parcel, shared, size).sent(resolved(sweep))
    (folder / SWEEP).write_text(dump(content), encoding="utf-8")
    package = Path(harness.__file__).parent
    if (package.parent / "pyproject.toml").exists():  # a checkout, which no cluster can have installed
        for file in _own_files(package):
            _copy(file, folder / "harness" / file.relative_to(package))
    write_json(folder / SENT, {"versions": provenance.versions(), "required": _required()})
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    parcel.files, parcel.size = len(sizes), sum(sizes)
    return parcel


def variables() -> dict[str, str]:
    """The variables of this environment that the job gets."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _required() -> list[str]:
    """The packages that the harness needs whatever the sweep is: those of no extra."""
    try:
        lines = metadata.requires("finetune-harness") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed: nothing says what is an extra's
        return list(provenance.versions())
    names = [re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line]
    return [name[0] for name in names if name]


def _kept(name: str) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in KEPT)


def secret(path: Path) -> bool:
    """Whether a file is never sent: for its name or that of a folder above it, there or where links lead.

    The cache of the hub lies in a hidden folder, and holds what is public or was asked for by name.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = Path(HF_HUB_CACHE).absolute()
    for place, cache in ((path.absolute(), hub), (path.resolve(), hub.resolve())):
        below = place.relative_to(cache) if place.is_relative_to(cache) else place
        if any(map(_kept, below.parts)):
            return True
    return False


@dataclass
class _Sender:
    """Puts local files into the parcel; `size` are the bytes that count so far."""

    parcel: Parcel
    shared: str | None
    size: int
    places: dict[str, str] = field(default_factory=dict)

    def sent(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The settings, with each local path that was put into the parcel named as it is in there."""
        return {
            **content,
            "backbones": [self._backbone(entry) for entry in content["backbones"]],
            "tasks": [self._task(entry) for entry in content["tasks"]],
        }

    def _backbone(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        found = {key: self._named(value) if key == "path" else value for key, value in entry.items()}
        if "source" in found:
            found["source"] = {**found["source"], "task": self._task(found["source"]["task"])}
        return found

    def _task(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        if "dataset" not in entry:
            return {**entry}
        dataset = entry["dataset"].items()
        return {
            **entry,
            "dataset": {key: self._named(value) if key in _PATHS else value for key, value in dataset},
        }

    def _named(self, node: Any) -> Any:
        if isinstance(node, dict):
            return {key: self._named(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self._named(value) for value in node]
        if isinstance(node, str) and node.startswith("/"):
            if node not in self.places:
                self.places[node] = self._send(node)
            return self.places[node]
        return node

    def _send(self, path: str) -> str:
        """Raises nothing: a file that is not here is taken to be on the cluster."""
        if self.shared is not None and Path(path).is_relative_to(self.shared):
            return path
        try:
            place, reason = self._put(path)
        except OSError as error:
            place, reason = path, f"cannot be read: {error.strerror or error}"
        if reason:
            self.parcel.left.append((path, reason))
        return place

    def _put(self, path: str) -> tuple[str, str]:
        """The place of what a path or pattern names, and why it stays where it is if it does."""
        found = [Path(match) for match in sorted(glob(path, recursive=True))] or [Path(path)]  # noqa: PTH207
        if not all(match.is_file() or match.is_dir() for match in found):
            return path, ""
        if any(map(secret, found)):
            return path, "is hidden, or has the name of a secret"
        files, size = [], self.size
        for match in found:
            for file in _files(match):
                files.append(file)
                size += file.stat().st_size
                if size > MOST:  # not looked through to its end: it may be a whole disk
                    reason = (
                        f"more than {MOST / 1e6:.0f} MB with it: the cluster must have it at the same place"
                    )
                    return path, reason
        root = Path(path).parent
        while has_magic(str(root)):
            root = root.parent
        place = Path("data") / str(len(self.places))
        for file in dict.fromkeys(files):
            _copy(file, self.parcel.folder / place / file.relative_to(root))
        self.size = size
        return str(place / Path(path).relative_to(root)), ""


def _files(root: Path) -> Iterator[Path]:
    """A file, or those below a folder that may be sent. Links are followed, but to no secret and in no ring.

    Raises: OSError for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    def wanted(path: Path) -> bool:
        return not _kept(path.name) and not (path.is_symlink() and secret(path))

    if not root.is_dir():
        yield root
        return
    for folder, inner, names in os.walk(root, followlinks=True, onerror=fail):
        here = Path(folder)
        above = here.resolve()
        inner[:] = [
            name
            for name in inner
            if wanted(here / name) and not above.is_relative_to((here / name).resolve())
        ]
        yield from (here / name for name in names if wanted(here / name) and (here / name).is_file())


def _own_files(root: Path) -> Iterator[Path]:
    """The files below a folder of code.

    Raises: InputError for a link that leaves the folder: nobody named what is behind it.
    """
    for file in _files(root):
        if not file.resolve().is_relative_to(root.resolve()):
            raise bad(str(file), f"leads out of {root}, which is to be sent", "put a copy in its place")
        yield file


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def read_sent(folder: Path) -> tuple[dict[str, str], list[str]]:
    """The versions that the submitter had, and the packages that the harness cannot do without."""
    found = json.loads((folder / SENT).read_text(encoding="utf-8"))
    return found["versions"], found["required"]
