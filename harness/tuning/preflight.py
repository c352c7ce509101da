"""What a run looks at before it runs anything: whose results a folder holds, and whether there is room."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.cache import cache_folder, digest
from harness.document import dump
from harness.errors import Mistakes
from harness.outline import as_dict, count, predicted
from harness.plan import Plan
from harness.records import index, provenance
from harness.records.paths import ResultPaths, write_text
from harness.records.quarantine import read_or_set_aside
from harness.records.seal import read_sealed, write_sealed
from harness.records.sound import sound
from harness.spec import resolved

# What Ray's session takes, and encoded data at least; bytes.
_TEMPORARY, _CACHE = 100e6, 50e6
_SEAL = "# checksum: "


def recorded_sweep(paths: ResultPaths) -> tuple[str, set[str], set[str]] | None:
    """Name, tasks and backbones of the sweep that a folder holds, by its sweep.yaml, or by its plan.json
    where that is missing or damaged; None if neither can be read."""
    for read, path in ((_read_sweep, paths.sweep), (read_sealed, paths.plan)):
        try:
            found = sound(path, read)
            tasks, backbones = (
                {str(entry["name"]) for entry in found[part]} for part in ("tasks", "backbones")
            )
            return str(found["name"]), tasks, backbones
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
    return None


def _read_sweep(path: Path) -> Mapping[str, Any]:
    """Raises: OSError, ValueError."""
    text = path.read_text(encoding="utf-8")
    said, _, body = text.partition("\n")  # in front, where half a file has it, too
    if said.startswith(_SEAL) and said != f"{_SEAL}{digest(body)}":  # else it is of before there were any
        raise ValueError("its checksum is not that of its content")
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError("holds no settings")
    return found


def write_definitions(plan: Plan, paths: ResultPaths) -> None:
    """Write sweep.yaml and plan.json. What is there and damaged is set aside first."""
    read_or_set_aside(paths, paths.sweep, _read_sweep, "it is written again")
    read_or_set_aside(paths, paths.plan, read_sealed, "it is written again")
    made_by = provenance.history(paths)
    body = dump(resolved(plan.sweep))
    write_text(paths.sweep, f"{_SEAL}{digest(body)}\n{body}")
    write_sealed(paths.plan, {**as_dict(plan), "made_by": made_by})


def check_space(plan: Plan, paths: ResultPaths, local: bool) -> None:
    """Refuse what cannot fit. What frozen rungs give is not counted: where there is no room it is not kept.

    Args:
        local: trials run in this process, so that Ray needs no room.

    Raises: InputError that names each file system without room, with numbers.
    """
    trials = sum(count(plan).values())
    left = 1 - min(1.0, len(index.stamps(paths)) / max(1, trials))
    needs = [
        ("the results", paths.root, left * predicted(plan)["disk_bytes"]),
        ("the cache", cache_folder(), _CACHE),
    ]
    if not local:
        chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
        needs.append(("Ray", Path(chosen or tempfile.gettempdir()), _TEMPORARY))
    found: dict[int, list[tuple[str, Path, float]]] = {}
    for what, folder, size in needs:
        while not folder.exists():
            folder = folder.parent
        found.setdefault(folder.stat().st_dev, []).append((what, folder, size))
    mistakes = Mistakes()
    for wanted in found.values():
        need, free = sum(size for *_, size in wanted), shutil.disk_usage(wanted[0][1]).free
        if need > free:
            named = ", ".join(f"{what} {size / 1e6:.3g} MB" for what, _, size in wanted)
            has = f"{free / 1e6:.3g} MB are free, and the sweep takes about {named}"
            mistakes.add(str(wanted[0][1]), has, "make room, or name another place")
    mistakes.raise_any()
