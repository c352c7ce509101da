"""What a submitted sweep takes to the cluster: its resolved file, small local files, plug-ins, a checkout of
the harness. What is wanted is named, and no folder sent because it happens to hold it: results, environments
and secrets stay where they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import harness
from harness.document import dump
from harness.records import provenance
from harness.records.paths import write_json
from harness.registry import PLUGINS_VARIABLE
from harness.spec import Sweep, resolved

SWEEP, SENT, PLUGINS = "sweep.yaml", "sent.json", "plugins"
# Bytes of a sweep's local files: more belongs on storage that the cluster shares.
MOST = 100_000_000
# Never sent, wherever they lie. Hidden files are where tools keep tokens and environments.
_KEPT = (
    ".*", "__pycache__", "*.pyc", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_ed25519*",
    "auth_token", "*.token", "credentials", "credentials.json", "secrets.*",
)  # fmt: skip
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
    """
    parcel = Parcel(folder)
    content = _Sender(parcel, shared).sent(resolved(sweep))
    (folder / SWEEP).write_text(dump(content), encoding="utf-8")
    for index, path in enumerate(filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep))):
        _copy(Path(path), folder / PLUGINS / str(index))
    package = Path(harness.__file__).parent
    if (package.parent / "pyproject.toml").exists():  # a checkout, which no cluster can have installed
        _copy(package, folder / "harness")
    write_json(folder / SENT, {"versions": provenance.versions()})
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    parcel.files, parcel.size = len(sizes), sum(sizes)
    return parcel


def variables() -> dict[str, str]:
    """The variables of this environment that the job gets."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def secret(path: Path) -> bool:
    """Whether a file is never sent."""
    return any(fnmatch(path.name.lower(), pattern) for pattern in _KEPT)


@dataclass
class _Sender:
    parcel: Parcel
    shared: str | None
    places: dict[str, str] = field(default_factory=dict)
    size: int = 0

    def sent(self, node: Any) -> Any:
        """The settings, with each local path that was put into the parcel named as it is in there."""
        if isinstance(node, dict):
            return {key: self.sent(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.sent(value) for value in node]
        if isinstance(node, str) and node.startswith("/") and len(node) < 4096:
            if node not in self.places:
                self.places[node] = self._send(node)
            return self.places[node]
        return node

    def _send(self, path: str) -> str:
        """Raises nothing: a file that is not here is taken to be on the cluster."""
        if self.shared is not None and Path(path).is_relative_to(self.shared):
            return path
        found = [Path(match) for match in sorted(glob(path, recursive=True))] or [Path(path)]  # noqa: PTH207
        if not all(match.exists() for match in found):
            return path
        root = Path(path).parent
        while has_magic(str(root)):
            root = root.parent
        if any(secret(Path(part)) for match in found for part in match.relative_to(root).parts):
            self.parcel.left.append((path, "looks like a secret"))
            return path
        size = sum(_sizes(found))
        if self.size + size > MOST:
            reason = f"{size / 1e6:,.0f} MB: the cluster must have it at the same place"
            self.parcel.left.append((path, reason))
            return path
        self.size += size
        place = Path("data") / str(len(self.places))
        for match in found:
            _copy(match, self.parcel.folder / place / match.relative_to(root))
        return str(place / Path(path).relative_to(root))


def _sizes(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else (path,):
            if file.is_file():
                yield file.stat().st_size


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns(*_KEPT)
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def read_sent(folder: Path) -> dict[str, str]:
    """The versions that the submitter had."""
    versions: dict[str, str] = json.loads((folder / SENT).read_text(encoding="utf-8"))["versions"]
    return versions
