"""How validation scores answered to what was tuned."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from harness.analysis import wording
from harness.analysis.frame import number
from harness.analysis.study import Arena, Study
from harness.report import figures
from harness.report.blocks import Block, Figure, slug
from harness.report.figures import Panel, Setting
from harness.report.section import Section

_PANELS = 12
_Mean: TypeAlias = tuple[Mapping[str, Any], float]  # a setting, and the mean of its scores
_FIRST = ("freeze", "learning_rate", "strength")  # of more than two axes, those that are drawn


class Responses(Section):
    name = "responses"
    title = "Response to what was tuned"
    order = 52

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        tried = _tried(study)
        blocks: list[Block] = []
        for arena in study.arenas():
            groups: dict[tuple[str, ...], list[Panel]] = {}
            left: dict[tuple[str, ...], set[str]] = {}  # axes that a mean runs over
            for style, cell in enumerate(arena.cells):
                for label, means in _alike(cell.strategy, tried.get(cell.id, [])):
                    varied = _varied(means)
                    axes = tuple(varied[:2])
                    if axes:
                        groups.setdefault(axes, []).append(_panel(label, style, means, axes))
                        left.setdefault(axes, set()).update(varied[2:])
            blocks += [_figure(arena, axes, sorted(left[axes]), groups[axes], study) for axes in groups]
        return blocks


def _tried(study: Study) -> dict[str, list[_Mean]]:
    """Per cell every setting with a finished tune trial, and its mean validation score over tune seeds."""
    frame = study.frame[(study.frame["phase"] == "tune") & (study.frame["status"] == "finished")]
    scores: dict[tuple[str, str], list[float]] = {}
    columns = (frame[name].tolist() for name in ("cell", "config", "score_validation"))
    for cell, config, score in zip(*columns, strict=True):
        if (value := number(score)) is not None:
            scores.setdefault((cell, config), []).append(value)
    found: dict[str, list[_Mean]] = {}
    for (cell, config), values in scores.items():
        found.setdefault(cell, []).append((json.loads(config), statistics.fmean(values)))
    return found


def _alike(strategy: str, means: Sequence[_Mean]) -> list[tuple[str, list[_Mean]]]:
    """Settings with the same axes, under a label: an axis that hangs on another's value is not in every
    setting. What all of them have and others have not is in the label."""
    groups: dict[frozenset[str], list[_Mean]] = {}
    for setting, mean in means:
        groups.setdefault(frozenset(setting), []).append((setting, mean))
    varied = _varied(means)
    found = []
    for group in groups.values():
        own = _varied(group)
        fixed = {axis: group[0][0][axis] for axis in varied if axis in group[0][0] and axis not in own}
        label = f"{strategy} ({wording.settings(fixed)})" if fixed and len(groups) > 1 else strategy
        found.append((label, group))
    return found


def _varied(means: Sequence[_Mean]) -> list[str]:
    """The axes along which settings differ, those first that `_FIRST` names."""
    seen: dict[str, set[Setting]] = {}
    for setting, _ in means:
        for axis, value in setting.items():
            seen.setdefault(axis, set()).add(_setting(value))

    def rank(axis: str) -> tuple[int, str]:
        last = axis.rpartition(".")[2]
        return _FIRST.index(last) if last in _FIRST else len(_FIRST), axis

    return sorted((axis for axis, values in seen.items() if len(values) > 1), key=rank)


def _setting(value: Any) -> Setting:
    finite = number(value)
    return finite if finite is not None else value if isinstance(value, str) else json.dumps(value)


def _panel(label: str, style: int, means: Iterable[_Mean], axes: tuple[str, ...]) -> Panel:
    by_place: dict[tuple[Setting, Setting | None], list[float]] = {}
    for setting, mean in means:
        x = _setting(setting[axes[0]])
        y = _setting(setting[axes[1]]) if len(axes) > 1 else None
        by_place.setdefault((x, y), []).append(mean)
    points = tuple((x, y, statistics.fmean(values)) for (x, y), values in by_place.items())
    return Panel(label, style, points)


def _figure(
    arena: Arena, axes: tuple[str, ...], over: Sequence[str], panels: Sequence[Panel], study: Study
) -> Figure:
    better = "less" if arena.sign < 0 else "more"
    drawn = panels[:_PANELS]
    caption = (
        f"{arena.key}: validation {arena.primary} ({better} is better) against {' and '.join(axes)}, means "
        f"of finished tune trials over n = {study.plan['seeds']['tune']} tune seeds"
        f"{f' and over {wording.names(over, 5)}' if over else ''}; no interval is drawn. Framed: the best of "
        "each panel, which selection flatters. "
        f"{wording.examples(arena.task, 'validation')}."
    )
    if len(panels) > len(drawn):
        caption += f" {len(panels) - len(drawn)} more panels are in trials.parquet."
    best = []
    for panel in drawn:
        x, y, value = max(panel.points, key=lambda point: arena.sign * point[2])
        where = ", ".join(f"{axis}={place}" for axis, place in zip(axes, (x, y), strict=False))
        best.append(f"{panel.label} {wording.fixed(value)} at {where}")
    name = f"response-{'-'.join(map(slug, axes))}-{slug(arena.key)}"
    second = axes[1] if len(axes) > 1 else None
    what = f"validation {arena.primary}"
    drawing = figures.response(name, arena.key, drawn, (axes[0], second), what, arena.sign)
    alt = f"{what} against {' and '.join(axes)} on {arena.key}. Best: {wording.names(best, 10)}."
    return Figure(name, drawing, alt, caption, drawing.data)
