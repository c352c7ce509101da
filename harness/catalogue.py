"""Everything a sweep file can name, as data."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from harness.entries import BackboneEntry, presets, read_backbone
from harness.errors import Mistakes
from harness.registry import Plugin, plugins


def _entry(name: str, plugin: type[Any]) -> dict[str, Any]:
    text = inspect.cleandoc(plugin.__doc__ or "")
    found = {"name": name, "summary": text.split("\n\n")[0].replace("\n", " "), "source": plugin.source}
    if issubclass(plugin, Plugin):
        found["settings"] = {
            key: {
                "default": None if field.is_required() else repr(field.get_default(call_default_factory=True))
            }
            for key, field in plugin.model_fields.items()
        }
    return found


def entries(kind: str, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What can be named of a kind; for backbones with their ladders, of `names` too (hub ids, folders).

    Raises: InputError for a backbone that cannot be read.
    """
    from harness.metrics.base import Metric
    from harness.optimizers.base import Optimizer
    from harness.regularizers.base import Regularizer
    from harness.search.base import Scheduler, Search
    from harness.strategies.base import Part
    from harness.tasks.base import Task

    if kind == "backbones":
        return _backbones(names)
    bases: dict[str, tuple[type[Any], ...]] = {
        "tasks": (Task,), "strategies": (Part,), "regularizers": (Regularizer,), "optimizers": (Optimizer,),
        "metrics": (Metric,), "search": (Search, Scheduler),
    }  # fmt: skip
    found = [_entry(name, plugin) for base in bases[kind] for name, plugin in plugins(kind, base).items()]
    if kind == "tasks":
        tasks = plugins("tasks", Task)
        for entry in found:
            entry["kind"] = tasks[entry["name"]].kind
    if kind == "strategies":
        for name, preset in presets().items():
            definition = dict(preset.definition)
            found.append({"name": name, "summary": f"ready strategy {definition}", "source": preset.source,
                          "definition": definition})  # fmt: skip
    return found


def _backbones(names: Sequence[str]) -> list[dict[str, Any]]:
    from harness.backbones.base import Backbone
    from harness.backbones.family import Family

    mistakes = Mistakes()
    found = []
    if names:
        nodes: list[Any] = list(names)
    else:
        known = plugins("backbones", Backbone)
        nodes = [
            n for n, plugin in known.items() if not any(f.is_required() for f in plugin.model_fields.values())
        ]
        nodes.remove(Backbone.name)
        small = [family.name for family in plugins("backbones", Family).values() if family.small is not None]
        nodes += [{"use": "untrained", "family": family, "name": f"untrained {family}"} for family in small]
    for node in nodes:
        with mistakes.collecting():
            found.append(_backbone(read_backbone(node, node if isinstance(node, str) else node["name"])))
    mistakes.raise_any()
    return found


def _backbone(entry: BackboneEntry) -> dict[str, Any]:
    from harness.backbones.ladder import build_ladder

    backbone = entry.backbone
    skeleton = backbone.bare(entry.name)
    ladder = build_ladder(skeleton)
    return {
        **_entry(entry.name, type(backbone)),
        "path": backbone.path or backbone.name,
        "model_type": skeleton.config.model_type,
        "parameters": sum(rung.size for rung in ladder.rungs),
        "rungs": len(ladder.rungs),
        "ladder": [
            {"rung": index, "name": rung.name, "parameters": rung.size}
            for index, rung in enumerate(ladder.rungs)
        ],
    }
