"""Every run behind the headline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Arena, Cell, Study
from harness.records.record import FAILURES
from harness.report import figures
from harness.report.blocks import Block, Figure, slug
from harness.report.figures import StripRow
from harness.report.section import Section


class Strips(Section):
    name = "seeds"
    title = "Seed by seed"
    order = 35

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        failed = _failed(study, verdicts)
        blocks: list[Block] = []
        for arena in study.arenas():
            task = verdicts["tasks"][arena.key]
            rows = [
                _row(cell, style, task["scores"][cell.strategy], failed.get(cell.id, ()))
                for style, cell in enumerate(arena.cells)
            ]
            if any(row.scores for row in rows):
                blocks.append(_figure(arena, rows, study))
        return blocks


def _failed(study: Study, verdicts: Mapping[str, Any]) -> dict[str, list[tuple[int, str]]]:
    """Per cell the seeds of headline runs without a score, and what became of them."""
    phase = "confirm" if study.confirm_seeds else "tune"
    winners = {
        cell.id: verdicts["tasks"][arena.key]["scores"][cell.strategy]["hyperparameters"]
        for arena in study.arenas()
        for cell in arena.cells
    }
    frame = study.frame[study.frame["status"].isin(FAILURES) & (study.frame["phase"] == phase)]
    found: dict[str, list[tuple[int, str]]] = {}
    columns = (frame[name].tolist() for name in ("cell", "seed", "status", "config"))
    for cell, seed, status, config in zip(*columns, strict=True):
        if study.confirm_seeds or json.loads(config) == winners[cell]:
            found.setdefault(cell, []).append((int(seed), str(status)))
    return found


def _row(cell: Cell, style: int, entry: Mapping[str, Any], failed: Sequence[tuple[int, str]]) -> StripRow:
    without = {seed for seed, _ in failed}
    scores = ((int(seed), float(score)) for seed, score in entry["per_seed"].items())
    return StripRow(cell.strategy, style, tuple(s for s in scores if s[0] not in without), tuple(failed))


def _figure(arena: Arena, rows: Sequence[StripRow], study: Study) -> Figure:
    better = "less" if arena.sign < 0 else "more"
    counts = sorted({len(row.scores) for row in rows})
    n = wording.span(counts)
    failures = sum(len(row.failures) for row in rows)
    caption = (
        f"{arena.key}: {study.split} {arena.primary} of every run of each cell's winner ({better} is "
        f"better), n = {n} seeds. Stroke: the mean of the dots; no interval is drawn here. "
    )
    if failures:
        caption += f"Crosses beyond the break: {failures} run{'s' if failures > 1 else ''} without a score. "
    caption += f"{wording.examples(arena.task, study.split)}."
    drawn = rows[: figures.shown(len(rows))]
    if len(rows) > len(drawn):
        caption += f" {len(rows) - len(drawn)} more strategies are in trials.parquet."
    spread = [
        f"{row.label} {wording.fixed(min(ys))} to {wording.fixed(max(ys))}"
        for row in drawn
        if (ys := [score for _, score in row.scores])
    ]
    name = f"strips-{slug(arena.key)}"
    drawing = figures.strips(name, arena.key, drawn, f"{study.split} {arena.primary} ({better} is better)")
    alt = f"Scores by seed on {arena.key}. Lowest to highest: {wording.names(spread, 10)}."
    return Figure(name, drawing, alt, caption, drawing.data)
