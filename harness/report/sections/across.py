"""Over all tasks: what each strategy gains on the baseline, and ranks where there are tasks enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import wording
from harness.analysis.study import Study
from harness.report import figures
from harness.report.blocks import Block, Figure, Paragraph, Table
from harness.report.figures import Rank
from harness.report.section import Section

_HEADER = ("strategy", "mean gain", "95 % interval", "mean P(better)", "better on at least", "IQM")


class Across(Section):
    name = "across"
    title = "Over all tasks"
    order = 25

    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        found = verdicts["across"]
        if found["tasks"] < 2:
            return []
        if not found["strategies"]:
            return [Paragraph(f"Nothing can be said over all {found['tasks']} tasks: {found['reason']}.")]
        blocks: list[Block] = [_table(found)]
        if found["ranks"] is not None:
            blocks += _ranks(found, study)
        return blocks


def _table(found: Mapping[str, Any]) -> Table:
    baseline, arenas = found["baseline"], found["arenas"]
    rows = tuple(_row(name, entry, baseline, arenas) for name, entry in found["strategies"].items())
    where = "" if arenas == found["tasks"] else f" ({arenas} pairs of task and backbone)"
    caption = (
        f"Means over {found['tasks']} tasks{where}, in {found['unit']}. The interval generalises over "
        "seeds, and examples where they are known, not over other tasks. “Better on at least”: on how "
        "many the strategy beats the baseline, 95 % confidence for each strategy (partial conjunction, "
        "Dror et al. 2017). IQM: the mean of the middle half of all runs (Agarwal et al. 2021)."
    )
    if baseline is None:
        caption += " There is no baseline to gain on."
    left_out = [f"{name} {why}" for name, why in found["left_out"].items()]
    if left_out:
        caption += f" Left out: {wording.names(left_out, 9)}."
    return Table("across", _HEADER, rows, caption, latex=True)


def _row(name: str, entry: Mapping[str, Any], baseline: str | None, arenas: int) -> tuple[str, ...]:
    iqm = entry["iqm"]
    if "gain" not in entry:
        return (name, "the baseline" if name == baseline else "—", "—", "—", "—", wording.fixed(iqm))
    return (
        name,
        wording.fixed(entry["gain"], iqm, signed=True),
        _interval(entry["ci"], iqm, signed=True),
        f"{entry['p_better']:.2f}",
        f"{entry['better_on_at_least']} of {arenas}",
        wording.fixed(iqm),
    )


def _interval(ci: Sequence[float], like: float, signed: bool = False) -> str:
    return " to ".join(wording.fixed(bound, like, signed=signed) for bound in ci)


def _ranks(found: Mapping[str, Any], study: Study) -> list[Block]:
    ranks = found["ranks"]
    names = sorted(ranks["mean"], key=ranks["mean"].__getitem__)
    apart = {frozenset((pair["a"], pair["b"])) for pair in ranks["pairs"] if pair["p_adjusted"] < 0.05}
    friedman = ranks["friedman"]
    sizes = sorted(int(task["splits"].get(study.split, 0)) for task in study.plan["tasks"])
    text = (
        f"Mean ranks, n = {found['tasks']} tasks, n {study.split} = {sizes[0]} examples at least. Friedman's "
        f"test: χ² = {friedman['statistic']:.2f}, p = {friedman['p']:.3g}. Pairs by Wilcoxon's signed ranks "
        "with Holm's adjustment; strategies that are joined are not told apart. No interval is drawn; ranks "
        "know nothing of how large a difference is."
    )
    style = {name: number for number, name in enumerate(found["strategies"])}
    drawing = figures.critical(
        "ranks",
        "Mean ranks",
        [Rank(name, style[name], ranks["mean"][name]) for name in names],
        _cliques(names, apart),
    )
    alt = "Mean ranks: " + wording.names([f"{name} {ranks['mean'][name]:.2f}" for name in names], 20)
    return [Figure("ranks", drawing, alt, text, drawing.data)]


def _cliques(names: Sequence[str], apart: set[frozenset[str]]) -> list[list[str]]:
    """Runs of neighbours by rank of which no two are told apart, none inside another."""
    found: list[list[str]] = []
    last = -1
    for start in range(len(names)):
        end = start
        while end + 1 < len(names) and all(
            frozenset((names[end + 1], name)) not in apart for name in names[start : end + 1]
        ):
            end += 1
        if end > start and end > last:
            found.append(list(names[start : end + 1]))
            last = end
    return found
