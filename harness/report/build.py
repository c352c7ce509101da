"""Writes everything a report consists of, each file at once or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.study import Study, load_study
from harness.analysis.verdicts import judge
from harness.records.paths import ResultPaths, replace_file, void
from harness.report import page, render
from harness.report.blocks import Block, Chapter, Figure, Paragraph, Rows, Table, slug
from harness.report.section import find_sections

FIGURES = 60
"""At most so many drawings in one report, so that its page stays light."""


def write_report(paths: ResultPaths, study: Study | None = None) -> dict[str, Any]:
    """Judge a results folder (or the study that is given) and write the report there; returns the content of
    verdicts.json.

    Raises: InputError if the folder holds no usable plan, PluginError if a section is broken.
    """
    study = load_study(paths) if study is None else study
    verdicts = judge(study)
    chapters: list[Chapter] = []
    for section in find_sections():
        try:
            blocks = section.build(study, verdicts)
        except Exception as error:  # what the others say is none the worse for it
            blocks = [Paragraph(f"This section failed: {type(error).__name__}: {error}")]
        if blocks:
            chapters.append((section.name, section.title, blocks))
    chapters = _fewer_figures(chapters)
    strategies = [str(strategy["name"]) for strategy in study.plan["strategies"]]
    title = f"Which fine-tuning strategy wins? {verdicts['sweep']}"

    for _, _, blocks in chapters:
        for block in blocks:
            if isinstance(block, Figure):
                file = paths.figures / slug(block.name)
                _write(file.with_suffix(".svg"), block.drawing.svg)
                _write(file.with_suffix(".pdf"), block.drawing.pdf)
                _write(file.with_suffix(".csv"), _csv(block.data))
            elif isinstance(block, Table) and block.latex:
                _write(paths.tables / f"{slug(block.name)}.tex", render.latex(block))
    replace_file(paths.frame, lambda path: study.frame.to_parquet(path, index=False))
    _write(paths.verdicts, json.dumps(verdicts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write(paths.report_md, render.markdown(title, chapters))
    _write(paths.report_html, page.html(title, chapters, strategies))
    return verdicts


def _fewer_figures(chapters: Sequence[Chapter]) -> list[Chapter]:
    """The chapters with at most `FIGURES` drawings, shared out evenly; what was left out is said."""
    asked = [sum(isinstance(block, Figure) for block in blocks) for _, _, blocks in chapters]
    shares = [0] * len(chapters)
    for _ in range(min(FIGURES, sum(asked))):
        shares[min((i for i, n in enumerate(asked) if shares[i] < n), key=lambda i: shares[i])] += 1
    return [
        (name, heading, _first(blocks, share)) if share < n else (name, heading, blocks)
        for (name, heading, blocks), share, n in zip(chapters, shares, asked, strict=True)
    ]


def _first(blocks: Sequence[Block], share: int) -> list[Block]:
    figures = [block for block in blocks if isinstance(block, Figure)]
    omitted = {id(figure) for figure in figures[share:]}
    text = (
        f"{len(omitted)} more drawings are left out here (a report holds at most {FIGURES}): the numbers "
        "are in verdicts.json and trials.parquet; a report of fewer tasks or strategies has room for them."
    )
    return [*(block for block in blocks if id(block) not in omitted), Paragraph(text)]


def _csv(rows: Rows) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_inert(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _inert(cell: Any) -> Any:
    """A name that a spreadsheet would take for a formula, marked as text in the way that they have."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _write(path: Path, content: str | bytes) -> None:
    # A name may hold half a surrogate pair, which no encoding takes: show it as "?".
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    replace_file(path, lambda temporary: void(temporary.write_bytes(data)))
