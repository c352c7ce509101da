"""What the numbers were made from and on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.study import Study, delta_of
from harness.report.blocks import Block, Paragraph, Table
from harness.report.section import Section

_VALUES = 8
_WIDTH = 600


class Provenance(Section):
    name = "provenance"
    title = "Provenance"
    order = 70

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        plan = study.plan
        search = plan.get("search") or {}
        what = "Report" if plan.get("tables") else "Sweep"
        facts = (
            f"{what} “{plan['name']}”: {len(plan['tasks'])} task(s), {len(plan['backbones'])} backbone(s), "
            f"{len(plan['strategies'])} strategies, {len(study.cells)} cells. "
            f"Search: {_flat(search) or 'unknown'}. Seeds: {plan['seeds']['tune']} to tune, "
            f"{study.confirm_seeds} to confirm. Baseline: {plan.get('baseline') or 'none'}."
        )
        blocks: list[Block] = [Paragraph(facts)]
        blocks += [Paragraph(f"Table: {_flat(table)}.") for table in plan.get("tables") or []]
        blocks.append(_tasks(study))
        if any(len(backbone) > 1 for backbone in plan["backbones"]):
            blocks.append(_backbones(study))
        if any(study.provenance.values()):
            blocks.append(_recorded(study))
        return [*blocks, *(Paragraph(str(note)) for note in plan.get("notes") or [])]


def _tasks(study: Study) -> Table:
    rows = tuple(
        (
            str(task["name"]),
            str(task.get("kind", "—")),
            f"{task['primary']} ({'less' if task['direction'] == 'min' else 'more'} is better)",
            ", ".join(map(str, task.get("metrics") or [])),
            ", ".join(f"{split} {size}" for split, size in task["splits"].items()) or "—",
            f"{delta_of(task):g}",
        )
        for task in study.plan["tasks"]
    )
    header = ("task", "kind", "primary metric", "metrics", "examples", "δ")
    return Table(
        "tasks", header, rows, "The tasks; δ is the margin within which a difference counts as none."
    )


def _backbones(study: Study) -> Table:
    rows = tuple(
        (
            str(backbone["name"]),
            str(backbone.get("model_type", "—")),
            f"{int(backbone['parameters']):,}" if backbone.get("parameters") is not None else "—",
            str(len(backbone["rungs"])) if backbone.get("rungs") else "—",
        )
        for backbone in study.plan["backbones"]
    )
    return Table("backbones", ("backbone", "type", "parameters", "rungs"), rows, "The pretrained models.")


def _recorded(study: Study) -> Table:
    rows = []
    for part, values in study.provenance.items():
        common = sorted(values.items(), key=lambda item: (-item[1], item[0]))
        rows += [(part, _short(_flat(json.loads(value))), str(count)) for value, count in common[:_VALUES]]
        if len(common) > _VALUES:
            rows.append((part, f"{len(common) - _VALUES} more values, in the records", ""))
    caption = "As recorded by the trials; more than one row for a part means that trials differ in it."
    return Table("provenance", ("what", "value", "trials"), tuple(rows), caption)


def _flat(value: Any, prefix: str = "") -> str:
    """`python 3.11.7, git.commit abc`: nested facts on one line."""
    if isinstance(value, Mapping):
        return ", ".join(filter(None, (_flat(inner, f"{prefix}{key} ") for key, inner in value.items())))
    if isinstance(value, list):
        return f"{prefix}{json.dumps(value, ensure_ascii=False)}"
    return f"{prefix}{value}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
