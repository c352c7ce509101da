"""Where a result comes from: versions, code, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.cache import checksum, digest
from harness.records.paths import ResultPaths
from harness.records.seal import read_sealed
from harness.records.sound import sound
from harness.registry import PLUGINS_VARIABLE

PACKAGES = (
    "finetune-harness", "torch", "transformers", "datasets", "evaluate", "ray", "optuna", "tokenizers",
    "safetensors", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy",
    "pillow", "torchvision", "timm", "torchmetrics", "soundfile", "jiwer", "seqeval",
)  # fmt: skip


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def git() -> dict[str, Any] | None:
    """Commit of the harness's own checkout and whether it has changes; None outside a checkout."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


@lru_cache(maxsize=1)
def code() -> dict[str, str]:
    """Hashes of the source of the harness, and of a user's plug-ins where there are any."""
    folders = {"harness": Path(__file__).parents[1]}
    for number, folder in enumerate(filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep))):
        folders[f"plugins{number or ''}"] = Path(folder)
    found = {}
    for name, root in folders.items():
        files = sorted(path for path in root.rglob("*.py") if path.is_file())
        found[name] = digest([[str(path.relative_to(root)), checksum(path)] for path in files])
    return found


def made_by() -> dict[str, Any]:
    """What a run's numbers are made by, beside data and hardware."""
    return {"versions": versions(), "code": code(), "commit": (git() or {}).get("commit")}


def history(paths: ResultPaths) -> list[dict[str, Any]]:
    """What the runs of a results folder were made by, each once, this one last."""
    return [*(entry for entry in _before(paths) if entry != made_by()), made_by()]


def _before(paths: ResultPaths) -> list[dict[str, Any]]:
    try:
        found = sound(paths.plan, read_sealed)["made_by"]
        return [entry for entry in found if isinstance(entry, dict)]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    for path in sorted(paths.trials.glob("*.json")):  # the plan is lost, or older than this
        try:
            said = sound(path, read_sealed)["provenance"]
            commit = (said.get("git") or {}).get("commit")
            return [{"versions": said["versions"], "code": said.get("code"), "commit": commit}]
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return []


def changes(paths: ResultPaths) -> list[tuple[str, str]]:
    """What differs from the run before: (name, what it was and is). Empty where there was none."""
    before = _before(paths)
    if not before:
        return []
    then, now = before[-1], made_by()
    found = []
    for part in ("versions", "code"):
        old, new = then.get(part) or {}, now[part]
        if not old:
            continue
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                commits = [str(entry["commit"])[:10] for entry in (then, now) if entry.get("commit")]
                known = name == "harness" and len(set(commits)) == 2
                was, here = commits if known else (old.get(name, "absent"), new.get(name, "absent"))
                found.append((f"source of {name}" if part == "code" else name, f"was {was}, now {here}"))
    return found


@lru_cache(maxsize=1)
def hardware() -> dict[str, Any]:
    """The machine of this process; accelerators are added by who has torch loaded."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    except OSError:
        pass
    return {"system": platform.system(), "machine": platform.machine(), "cpu": model, "cores": os.cpu_count()}
