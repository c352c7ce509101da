"""The report as files: complete, safe against hostile names, deterministic, small."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from report_fixtures import HOSTILE, LATEX, Sweep, change, hostile, typical

from harness.analysis.study import Study, load_study
from harness.analysis.verdicts import judge
from harness.errors import InputError
from harness.records.paths import ResultPaths
from harness.registry import PluginError, _plugins
from harness.report import render
from harness.report.blocks import Figure, Paragraph, Table, slug
from harness.report.build import write_report
from harness.report.section import Section, find_sections


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
def judged(written: ResultPaths) -> tuple[Study, Any]:
    study = load_study(written)
    return study, judge(study)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> ResultPaths:
    paths = typical().write(tmp_path_factory.mktemp("results"))
    write_report(paths)
    return paths


# Conformance of every section that is registered, on every kind of results.


@pytest.mark.parametrize("section", find_sections(), ids=lambda section: section.name)
def test_section_builds_well_formed_blocks(section: Section, judged: tuple[Study, Any]) -> None:
    blocks = list(section.build(*judged))
    assert all(isinstance(block, (Paragraph, Table, Figure)) for block in blocks)
    for block in blocks:
        if isinstance(block, Paragraph):
            assert block.text.strip()
            continue
        assert block.caption.strip()
        if isinstance(block, Figure):
            ElementTree.fromstring(block.drawing.svg)
            assert block.alt.strip()
            assert re.search(r"n = \d", block.caption) and "interval" in block.caption
            assert re.search(r"n (test|validation) = \d+ examples", block.caption)
            assert len({len(row) for row in block.data}) == 1 and len(block.data) > 1


def test_sections_come_in_the_promised_order() -> None:
    names = [section.name for section in find_sections()]
    promised = ["answer", "matrix", "differences", "seeds", "cost", "kept", "progress", "tuned", "responses"]
    promised += ["coverage", "provenance"]
    assert [name for name in names if name in promised] == promised
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
    drawings = {file.stem for file in written.figures.glob("*.svg")}
    for kind in ("pdf", "csv"):
        assert {file.stem for file in written.figures.glob(f"*.{kind}")} == drawings
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


def test_html_shows_the_answer_before_anything_else(usual: ResultPaths) -> None:
    page = Page(usual.report_html.read_text(encoding="utf-8"))
    verdicts = json.loads(usual.verdicts.read_text(encoding="utf-8"))
    sentences = [task["sentence"] for task in verdicts["tasks"].values()]
    places = [page.text.index(sentence) for sentence in sentences]
    assert places == sorted(places) and places[-1] < page.text.index("0.951 ± 0.006 (n=5) · leader")
    assert ("html", {"lang": "en"}) in page.tags
    svgs = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(svgs) >= 8 and all(attributes.get("role") == "img" for attributes in svgs)
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
    assert "confirm the winners on 5 fresh seeds and on test" in text
    results = text.split("## Strategies")[1].split("## What was tuned")[0]
    assert "0.800 (n=1)" in results and not re.search(r"\btest\b", results)


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


# What the sections draw.


def drawn(section: str, study: Study) -> list[Figure]:
    found = next(s for s in find_sections() if s.name == section).build(study, judge(study))
    return [block for block in found if isinstance(block, Figure)]


def table(figure: Figure) -> list[dict[str, str]]:
    header, *rows = figure.data
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_strips_hold_every_headline_run(tmp_path: Path) -> None:
    study = load_study(typical().write(tmp_path))
    first, second = drawn("seeds", study)
    runs = study.frame[(study.frame["phase"] == "confirm") & (study.frame["task"] == "tweet-sentiment")]
    expected = {
        (row.strategy, str(row.seed), "" if row.status != "finished" else repr(row.score_test), row.status)
        for row in runs.itertuples()
    }
    assert {tuple(row.values()) for row in table(second)} == expected and len(expected) == 20
    assert "1 run without a score" in second.caption and "without a score" not in first.caption


def test_strips_of_a_sweep_without_confirm_phase_show_the_winners_tune_runs(tmp_path: Path) -> None:
    scores = {"t": {"a": [0.8, "diverged", 0.7], "b": [0.5, 0.6, 0.7]}}
    (figure,) = drawn("seeds", load_study(Sweep(scores, confirm=0).write(tmp_path)))
    rows = [(row["strategy"], row["seed"], row["score"], row["fate"]) for row in table(figure)]
    assert rows[:3] == [
        ("a", "0", "0.8", "finished"),
        ("a", "2", "0.7", "finished"),
        ("a", "1", "", "diverged"),
    ]
    assert [row[2] for row in rows[3:]] == ["0.5", "0.6", "0.7"]


def tuned(root: Path, settings: list[tuple[dict[str, Any], float | str, float]]) -> Study:
    """One cell whose tune trials, in this order, had these settings, outcomes and device seconds."""
    paths = Sweep(
        {"t": {"a": [0.8, 0.8, 0.8]}}, rates=[i / 10 for i in range(len(settings))], winner=0
    ).write(root)
    cell = json.loads(paths.cell("c0000").read_text(encoding="utf-8"))
    for entry, (setting, outcome, seconds) in zip(cell["tune"], settings, strict=True):
        entry["hyperparameters"] = setting
        entry["seed"] = sum(other == setting for other, _, _ in settings[: cell["tune"].index(entry)])
        record = json.loads(paths.trial(entry["trial_id"]).read_text(encoding="utf-8"))
        status = outcome if isinstance(outcome, str) else "finished"
        metrics = {"validation": {"accuracy": outcome} if status == "finished" else None, "test": None}
        cost = {**record["cost"], "device_s": seconds}
        change(paths.trial(entry["trial_id"]), status=status, metrics=metrics, cost=cost)
    change(paths.cell("c0000"), tune=cell["tune"])
    study = load_study(paths)
    places = {entry["trial_id"]: float(i) for i, entry in enumerate(cell["tune"])}
    return replace(
        study, frame=study.frame.assign(asked=[places.get(t, 0.0) for t in study.frame["trial_id"]])
    )


def test_responses_are_means_over_what_was_tuned(tmp_path: Path) -> None:
    def study(name: str, settings: list[dict[str, Any]]) -> Study:
        return tuned(tmp_path / name, [(setting, 0.5 + i / 100, 1.0) for i, setting in enumerate(settings)])

    (one,) = drawn("responses", study("one", [{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.2}]))
    assert [(row["x"], row["y"], float(row["mean"])) for row in table(one)] == [
        ("0.1", "", pytest.approx(0.505)), ("0.2", "", pytest.approx(0.52))
    ]  # fmt: skip
    two = [
        {"optimizer.learning_rate": rate, "freeze": depth, "x": 1}
        for rate in (1e-4, 1e-3)
        for depth in (0, "all")
    ]
    (both,) = drawn("responses", study("two", two))
    assert "against freeze and optimizer.learning_rate, means" in both.caption
    assert {(row["x"], row["y"]) for row in table(both)} == {
        ("0.0", "0.0001"), ("all", "0.0001"), ("0.0", "0.001"), ("all", "0.001")
    }  # fmt: skip
    three = [{**setting, "x": i % 3} for i, setting in enumerate([*two, *two])]
    (many,) = drawn("responses", study("three", three))
    assert "tune seeds and over x;" in many.caption and len(table(many)) == 4
    assert [float(row["mean"]) for row in table(many)] == pytest.approx([0.52, 0.53, 0.54, 0.55])
    assert drawn("responses", study("none", [{"lr": 0.1}, {"lr": 0.1}])) == []


def test_progress_is_a_single_run_of_the_search(tmp_path: Path) -> None:
    settings: list[tuple[dict[str, Any], float | str, float]] = [
        ({"lr": 0.4}, 0.6, 1.0),
        ({"lr": 0.3}, "diverged", 2.0),
        ({"lr": 0.2}, 0.9, 4.0),  # its other seed is to come: counts when that has finished
        ({"lr": 0.1}, 0.5, 8.0),
        ({"lr": 0.2}, 0.7, 16.0),
        ({"lr": 0.05}, "stopped", 32.0),
    ]
    study = tuned(tmp_path, settings)
    (figure,) = drawn("progress", study)
    steps = [(float(row["x"]), float(row["y"])) for row in table(figure)]
    assert steps == [(1.0, 0.6), (31.0, pytest.approx(0.8)), (63.0, pytest.approx(0.8))]
    assert "A single run of the search, never an average" in figure.caption
    assert drawn("progress", replace(study, frame=study.frame.drop(columns="asked"))) == [], (
        "no order, no line"
    )


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


def test_many_trials_stay_small(tmp_path: Path) -> None:
    rates = [i / 1000 for i in range(1, 101)]
    scores: dict[str, Any] = {f"s{i}": [0.8, 0.81, 0.83] for i in range(5)}
    paths = Sweep({"t": scores, "u": scores}, rates=rates).write(tmp_path)
    write_report(paths)
    assert paths.report_html.stat().st_size < 400_000


def test_changed_records_change_the_report(tmp_path: Path) -> None:
    paths = alone(tmp_path)
    assert write_report(paths)["tasks"]["t"]["scores"]["a"]["mean"] == 0.8
    change(paths.trial("c0000-confirm-0000"), metrics={"validation": None, "test": {"accuracy": 0.5}})
    assert write_report(paths)["tasks"]["t"]["scores"]["a"]["mean"] == 0.5
