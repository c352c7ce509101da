"""Writes everything a report consists of, each file at once or not at all."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from harness.analysis.study import load_study
from harness.analysis.verdicts import judge
from harness.records.paths import ResultPaths, replace_file, void
from harness.report import render
from harness.report.blocks import Figure, Table, slug
from harness.report.section import find_sections


def write_report(paths: ResultPaths) -> dict[str, Any]:
    """Judge a results folder and write its report; returns the content of verdicts.json.

    Raises: InputError if the folder holds no usable plan, PluginError if a section is broken.
    """
    study = load_study(paths)
    verdicts = judge(study)
    chapters: list[render.Chapter] = []
    for section in find_sections():
        blocks = section.build(study, verdicts)
        if blocks:
            chapters.append((section.name, section.title, blocks))
    title = f"Which fine-tuning strategy wins? {verdicts['sweep']}"

    for _, _, blocks in chapters:
        for block in blocks:
            if isinstance(block, Figure):
                _write(paths.figures / f"{slug(block.name)}.svg", block.svg)
                _write(paths.figures / f"{slug(block.name)}.csv", _csv(block.data))
            elif isinstance(block, Table) and block.latex:
                _write(paths.tables / f"{slug(block.name)}.tex", render.latex(block))
    replace_file(paths.frame, lambda path: study.frame.to_parquet(path, index=False))
    _write(paths.verdicts, json.dumps(verdicts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write(paths.report_md, render.markdown(title, chapters))
    _write(paths.report_html, render.html(title, chapters))
    return verdicts


def _csv(rows: tuple[tuple[str, ...], ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _write(path: Path, text: str) -> None:
    # A name may hold half a surrogate pair, which no encoding takes: show it as "?".
    data = text.encode("utf-8", errors="replace")
    replace_file(path, lambda temporary: void(temporary.write_bytes(data)))
