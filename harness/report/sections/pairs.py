"""Every strategy against every other: how often it is the better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Study
from harness.report import figures
from harness.report.blocks import Block, Figure, slug
from harness.report.section import Section

_FEWEST, _MOST = 3, 24


class Pairs(Section):
    name = "pairs"
    title = "Pair by pair"
    order = 32

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        return [
            _figure(arena.key, task, wording.examples(arena.task, study.split))
            for arena in study.arenas()
            if _FEWEST <= len(_scored(task := verdicts["tasks"][arena.key])) <= _MOST
            and any(comparison["n"] for comparison in task["comparisons"])
        ]


def _scored(task: Mapping[str, Any]) -> list[str]:
    return [name for name, entry in task["scores"].items() if entry["n"] >= _FEWEST]


def _figure(key: str, task: Mapping[str, Any], examples: str) -> Figure:
    names = _scored(task)
    pairs = {(a, b): wording.pair(task, a, b) for a in names for b in names if a != b}
    chances = [[None if a == b else _chance(pairs[a, b]) for b in names] for a in names]
    sure = [
        f"{a} beats {b}" for (a, b), pair in pairs.items() if pair is not None and pair["verdict"] == "better"
    ]
    name = f"pairs-{slug(key)}"
    drawing = figures.heat(name, key, names, chances, "P(row better than column)")
    counts = sorted({pair["n"] for pair in pairs.values() if pair is not None})
    caption = (
        f"{key}: share of paired seeds on which the row's {task['split']} {task['primary']} is the better "
        "one, ties one half. A share says how often, not how much and not how surely; sure after Holm's "
        f"adjustment: {wording.names(sure, 12) or 'none'}. n = {wording.span(counts)} paired seeds; "
        f"{examples}; no interval is drawn."
    )
    alt = f"Probability that one strategy beats another on {key}, a number per pair."
    return Figure(name, drawing, alt, caption, drawing.data)


def _chance(pair: Mapping[str, Any] | None) -> float | None:
    return None if pair is None else pair["p_better"]
