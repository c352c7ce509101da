"""How much better or worse than the baseline, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Study
from harness.report import figures
from harness.report.blocks import Block, Figure, Paragraph, Table, slug
from harness.report.figures import ForestRow
from harness.report.section import Section

_HEADER = (
    "strategy",
    "difference",
    "95 % interval",
    "Holm p",
    "P(better)",
    "n",
    "could find",
    "due to seeds",
    "verdict",
)


class Forest(Section):
    name = "differences"
    title = "Differences"
    order = 30

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        claims = sum(len(task["comparisons"]) for task in verdicts["tasks"].values())
        blocks: list[Block] = []
        for arena in study.arenas():
            examples = wording.examples(arena.task, study.split)
            blocks += _blocks(arena.key, verdicts["tasks"][arena.key], examples, claims)
        return blocks


def _blocks(key: str, task: Mapping[str, Any], examples: str, claims: int) -> list[Block]:
    reference = task["baseline"]
    role = "the baseline"
    if reference is None or not task["scores"][reference]["n"]:
        reference, role = task["leader"], "the leader, there being no baseline with a score"
    others = [name for name in task["scores"] if name != reference]
    if reference is None or not others:
        return [Paragraph(f"{key}: nothing to compare.")]
    compared = {name: wording.pair(task, name, reference) for name in others}
    rows = [_row(name, comparison, task, reference) for name, comparison in compared.items()]
    rows = rows[: figures.shown(len(rows))]
    counts = sorted({len(row.seeds) for row in rows})
    n = wording.span(counts)
    better = "less" if task["direction"] == "min" else "more"
    caption = (
        f"{key}: difference in {task['split']} {task['primary']} to {reference} ({role}); {better} is "
        f"better. Bars: {wording.intervals(filter(None, compared.values()))}; n = {n} paired seeds (none "
        f"below 3); dots: single seeds; band: ±δ = ±{task['delta']:g}; {examples}. “Better” after Holm's "
        f"adjustment over {claims} claims; “equivalent” at 5 % for each pair."
    )
    if len(others) > len(rows):
        caption += f" {len(others) - len(rows)} more strategies are in verdicts.json."
    axis = f"difference in {task['primary']} to {reference} ({better} is better)"
    alt = "; ".join(
        f"{row.label}: {wording.fixed(row.difference, signed=True)}, {row.verdict}" for row in rows
    )
    name = f"forest-{slug(key)}"
    drawing = figures.forest(name, key, rows, axis, task["delta"])
    figure = Figure(name, drawing, f"Differences to {reference} on {key}. {alt}", caption, drawing.data)
    table_rows = tuple(_cells(row, compared[row.label], task["scores"][reference]["mean"]) for row in rows)
    explained = (
        f"{key}: the same differences to {reference}. “Could find”: the smallest true difference that such a "
        "design finds in four of five cases, at Holm's hardest threshold; “due to seeds”: the seeds' part of "
        "the difference's variance, the rest being due to examples."
    )
    table = Table(f"differences-{slug(key)}", _HEADER, table_rows, explained)
    return [figure, table]


def _row(name: str, comparison: dict[str, Any] | None, task: Mapping[str, Any], reference: str) -> ForestRow:
    ours, theirs = task["scores"][name]["per_seed"], task["scores"][reference]["per_seed"]
    interval = comparison["ci"] if comparison else None
    return ForestRow(
        label=name,
        style=list(task["scores"]).index(name),
        difference=comparison["difference"] if comparison else None,
        interval=None if interval is None else (interval[0], interval[1]),
        seeds=tuple(ours[seed] - theirs[seed] for seed in ours if seed in theirs),
        verdict=wording.verdict_word(comparison),
    )


def _cells(row: ForestRow, comparison: Mapping[str, Any] | None, like: float) -> tuple[str, ...]:
    difference = wording.fixed(row.difference, like, signed=True)
    interval = "—"
    if row.interval is not None:
        low, high = (wording.fixed(bound, like, signed=True) for bound in row.interval)
        interval = f"{low} to {high}"
    p = comparison["p_adjusted"] if comparison else None
    chance = comparison["p_better"] if comparison else None
    return (
        row.label,
        difference,
        interval,
        "—" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "—" if chance is None else f"{chance:.2f}",
        str(len(row.seeds)),
        wording.fixed(comparison["detectable"] if comparison else None, like),
        "—" if comparison is None or not comparison["examples"] else f"{comparison['variance']['seeds']:.0%}",
        row.verdict,
    )
