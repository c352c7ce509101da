"""The report as files: complete, safe against hostile names, deterministic, small."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from report_fixtures import Sweep, change, put, typical

from harness.analysis.study import load_study
from harness.analysis.verdicts import judge
from harness.errors import InputError
from harness.records.paths import ResultPaths
from harness.registry import PluginError, _plugins
from harness.report import render
from harness.report.blocks import Figure, Paragraph, Table, slug
from harness.report.build import write_report
from harness.report.section import Section, find_sections

HOSTILE = "</script><img src=x onerror=alert(1)>"
LATEX = r"50% & #1 \evil{$x$}_a^b~c"
PIPES = "a|b `c` *d* [e](http://x) $f$ \n# g \x00\x1b"


class Page(html.parser.HTMLParser):
    """The tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def empty(root: Path) -> ResultPaths:
    """A plan whose cells have not begun."""
    paths = typical().write(root)
    for file in [*paths.cells.iterdir(), *paths.trials.iterdir()]:
        file.unlink()
    return paths


def hostile(root: Path) -> ResultPaths:
    scores = {
        HOSTILE: [0.8, 0.81, 0.83],
        LATEX: [0.7, 0.72, "diverged"],
        PIPES: [0.6, 0.61, 0.66],
        "": [0.1] * 3,
    }
    paths = Sweep({HOSTILE: scores, LATEX: scores, "../..": scores}, baseline=LATEX, name=HOSTILE).write(root)
    record = json.loads(paths.trial("c0000-confirm-0001").read_text())
    record["provenance"]["versions"] = {HOSTILE: PIPES}
    put(paths.trial("c0000-confirm-0001"), {**record, "status": "failed", "reason": HOSTILE + PIPES + LATEX})
    paths.trial("c0000-confirm-0000").write_text(HOSTILE)
    return paths


def alone(root: Path) -> ResultPaths:
    return Sweep({"t": {"a": [0.8]}}).write(root)


def no_confirm(root: Path) -> ResultPaths:
    return Sweep({"t": {"a": [0.8], "b": [0.7]}}, confirm=0).write(root)


KINDS = {"typical": lambda root: typical().write(root), "empty": empty, "hostile": hostile}
KINDS |= {"alone": alone, "no confirm": no_confirm}


@pytest.fixture(scope="module", params=KINDS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ResultPaths:
    paths = KINDS[request.param](tmp_path_factory.mktemp("results"))
    write_report(paths)
    return paths


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> ResultPaths:
    paths = typical().write(tmp_path_factory.mktemp("results"))
    write_report(paths)
    return paths


# Conformance of every section that is registered, on every kind of results.


@pytest.mark.parametrize("section", find_sections(), ids=lambda section: section.name)
def test_section_builds_well_formed_blocks(section: Section, written: ResultPaths) -> None:
    study = load_study(written)
    blocks = list(section.build(study, judge(study)))
    assert all(isinstance(block, (Paragraph, Table, Figure)) for block in blocks)
    for block in blocks:
        if isinstance(block, Paragraph):
            assert block.text.strip()
            continue
        assert block.caption.strip()
        if isinstance(block, Figure):
            ElementTree.fromstring(block.svg)
            assert block.alt.strip()
            assert re.search(r"n = \d", block.caption) and "Student-t interval" in block.caption
            assert re.search(r"n (test|validation) = \d+ examples", block.caption)
            assert len({len(row) for row in block.data}) == 1 and len(block.data) > 1


def test_sections_come_in_the_promised_order() -> None:
    names = [section.name for section in find_sections()]
    assert names == ["answer", "matrix", "differences", "cost", "kept", "tuned", "coverage", "provenance"]
    assert all(slug(name) == name for name in names)


def test_a_section_is_one_file(usual: ResultPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report" / "sections").mkdir(parents=True)
    file = tmp_path / "report" / "sections" / "mine.py"
    file.write_text(
        "from harness.report.blocks import Paragraph\n"
        "from harness.report.section import Section\n"
        "class Mine(Section):\n"
        "    name, title, order = 'mine', 'My own', 15\n"
        "    def build(self, study, verdicts):\n"
        "        return [Paragraph('hello from mine')]\n"
    )
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))
    _plugins.cache_clear()
    try:
        assert [section.name for section in find_sections()][1] == "mine"
        file.with_name("broken.py").write_text("1 / 0")
        _plugins.cache_clear()
        with pytest.raises(PluginError, match=r"broken\.py.*ZeroDivisionError"):
            find_sections()
    finally:
        monkeypatch.undo()
        _plugins.cache_clear()


