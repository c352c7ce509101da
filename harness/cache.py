"""What a machine keeps between runs: folders named by the hash of their content, each written once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

CACHE_VARIABLE = "HARNESS_CACHE"


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


def written_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, filled by `write` if it is not there. Safe to call from many processes."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
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
