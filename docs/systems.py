"""Writes docs/systems.md from the registry and the sweeps: `make docs`. A test holds the page against it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.backbones.base import Backbone
from harness.backbones.family import Family
from harness.backbones.ladder import build_ladder
from harness.backbones.untrained import Untrained
from harness.registry import plugins
from harness.tasks.base import Task

ROOT = Path(__file__).parent.parent
SWEEPS = ("systems", "retention")
_HEAD = """# Kinds of task and families of models

*Written by `make docs` from the registry and from `sweeps/systems.yaml` and `sweeps/retention.yaml`; a test
holds it against them.*

Any model that the Auto classes of transformers know can be named by its hub id or folder; its ladder is
found the generic way. The families below are those that the project ships a small untrained model of
(`{use: untrained, family: …}`). The conformance tests run them on every kind that they are listed with.
The last column names the tasks on which the two sweeps train them (`make systems`), and the margin by
which they have to beat the constant predictor there, in the task's primary metric.
"""


def kinds() -> list[type[Task]]:
    return [task for name, task in plugins("tasks", Task).items() if name == task.kind]


def families(kind: str) -> list[type[Family]]:
    return [f for f in plugins("backbones", Family).values() if f.small is not None and kind in f.kinds]


def runs() -> Iterator[tuple[str, str, str, str]]:
    """What the two sweeps run: (kind, model type, task, margin)."""
    tasks = plugins("tasks", Task)
    for sweep in SWEEPS:
        content = yaml.safe_load((ROOT / "sweeps" / f"{sweep}.yaml").read_text(encoding="utf-8"))
        for name, entry in content["tasks"].items():
            kind = tasks[entry.get("use", name)].kind
            for backbone in entry["backbones"]:
                yield kind, model_type(content["backbones"][backbone]), name, f"{entry['margin']:g}"


def model_type(entry: dict[str, Any]) -> str:
    if entry["use"] == Untrained.name:
        return str(entry["family"])
    return str(plugins("backbones", Backbone)[entry["use"]]().config("docs").model_type)


def page() -> str:
    done: dict[tuple[str, str], list[str]] = {}
    for kind, family, task, margin in runs():
        done.setdefault((kind, family), []).append(f"{task} (+{margin})")
    lines = [_HEAD]
    for kind in kinds():
        shipped = [
            f"`{n}`"
            for n, task in plugins("tasks", Task).items()
            if task.kind == kind.kind and n != kind.kind
        ]
        metrics = ", ".join(kind().default_metrics)
        lines += [
            f"## {kind.kind}",
            "",
            f"Loaded through `{kind.auto_class}`. Default metrics: {metrics}. Shipped: {', '.join(shipped)}.",
            "",
            "| family | source | small model: weights, rungs | trained on, margin |",
            "|---|---|---|---|",
        ]
        for family in families(kind.kind):
            ladder = build_ladder(Untrained(family=family.name).bare())
            weights = f"{sum(rung.size for rung in ladder.rungs):,}, {len(ladder.rungs)}"
            tasks = ", ".join(done.get((kind.kind, family.name), [])) or "—"
            lines.append(f"| {family.name} | {family.source} | {weights} | {tasks} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    (ROOT / "docs" / "systems.md").write_text(page(), encoding="utf-8")
