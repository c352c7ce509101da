"""What ran, what did not, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.cells import summarize
from harness.analysis.study import Study
from harness.records.record import STATUSES
from harness.report.blocks import Block, Paragraph, Table
from harness.report.section import Section

_ROWS, _REASONS, _FILES = 300, 30, 20


class Coverage(Section):
    name = "coverage"
    title = "Failures and coverage"
    order = 60

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        blocks: list[Block] = [_cells(study)]
        raced = _raced(study, verdicts)
        if raced.rows:
            blocks.append(raced)
        failures = _failures(study)
        if failures.rows:
            blocks.append(failures)
        else:
            blocks.append(Paragraph("No recorded trial diverged, ran out of memory or failed."))
        if study.unreadable:
            more = len(study.unreadable) - _FILES
            rows = tuple((name,) for name in study.unreadable[:_FILES])
            caption = "Files that could not be read" + (f"; {more} more are not listed." if more > 0 else ".")
            blocks.append(Table("unreadable", ("file and reason",), rows, caption))
        if study.damaged:
            more = len(study.damaged) - _FILES
            lines = tuple((name,) for name in study.damaged[:_FILES])
            caption = "Files that runs found damaged or missing, and made or ran again" + (
                f"; {more} more are in quarantine/notes/." if more > 0 else "."
            )
            blocks.append(Table("damaged", ("file and reason",), lines, caption))
        if study.mixed:
            text = (
                f"{len(study.mixed)} cell(s) hold records of different versions of packages or code: "
                f"{wording.names(study.mixed, 5)}."
            )
            blocks.append(Paragraph(text, "warning"))
        merged = study.plan.get("merged") or []
        if merged:
            text = f"{len(merged)} trial(s) serve more than one cell: they were run once, and count in each."
            blocks.append(Paragraph(text))
        if study.unused:
            text = f"{study.unused} record(s) here belong to no cell of the present plan and are not used."
            blocks.append(Paragraph(text))
        return blocks


def _cells(study: Study) -> Table:
    statuses = (*STATUSES, "missing", "unreadable")
    budgets = {entry["id"] for entry in study.plan["cells"] if "budget" in entry}
    rows = []
    for arena in study.arenas():
        for name, summary in summarize(study, arena).items():
            counts = (str(summary.statuses.get(status, 0)) for status in statuses)
            known = summary.cell.id in budgets  # a table says what there is, not what was planned
            planned = f"{summary.cell.budget} + {study.confirm_seeds}" if known else "—"
            rows.append((arena.key, name, summary.cell.state, planned, *counts))
    caption = (
        "Trials per cell by fate; planned: tune + confirm. “missing”: asked for, without a record yet. "
        "Only finished trials have a score that counts; no other number stands in for the rest, and "
        "strategies are compared on the seeds that both finished."
    )
    if len(rows) > _ROWS:
        caption += f" {len(rows) - _ROWS} more cells are left out here; all are in trials.parquet."
    return Table(
        "coverage", ("task", "strategy", "state", "planned", *statuses), tuple(rows[:_ROWS]), caption
    )


def _raced(study: Study, verdicts: Mapping[str, Any]) -> Table:
    """Which cells were raced out, when, and why."""
    rows = tuple(
        (
            key,
            name,
            str(why["trials"]),
            why["leader"],
            wording.fixed(why["difference"]),
            str(why["n"]),
            f"{why['chance']:.2g} < {why['bound']:.2g}",
        )
        for key, task in verdicts["tasks"].items()
        for name, why in task["raced_out"].items()
    )
    level = (study.plan.get("racing") or {}).get("level", "?")
    caption = (
        f"Cells that were raced out (level {level}): not in the tie set. Their chance of a place in it, "
        "foretold from validation scores, had fallen below the level's share of one look, so their remaining "
        "confirm trials were not run. Their comparisons rest on the seeds they did finish, and are no claims."
    )
    header = ("task", "strategy", "after trials", "behind", "by (validation)", "paired seeds", "chance")
    return Table("raced-out", header, rows, caption)


def _failures(study: Study) -> Table:
    frame = study.frame[study.frame["status"].isin(["diverged", "infeasible", "failed"])]
    columns = [
        frame[name].tolist() for name in ("task", "backbone", "strategy", "status", "reason", "trial_id")
    ]
    found: Counter[tuple[str, ...]] = Counter()
    example: dict[tuple[str, ...], str] = {}
    for *place, status, reason, trial_id in zip(*columns, strict=True):
        what = (*place, status, reason[:300])
        found[what] += 1
        example.setdefault(what, trial_id)
    listed = found.most_common(_REASONS)
    rows = tuple((*what, str(count), example[what]) for what, count in listed)
    caption = "Trials that gave no score, by reason."
    if len(found) > len(listed):
        caption += f" {len(found) - len(listed)} more reasons are not listed."
    header = ("task", "backbone", "strategy", "status", "reason", "trials", "for example")
    return Table("failures", header, rows, caption)