# Files.


def test_everything_is_written_and_nothing_is_left_over(written: ResultPaths) -> None:
    for file in (written.report_html, written.report_md, written.verdicts, written.frame):
        assert file.stat().st_size > 0
    assert (written.tables / "matrix.tex").exists()
    drawings = {file.stem for file in written.figures.glob("*.svg")} if written.figures.is_dir() else set()
    numbers = {file.stem for file in written.figures.glob("*.csv")} if written.figures.is_dir() else set()
    assert drawings == numbers
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in drawings)
    assert not [file for file in written.root.rglob("*") if file.name.startswith(".")]
    verdicts = json.loads(written.verdicts.read_text(encoding="utf-8"))
    assert verdicts == judge(load_study(written))
    assert len(pd.read_parquet(written.frame)) == len(load_study(written).frame)


def test_writing_again_changes_no_byte(written: ResultPaths) -> None:
    files = [file for file in written.root.rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    write_report(written)
    assert {file: file.read_bytes() for file in files} == before


def test_a_failing_section_leaves_the_old_report(usual: ResultPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    before = usual.report_html.read_bytes()
    monkeypatch.setattr(render, "markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(usual)
    assert usual.report_html.read_bytes() == before
    assert not list(usual.root.glob(".*"))


def test_no_plan_is_a_user_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no plan"):
        write_report(ResultPaths(tmp_path))
    assert list(tmp_path.iterdir()) == []


# HTML.


def test_html_refers_to_nothing_outside(written: ResultPaths) -> None:
    text = written.report_html.read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action"):
                assert value is not None and value.startswith("#"), (tag, value)
            assert "url(" not in (value or "") or "url(#" in (value or "")
    assert "@import" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a.get("href") or "")[1:] for _, a in page.tags if (a.get("href") or "").startswith("#")}
    assert targets <= set(ids)


def test_html_shows_the_answer_before_anything_else(usual: ResultPaths) -> None:
    page = Page(usual.report_html.read_text(encoding="utf-8"))
    verdicts = json.loads(usual.verdicts.read_text(encoding="utf-8"))
    sentences = [task["sentence"] for task in verdicts["tasks"].values()]
    places = [page.text.index(sentence) for sentence in sentences]
    assert places == sorted(places) and places[-1] < page.text.index("0.951 ± 0.006 (n=5) · leader")
    assert ("html", {"lang": "en"}) in page.tags
    svgs = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(svgs) == 4 and all(attributes.get("role") == "img" for attributes in svgs)
    assert all((attributes.get("aria-label") or "").strip() for attributes in svgs)
    for word in ("prefers-color-scheme", "width=device-width"):
        assert word in usual.report_html.read_text(encoding="utf-8")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    paths = hostile(tmp_path / "results")
    write_report(paths)
    page = Page(paths.report_html.read_text(encoding="utf-8"))
    assert HOSTILE in page.text and LATEX in page.text
    markdown = paths.report_md.read_text(encoding="utf-8")
    assert "<img" not in markdown and "</script" not in markdown
    assert "\x00" not in markdown and "\x1b" not in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    tex = (paths.tables / "matrix.tex").read_text(encoding="utf-8")
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"50\% \& \#1 \textbackslash{}evil\{\$x\$\}\_a\textasciicircum{}b\textasciitilde{}c" in tex
    assert not [file for file in tmp_path.iterdir() if file.name != "results"]


# Honesty.


def test_unfinished_sweep_has_a_banner_and_dashes(tmp_path: Path) -> None:
    paths = typical().write(tmp_path)
    paths.cell("c0007").unlink()
    write_report(paths)
    for file in (paths.report_md, paths.report_html):
        text = file.read_text(encoding="utf-8")
        assert "Unfinished:" in text and "8 of 64 runs are missing" in text and "c0007" in text
        assert "— (n=0)" in text


def test_finished_sweep_has_no_banner(usual: ResultPaths) -> None:
    assert "Unfinished" not in usual.report_md.read_text(encoding="utf-8")


def test_sweep_without_confirm_phase_says_so(tmp_path: Path) -> None:
    paths = no_confirm(tmp_path)
    write_report(paths)
    text = paths.report_md.read_text(encoding="utf-8")
    assert (
        "has no confirm phase" in text and "Mean validation score" in text and "validation accuracy" in text
    )
    assert not re.search(r"\btest\b", text.split("## What was tuned")[0].split("0.800 (n=1)", 1)[1])


def test_failures_show_where_the_score_would_be(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": ["diverged"] * 3, "b": [0.5, 0.6, 0.7]}}).write(tmp_path)
    write_report(paths)
    text = paths.report_md.read_text(encoding="utf-8")
    assert "— (n=0) · 3 diverged" in text and "the run diverged" in text


def test_configurations_are_capped_and_it_is_said(tmp_path: Path) -> None:
    paths = Sweep({"t": {"a": [0.8, 0.7, 0.9]}}, rates=[i / 1000 for i in range(1, 41)]).write(tmp_path)
    write_report(paths)
    text = paths.report_md.read_text(encoding="utf-8")
    assert "32 more are left out here (at most 8 per cell); all are in trials.parquet" in text


# Drawings.


def test_drawings_stand_alone_and_carry_their_numbers(usual: ResultPaths) -> None:
    svg = (usual.figures / "forest-bbc-topics.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    words = "".join(root.itertext())
    assert "equivalent (exploratory)" in words and "head-only" in words and "±δ" in words
    assert "metadata" not in svg
    numbers = (usual.figures / "forest-bbc-topics.csv").read_text(encoding="utf-8")
    rows = {row["strategy"]: row for row in csv.DictReader(io.StringIO(numbers))}
    assert set(rows) == {"head-only", "top-2", "full-l2sp"}
    assert float(rows["head-only"]["difference"]) == pytest.approx(-0.0616)
    assert float(rows["head-only"]["ci_high"]) < 0 and len(rows["top-2"]["seed_differences"].split()) == 5


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_report(alone(tmp_path))
    assert dict(matplotlib.rcParams) == before


# Rendering.


def test_slugs_are_safe_and_distinct() -> None:
    names = ["a", "A", "a b", "a-b", "a/b", "../a", "", "é", "x" * 200, "x" * 201, HOSTILE]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]{1,80}", text) for text in slugs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("full_l2_sp", "full_l2_sp"),
        ("_a_", r"\_a\_"),
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("# x", r"\# x"),
        ("1. x", r"1\. x"),
        ("- x", r"\- x"),
        ("-0.1", "-0.1"),
        ("0.01", "0.01"),
        ("a\nb", "a b"),
    ],
)
def test_markdown_text(text: str, expected: str) -> None:
    assert render.markdown_text(text) == expected


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="has not 2 cells"):
        Table("t", ("a", "b"), (("1",),), "caption")


# Scale.


def test_many_trials_stay_small_and_quick(tmp_path: Path) -> None:
    rates = [i / 1000 for i in range(1, 101)]
    scores: dict[str, Any] = {f"s{i}": [0.8, 0.81, 0.83] for i in range(5)}
    paths = Sweep({"t": scores, "u": scores}, rates=rates).write(tmp_path)
    start = time.perf_counter()
    write_report(paths)
    assert time.perf_counter() - start < 15
    assert paths.report_html.stat().st_size < 300_000


def test_changed_records_change_the_report(tmp_path: Path) -> None:
    paths = alone(tmp_path)
    assert write_report(paths)["tasks"]["t"]["scores"]["a"]["mean"] == 0.8
    change(paths.trial("c0000-confirm-0000"), metrics={"validation": None, "test": {"accuracy": 0.5}})
    assert write_report(paths)["tasks"]["t"]["scores"]["a"]["mean"] == 0.5
