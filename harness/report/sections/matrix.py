"""Every strategy on every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Study
from harness.report.blocks import Block, Table
from harness.report.section import Section

_CONSTANT = "(constant predictor)"


class Matrix(Section):
    name = "matrix"
    title = "Strategies × tasks"
    order = 20

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        tasks: Mapping[str, Any] = verdicts["tasks"]
        strategies = [str(strategy["name"]) for strategy in study.plan["strategies"]]
        headings = [f"{key}: {task['primary']} {_arrow(task)}" for key, task in tasks.items()]
        rows = [(name, *(_cell(task, name) for task in tasks.values())) for name in strategies]
        if any(task["constant"] is not None for task in tasks.values()):
            rows.append((_CONSTANT, *(wording.fixed(task["constant"]) for task in tasks.values())))
        strong = {
            (i, j)
            for i, name in enumerate(strategies)
            for j, task in enumerate(tasks.values(), start=1)
            if name in (task["leader"], task["recommended"])
        }
        first, columns = "strategy", headings
        if len(tasks) > len(strategies):  # rather a long table than a wide one
            first, columns = "task", [row[0] for row in rows]
            cells = zip(*(row[1:] for row in rows), strict=True)
            rows = [(heading, *row) for heading, row in zip(headings, cells, strict=True)]
            strong = {(j - 1, i + 1) for i, j in strong}
        entries = [entry for task in tasks.values() for entry in task["scores"].values()]
        caption = (
            f"Mean {study.split} score over n seeds ± half of its {wording.intervals(entries)}, none below 3 "
            f"seeds. {_sizes(study)} ↑: more is better, ↓: less is better. “—”: no score. The constant "
            "predictor is the best answer that looks at no input."
        )
        return [Table("matrix", (first, *columns), tuple(rows), caption, frozenset(strong), latex=True)]


def _arrow(task: Mapping[str, Any]) -> str:
    return "↓" if task["direction"] == "min" else "↑"


def _cell(task: Mapping[str, Any], name: str) -> str:
    entry = task["scores"].get(name)
    if entry is None:
        return "not planned"
    marks = []
    if name == task["leader"]:
        marks.append("leader")
    elif name in task["tie_set"]:
        marks.append("tie")
    if name == task["recommended"]:
        marks.append("recommended")
    if name in task["raced_out"]:
        marks.append("raced out")
    if entry["failures"]:
        marks.append(wording.counts(entry["failures"]))
    return " · ".join([wording.score(entry), *marks])


def _sizes(study: Study) -> str:
    sizes = {task["name"]: task["splits"].get(study.split) for task in study.plan["tasks"]}
    listed = [f"{name} {size}" for name, size in sizes.items() if size is not None]
    return f"Examples in {study.split}: {', '.join(listed) or 'not known'}."
