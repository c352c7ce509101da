"""Where a result comes from: versions, code, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

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
