"""What fine-tuning kept of the model that it started from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.kept import Kept, any_retention, by_setting, by_strategy
from harness.analysis.study import Arena, Source, Study
from harness.report import figures
from harness.report.blocks import Block, Figure, Paragraph, Table, slug
from harness.report.figures import Line
from harness.report.section import Section

_ROWS = 60  # settings listed per task

_DRIFT = (
    "Drift: ‖θ − θ⁰‖ / ‖θ⁰‖ over the pretrained weights. Similarity: linear CKA of what leaves the last "
    "block, before and after, on the same validation inputs (1 = the same representation)."
)


class WhatWasKept(Section):
    name = "kept"
    title = "What was kept"
    order = 45

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        blocks: list[Block] = []
        sources = {source.backbone: source for source in study.sources}
        for arena in study.arenas():
            winners, settings = by_strategy(study, arena), by_setting(study, arena)
            source = sources.get(arena.backbone)
            if source is not None:
                blocks.append(_source(arena, source))
            if not any(entry.l2 is not None for entry in (*winners, *settings)):
                continue
            blocks.append(_winners(study, arena, winners, source))
            if len(settings) > len(winners):
                blocks.append(_settings(arena, settings))
            blocks += _figures(arena, settings)
        return blocks


def _source(arena: Arena, source: Source) -> Paragraph:
    if source.status != "finished":
        text = (
            f"{arena.key}: {source.backbone} could not be trained on {source.task}: {source.status} "
            f"{source.reason}"
        )
        return Paragraph(text.rstrip(), "plain" if source.status == "missing" else "warning")
    test = wording.fixed(source.scores["test"])
    return Paragraph(
        f"{arena.key}: {source.backbone} was first trained on {source.task} (test {source.primary} {test}, "
        f"{wording.seconds(source.device_s)} of device time, once for all trials). “Source” columns say what "
        "a model still scores there after fine-tuning, with the source task's own head put back."
    )


def _winners(study: Study, arena: Arena, entries: Sequence[Kept], source: Source | None) -> Table:
    split = study.split
    header = ("strategy", "n", f"{split} {arena.primary}", *_columns(entries, source))
    rows = tuple(
        (entry.strategy, str(entry.n), wording.fixed(entry.score), *_cells(entry, entries))
        for entry in entries
    )
    caption = f"{arena.key}: each cell's winner, means over n runs. {_DRIFT}"
    return Table(f"kept-{slug(arena.key)}", header, rows, caption, latex=True)


def _settings(arena: Arena, entries: Sequence[Kept]) -> Table:
    header = ("strategy", "λ", "rungs frozen", f"validation {arena.primary}", *_columns(entries, None))
    rows = tuple(
        (
            entry.strategy,
            "—" if entry.strength is None else f"{entry.strength:g}",
            "—" if entry.depth is None else str(entry.depth),
            wording.fixed(entry.score),
            *_cells(entry, entries),
        )
        for entry in entries[:_ROWS]
    )
    caption = f"{arena.key}: every setting that was tried, means over tune seeds, on validation."
    if len(entries) > _ROWS:
        caption += f" {len(entries) - _ROWS} more are in trials.parquet."
    return Table(f"kept-settings-{slug(arena.key)}", header, rows, caption)


def _columns(entries: Sequence[Kept], source: Source | None) -> tuple[str, ...]:
    metric = f" {source.primary}" if source is not None else ""
    retention = (f"source{metric} before", f"source{metric} after") if any_retention(entries) else ()
    return (*retention, "drift", "similarity")


def _cells(entry: Kept, entries: Sequence[Kept]) -> tuple[str, ...]:
    retention = (wording.fixed(entry.before), wording.fixed(entry.after)) if any_retention(entries) else ()
    drift = "—" if entry.l2 is None else f"{entry.l2:.3g}"
    return (*retention, drift, "—" if entry.cka is None else f"{entry.cka:.3f}")


def _figures(arena: Arena, entries: Sequence[Kept]) -> list[Block]:
    """Retention (drift, where there is no source task) against λ and against the freeze depth."""
    retained = any_retention(entries)
    measure: Callable[[Kept], float | None] = (lambda e: e.after) if retained else (lambda e: e.l2)
    what = "score on the source task after fine-tuning" if retained else "drift ‖θ − θ⁰‖ / ‖θ⁰‖"
    blocks: list[Block] = []
    for axis, label, log in (("strength", "λ", True), ("depth", "rungs frozen", False)):
        lines = _lines(entries, axis, measure)
        if len({x for line in lines for x, _ in line.points}) < 2:
            continue
        name = f"kept-{axis}-{slug(arena.key)}"
        drawing = figures.curves(name, arena.key, lines, label, what, log)
        caption = f"{arena.key}: {what} against {label}, means over the settings tried in the tune phase."
        alt = f"{what} against {label} on {arena.key}, a line for each of {len(lines)} strategies."
        blocks.append(Figure(name, drawing, alt, caption, drawing.data))
    return blocks


def _lines(entries: Sequence[Kept], axis: str, measure: Callable[[Kept], float | None]) -> list[Line]:
    """The mean of a measure by λ, a line for each strategy at the depths that are regularised; by depth the
    strategies without regulariser make one line."""
    depths = {entry.depth for entry in entries if entry.strength}
    found: dict[str, dict[float, list[float]]] = {}
    for entry in entries:
        x, y = getattr(entry, axis), measure(entry)
        alike = entry.depth in depths if axis == "strength" else entry.strength == 0
        if x is None or y is None or not alike:
            continue
        label = entry.strategy if axis == "strength" else "without regulariser"
        found.setdefault(label, {}).setdefault(float(x), []).append(y)
    return [
        Line(label, style, tuple(sorted((x, sum(ys) / len(ys)) for x, ys in by_x.items())))
        for style, (label, by_x) in enumerate(found.items())
    ]
