"""What was tuned, where the optima lie, and how far tuning flattered them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.cells import CellSummary, summarize
from harness.analysis.study import Arena, Study
from harness.report.blocks import Block, Paragraph, Table, slug
from harness.report.section import Section

ROWS_PER_CELL = 8
ROWS = 400
"""At most so many settings in the whole report; the rest is in trials.parquet."""


class Tuned(Section):
    name = "tuned"
    title = "What was tuned"
    order = 50

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        per_cell = min(ROWS_PER_CELL, ROWS // max(1, len(study.cells)))
        defined = any(strategy.get("definition") is not None for strategy in study.plan["strategies"])
        blocks: list[Block] = [_strategies(study)] if defined else []
        for arena in study.arenas():
            summaries = summarize(study, arena)
            blocks += [
                Paragraph(f"{arena.key}: {text}.", "warning")
                for text in verdicts["tasks"][arena.key]["warnings"]
            ]
            if any(summary.tune_trials or summary.hyperparameters for summary in summaries.values()):
                blocks.append(_winners(arena, summaries))
            if per_cell and any(summary.configurations for summary in summaries.values()):
                blocks.append(_settings(arena, summaries, per_cell))
        if not per_cell:
            blocks.append(Paragraph("There are too many cells to list their settings: see trials.parquet."))
        return blocks


def _strategies(study: Study) -> Table:
    rows = tuple(
        (str(strategy["name"]), _definition(strategy.get("definition")))
        for strategy in study.plan["strategies"]
    )
    caption = "Each strategy as the sweep file defines it (defaults are in sweep.yaml and in every record)."
    return Table("strategies", ("strategy", "definition"), rows, caption)


def _winners(arena: Arena, summaries: Mapping[str, CellSummary]) -> Table:
    header = (
        "strategy",
        "winner",
        "tune trials",
        "tuning",
        "best validation",
        "confirmed validation",
        "optimism",
    )
    rows = [
        (
            name,
            wording.settings(summary.hyperparameters),
            f"{summary.tune_trials} of {summary.cell.budget}" if summary.cell.budget else "—",
            wording.seconds(summary.spent_device_s or None),
            wording.fixed(summary.best_validation),
            wording.fixed(summary.confirm_validation),
            wording.fixed(summary.optimism, like=summary.best_validation, signed=True),
        )
        for name, summary in summaries.items()
    ]
    caption = (
        f"{arena.key}: the setting that validation selected in each cell, and what finding it took. Optimism "
        "is how much better the winner's tuning validation was than the mean validation of its confirm runs."
    )
    return Table(f"winners-{slug(arena.key)}", header, tuple(rows), caption)


def _settings(arena: Arena, summaries: Mapping[str, CellSummary], per_cell: int) -> Table:
    rows, omitted = [], 0
    for name, summary in summaries.items():
        omitted += max(0, len(summary.configurations) - per_cell)
        rows += [
            (
                name,
                wording.settings(configuration.hyperparameters),
                wording.fixed(configuration.validation),
                wording.counts(configuration.statuses),
            )
            for configuration in summary.configurations[:per_cell]
        ]
    caption = f"{arena.key}: settings tried, best first, by mean validation {arena.primary} over tune seeds."
    if omitted:
        caption += (
            f" {omitted} more are left out here (at most {per_cell} per cell); all are in trials.parquet."
        )
    header = ("strategy", "setting", f"validation {arena.primary}", "trials")
    return Table(f"settings-{slug(arena.key)}", header, tuple(rows), caption)


def _definition(definition: Mapping[str, Any] | None) -> str:
    return "—" if definition is None else _shorter(json.dumps(definition, ensure_ascii=False))


def _shorter(text: str, most: int = 400) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
