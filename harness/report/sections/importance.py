"""Which hyper-parameters mattered, and what a smaller tuning budget would have found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import budget, wording
from harness.analysis.cells import CellSummary, summarize
from harness.analysis.importance import EVALUATOR, importances
from harness.analysis.importance import Importance as Shares
from harness.analysis.study import Arena, Study
from harness.report import figures
from harness.report.blocks import Block, Figure, Paragraph, slug
from harness.report.figures import Bar, Line
from harness.report.section import Section

_CELLS = 12
"""A random forest each, a second or so."""


class Importance(Section):
    name = "importance"
    title = "What mattered in tuning"
    order = 55

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        blocks: list[Block] = []
        left = 0
        for arena in study.arenas():
            summaries = summarize(study, arena)
            for name, summary in summaries.items():
                if len(blocks) >= _CELLS:
                    left += len(summary.cell.space) > 1
                else:
                    found = importances(summary.cell.space, summary.configurations, arena.sign)
                    blocks += [_importance(arena, name, shares) for shares in found]
        if left:
            blocks.append(Paragraph(f"{left} more cells with two or more tuned axes are not drawn."))
        if budget.holds(study.plan):
            blocks += [
                figure for arena in study.arenas() if (figure := _budget(arena, summarize(study, arena)))
            ]
        return blocks


def _importance(arena: Arena, name: str, found: Shares) -> Figure:
    where = wording.settings(found.where) if found.where else ""
    place = f"{arena.key}: {name}" + (f" ({where})" if where else "")
    drawing = figures.bars(
        f"importance-{slug(place)}",
        place,
        [Bar(axis, share) for axis, share in found.share.items()],
        f"share of the variance of validation {arena.primary}",
    )
    drawn = f" (of {found.drawn_from}, drawn at random)" if found.drawn_from else ""
    caption = (
        f"{place}: how much of the spread of validation scores over {found.configurations} configurations"
        f"{drawn} each tuned hyper-parameter explains ({EVALUATOR}, by Optuna). It says what mattered within "
        "this space, not what would outside of it."
    )
    if found.left_out:
        caption += f" Not all of them have {wording.names(found.left_out, 5)}, left out here."
    alt = f"{place}: " + ", ".join(f"{axis} {share:.0%}" for axis, share in found.share.items())
    return Figure(f"importance-{slug(place)}", drawing, alt, caption, drawing.data)


def _budget(arena: Arena, summaries: Mapping[str, CellSummary]) -> Figure | None:
    """The expected best validation score by number of configurations, of cells whose search is complete."""
    lines = []
    for style, (name, summary) in enumerate(summaries.items()):
        scores = [arena.sign * c.validation for c in summary.configurations if c.validation is not None]
        if len(scores) > 1:
            best = arena.sign * budget.expected_best(scores)
            points = tuple((float(k), float(value)) for k, value in enumerate(best, start=1))
            lines.append(Line(name, style, points))
    if not lines:
        return None
    name = f"budget-{slug(arena.key)}"
    drawing = figures.curves(
        name, arena.key, lines, "configurations tried", f"expected best validation {arena.primary}", log=False
    )
    caption = (
        f"{arena.key}: the best validation {arena.primary} to expect of so many configurations drawn at "
        "random, each trained to its end (Dodge et al. 2019, without bias as by Tang et al. 2020)."
        f" n = {len(lines[0].points)} configurations; {wording.examples(arena.task, 'validation')}; no "
        "interval is drawn."
    )
    alt = f"Expected best validation score against the number of configurations on {arena.key}."
    return Figure(name, drawing, alt, caption, drawing.data)
