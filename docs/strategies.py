"""Writes docs/strategies.md from the registry: `make docs`. A test holds the page against it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.entries import presets
from harness.optimizers.base import Optimizer
from harness.registry import Plugin, plugins
from harness.regularizers.base import Regularizer
from harness.strategies.base import Part

ROOT = Path(__file__).parent.parent
_HEAD = """# Strategies

*Written by `make docs` from the docstrings of the plug-ins; a test holds it against them.*

A strategy is a composition: any of the *parts* below, one optimiser, at most one regulariser, and settings of
the loop (`training:`). What is not said is its published default. Parts go together unless they decide the
same thing, or one of them says why not; either is told when the file is read.

```yaml
strategies:
  full:        {}                                   # everything trains: the corrected recipe
  probe-first: {use: lp-ft}                         # a ready strategy
  mine:        {lp-ft: 1, layer-decay: {grid: [0.8, 0.95]}, regularizer: {name: l2-sp, strength: 0.01}}
```

Every trial minimises `L(θ) + λ·R(θ)`; θ⁰ are the pretrained weights, a *rung* is a part of the ladder from
input to output, the *head* lies outside it. Adding one is adding a file: [design.md](design.md).
"""


def page() -> str:
    lines = [_HEAD, "## Ready strategies", "", "| `use:` | is | source |", "|---|---|---|"]
    for name, preset in sorted(presets().items()):
        written = yaml.safe_dump(dict(preset.definition), default_flow_style=True, width=10_000).strip()
        lines.append(f"| `{name}` | `{written}` | {preset.source} |")
    for title, kind, base in (
        ("Parts", "strategies", Part),
        ("Regularisers", "regularizers", Regularizer),
        ("Optimisers", "optimizers", Optimizer),
    ):
        lines += ["", f"## {title}"]
        known: dict[str, type[Plugin]] = plugins(kind, base)  # type: ignore[type-abstract]
        for name, plugin in known.items():
            if plugin.__module__.startswith("harness."):
                lines += ["", f"### {name}", "", *_entry(plugin)]
    return "\n".join(lines) + "\n"


def _entry(plugin: type[Plugin]) -> Iterator[str]:
    yield inspect.cleandoc(plugin.__doc__ or "")
    yield ""
    fields = [f"`{name}` {_default(field)}" for name, field in plugin.model_fields.items()]
    if fields:
        yield f"Settings: {', '.join(fields)}."
        yield ""
    if issubclass(plugin, Part) and plugin.claims:
        yield f"Decides {' and '.join(sorted(plugin.claims))}: no other part with that goes beside it."
        yield ""
    yield f"Source: {plugin.source}."


def _default(field: Any) -> str:
    default = field.get_default(call_default_factory=True)
    return (
        "(needed)"
        if field.is_required()
        else f"({yaml.safe_dump(default, default_flow_style=True).splitlines()[0]})"
    )


if __name__ == "__main__":
    (ROOT / "docs" / "strategies.md").write_text(page(), encoding="utf-8")
