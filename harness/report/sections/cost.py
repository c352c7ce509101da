"""What one run of each strategy costs, and what its score is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.cells import CellSummary, summarize
from harness.analysis.study import Arena, Study
from harness.report import figures
from harness.report.blocks import Block, Figure, Table, slug
from harness.report.figures import Point
from harness.report.section import Section

_HEADER = (
    "strategy",
    "device time per run",
    "wall time per run",
    "of the leader's",
    "trained weights",
    "FLOPs",
    "peak memory",
    "tuning, all trials",
)


class Cost(Section):
    name = "cost"
    title = "Cost"
    order = 40

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        blocks: list[Block] = []
        for arena in study.arenas():
            task = verdicts["tasks"][arena.key]
            summaries = summarize(study, arena)
            if any(value is not None for summary in summaries.values() for value in summary.cost.values()):
                blocks.append(_table(arena, summaries, task))
            points = _points(task, arena)
            if len(points) > 1:
                blocks.append(_figure(arena, points, task))
        return blocks


def _table(arena: Arena, summaries: Mapping[str, CellSummary], task: Mapping[str, Any]) -> Table:
    leader = summaries[task["leader"]].cost["device_s"] if task["leader"] else None
    rows = []
    for name, summary in summaries.items():
        cost = summary.cost
        device, memory = cost["device_s"], cost["peak_memory_mb"]
        rows.append(
            (
                name,
                wording.seconds(device),
                wording.seconds(cost["wall_s"]),
                f"{100 * device / leader:.0f} %" if device is not None and leader else "—",
                wording.quantity(cost["trainable_params"]),
                wording.quantity(cost["flops"]),
                "—" if memory is None else f"{memory:.0f} MB",
                wording.seconds(summary.spent_device_s or None),
            )
        )
    caption = (
        f"{arena.key}: means per run of each cell's winner (finished confirm runs, else finished tune runs); "
        "the last column is the whole tune phase, with its failed and stopped trials."
    )
    return Table(f"cost-{slug(arena.key)}", _HEADER, tuple(rows), caption, latex=True)


def _points(task: Mapping[str, Any], arena: Arena) -> list[Point]:
    known = [
        (name, style, entry["cost_device_s"], entry["mean"], entry["ci"])
        for style, (name, entry) in enumerate(task["scores"].items())
        if entry["mean"] is not None and entry["cost_device_s"] is not None
    ]

    def beaten(cost: float, score: float) -> bool:
        gain = arena.sign * score
        return any(
            c <= cost and arena.sign * s >= gain and (c < cost or arena.sign * s > gain)
            for _, _, c, s, _ in known
        )

    points = [
        Point(name, style, cost, score, None if ci is None else (ci[0], ci[1]), not beaten(cost, score))
        for name, style, cost, score, ci in known
    ]
    points.sort(key=lambda point: not point.on_front)  # stable: where there are too many, the front stays
    return points[: figures.shown(len(points))]


def _figure(arena: Arena, points: Sequence[Point], task: Mapping[str, Any]) -> Figure:
    better = "less" if arena.sign < 0 else "more"
    front = [point.label for point in points if point.on_front]
    counts = sorted({task["scores"][point.label]["n"] for point in points})
    caption = (
        f"{arena.key}: {task['split']} {arena.primary} ({better} is better) against device seconds per run. "
        "Dashed: the front, strategies whose mean none reaches at a lower cost (by the means alone, not a "
        f"claim). Bars: {wording.intervals(task['scores'].values())}; n = {' or '.join(map(str, counts))} "
        f"seeds, none below 3; {wording.examples(arena.task, task['split'])}."
    )
    alt = f"Cost against score on {arena.key}. On the front: {wording.names(front, 10)}."
    name = f"pareto-{slug(arena.key)}"
    axis = f"{arena.primary} ({better} is better)"
    drawing = figures.pareto(name, arena.key, points, "device seconds per run", axis)
    return Figure(name, drawing, alt, caption, drawing.data)
