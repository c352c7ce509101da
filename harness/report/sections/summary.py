"""The answer: one plain sentence per task, and what is missing from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Study
from harness.report.blocks import Block, Paragraph
from harness.report.section import Section


class Summary(Section):
    name = "answer"
    title = "The answer"
    order = 10

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        blocks: list[Block] = []
        if not verdicts["complete"]:
            blocks.append(Paragraph(_missing(study, verdicts), "banner"))
        if study.unreadable:
            text = f"{len(study.unreadable)} file(s) could not be read and count as missing: "
            blocks.append(Paragraph(f"{text}{wording.names(study.unreadable, 5)}.", "warning"))
        if not study.confirm_seeds:
            text = (
                f"This {'table' if study.plan.get('tables') else 'sweep'} has no confirm phase: scores are "
                "validation scores of the settings that "
                "validation itself selected, so they are too good to be expected of new data."
            )
            blocks.append(Paragraph(text, "warning"))
        for task in verdicts["tasks"].values():
            blocks.append(Paragraph(task["sentence"], "lead"))
            blocks += [Paragraph(_next(step), "next") for step in task["advice"]]
        if remarks := study.plan.get("remarks"):
            blocks.append(Paragraph(" ".join(remarks), "warning"))
        blocks += [Paragraph(text, "warning") for text in wording.missed_margins(verdicts)]
        return blocks


def _next(step: Mapping[str, Any]) -> str:
    return f"Next: {step['text']}" + (f" Run: {step['command']}" if step["command"] else "")


def _missing(study: Study, verdicts: Mapping[str, Any]) -> str:
    coverage = [task["coverage"] for task in verdicts["tasks"].values()]
    missing, planned = sum(c["missing"] for c in coverage), sum(c["planned"] for c in coverage)
    text = f"{missing} of {planned} runs are missing; everything below is provisional."
    if study.unfinished:
        listed = wording.names(study.unfinished, 8)
        text += f" {len(study.unfinished)} of {len(study.cells)} cells are not done: {listed}."
    return text
