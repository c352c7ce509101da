"""The page in a browser: valid, self-contained, readable anywhere, and what its script does."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import pytest
from browser import CHROMIUM, Browser, browser
from PIL import Image, ImageStat
from report_fixtures import HOSTILE, LATEX, Sweep, hostile, typical

from harness.records.paths import ResultPaths
from harness.report import build, page
from harness.report.blocks import Figure, Paragraph, Table, slug
from harness.report.build import write_report
from harness.report.figures import Line, curves

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
KINDS = {"typical": lambda root: typical().write(root), "hostile": hostile}


class Page(html.parser.HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)


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


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


# As text.


def test_html_is_valid(written: ResultPaths) -> None:
    html5lib.HTMLParser(strict=True).parse(written.report_html.read_text(encoding="utf-8"))


def test_html_refers_to_nothing_outside(written: ResultPaths) -> None:
    text = written.report_html.read_text(encoding="utf-8")
    found = Page(text)
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form", "image"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action"):
                assert value is not None and value.startswith("#"), (tag, value)
            assert "url(" not in (value or "") or "url(#" in (value or "")
    assert "@import" not in text and "url(" not in text.split("<style>")[1].split("</style>")[0]
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a.get(name) or "" for _, a in found.tags for name in ("href", "aria-labelledby")]
    assert {name.removeprefix("#") for name in named if name} <= set(ids)


def test_one_script_that_the_policy_knows(written: ResultPaths) -> None:
    found = Page(written.report_html.read_text(encoding="utf-8"))
    assert [attributes for tag, attributes in found.tags if tag == "script"] == [{}]
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256("".join(found.scripts).encode()).digest()).decode()
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert HOSTILE not in "".join(found.scripts)


def test_without_the_script_nothing_pretends_to_work(usual: ResultPaths) -> None:
    found = Page(usual.report_html.read_text(encoding="utf-8"))
    assert not [
        tag for tag, attributes in found.tags if tag == "button" or attributes.get("role") == "button"
    ]
    assert next(a for t, a in found.tags if t == "details") == {"id": "strategies", "hidden": None}


def test_too_many_drawings_are_shared_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def chapter(name: str, count: int) -> tuple[str, str, list[Any]]:
        line = [Line("a", 0, ((0.0, 1.0), (1.0, 2.0)))]
        drawings = [curves(f"{name}{i}", "t", line, "x", "y", False) for i in range(count)]
        return name, name, [Figure(d.name, d, "alt", "caption", d.data) for d in drawings]

    monkeypatch.setattr(build, "FIGURES", 6)
    chapters = [chapter("a", 1), chapter("b", 9), ("c", "c", [Paragraph("text")]), chapter("d", 3)]
    kept = build._fewer_figures(chapters)
    assert [[b.name for b in blocks if isinstance(b, Figure)] for _, _, blocks in kept] == [
        ["a0"], ["b0", "b1", "b2"], [], ["d0", "d1"]
    ]  # fmt: skip
    said = [block.text for _, _, blocks in kept for block in blocks if isinstance(block, Paragraph)]
    assert [text.split(" left")[0] for text in said] == ["6 more drawings are", "text", "1 more drawings are"]
    monkeypatch.setattr(build, "FIGURES", 13)
    assert build._fewer_figures(chapters) == chapters


@pytest.mark.long
@pytest.mark.slow
def test_ten_thousand_trials_stay_light(tmp_path: Path) -> None:
    rates = [i / 1e5 for i in range(1, 246)]
    scores = {f"strategy {i}": [0.8, 0.81, 0.83, 0.82, 0.8] for i in range(4)}
    paths = Sweep({f"task {i}": scores for i in range(10)}, rates=rates).write(tmp_path)
    assert len(list(paths.trials.iterdir())) == 10_000
    write_report(paths)
    assert paths.report_html.stat().st_size < 3_000_000
    drawn = list(paths.figures.glob("*.svg"))
    assert 40 <= len(drawn) <= build.FIGURES
    assert {file.stem for file in drawn} == {file.stem for file in paths.figures.glob("*.pdf")}


# In a browser.


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_shows_without_complaint(tab: Browser, written: ResultPaths, width: int, dark: bool) -> None:
    tab.open(written.report_html, width, dark=dark)
    assert tab.messages() == []
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth") == width, "the page itself never scrolls sideways"
    wide = tab.run(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"
    )
    assert wide == []
    assert tab.run("document.querySelectorAll('main img, main script').length") == 0


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
def test_the_first_screen_holds_the_answer(tab: Browser, usual: ResultPaths, width: int) -> None:
    tab.open(usual.report_html, width, height=900)
    lead = "document.querySelector('.lead').getBoundingClientRect()"
    assert 0 < tab.run(f"{lead}.top") < tab.run(f"{lead}.bottom") < 600
    top = "document.querySelector('#matrix').getBoundingClientRect().top"
    assert width == 400 or tab.run(top) < 900


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_marks_stand_out(tab: Browser, usual: ResultPaths, dark: bool) -> None:
    tab.open(usual.report_html, 1400, dark=dark)
    page_, *colours = (
        tab.run(
            f"(document.body.style.outlineColor = 'var(--{name})', "
            "getComputedStyle(document.body).outlineColor.match(/[0-9.]+/g).map(Number))"
        )
        for name in ["page", "ink", "soft", "link", "c0", "c1", "c2", "c3", "c4", "c5", "c6"]
    )
    contrasts = [_contrast(page_, colour) for colour in colours]
    assert _luminance(page_) < 0.05 if dark else _luminance(page_) > 0.9
    assert all(ratio >= 4.5 for ratio in contrasts[:3]), contrasts
    assert all(ratio >= 3 for ratio in contrasts[3:]), contrasts
    # the words of a drawing take the page's colour, and its paper does
    fill = "getComputedStyle(document.querySelector('figure svg {0}')).fill"
    assert tab.run(fill.format("text")) in [f"rgb({r}, {g}, {b})" for r, g, b in colours[:2]]
    assert tab.run(fill.format("path")) == "rgb({}, {}, {})".format(*page_)


def _luminance(colour: list[float]) -> float:
    """WCAG's relative luminance of an sRGB colour in 0 to 255."""
    parts = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: list[float], two: list[float]) -> float:
    low, high = sorted((_luminance(one), _luminance(two)))
    return (high + 0.05) / (low + 0.05)


@needs_browser
def test_printed_tables_are_not_cut(tab: Browser, usual: ResultPaths) -> None:
    tab.open(usual.report_html, 650)  # an A4 page between its margins
    tab.call("Emulation.setEmulatedMedia", media="print")
    cut = tab.run(
        "[...document.querySelectorAll('table, figure svg')]"
        ".filter(e => e.getBoundingClientRect().right > 651).map(e => e.outerHTML.slice(0, 150))"
    )
    assert cut == []
    assert tab.run("getComputedStyle(document.querySelector('.side')).display") == "none"
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@needs_browser
def test_headings_come_again_on_every_printed_page(tab: Browser, tmp_path: Path) -> None:
    long = Table("t", ("name", "value"), tuple((f"row {i}", str(i)) for i in range(200)), "caption")
    file = tmp_path / "page.html"
    file.write_text(page.html("t", [("a", "A", [long])], []), encoding="utf-8")
    tab.open(file, 1400)
    assert tab.run("document.querySelectorAll('thead [role=button]').length") == 2
    tab.call("Emulation.setEmulatedMedia", media="print")
    # Chromium repeats a heading without the form controls in it.
    assert tab.run("document.querySelectorAll('thead :is(button, input, select)').length") == 0
    assert tab.run("getComputedStyle(document.querySelector('thead')).display") == "table-header-group"


@needs_browser
def test_the_keyboard_reaches_everything(tab: Browser, usual: ResultPaths) -> None:
    tab.open(usual.report_html, 1400)
    tab.press("Tab", 9)
    assert tab.run("document.activeElement.textContent") == "Skip to the answer"
    assert tab.run("document.activeElement.getBoundingClientRect().left") >= 0
    tab.press("Enter", 13)
    assert tab.run("location.hash") == "#answer"
    tab.press("Tab", 9)
    assert tab.run("document.activeElement.matches('main .scroll')"), "past the contents"
    unreachable = tab.run("[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex < 0).length")
    assert unreachable == 0


TABLE = Table(
    "t",
    ("name", "value", "time"),
    (
        ("b", "−0.5 ± 0.1", "90 s"),
        ("a", "—", "2.0 min"),
        ("d", "< 0.001", "—"),
        ("c10", "+1,200", "1 h"),
        ("c9", "0.25", "3 s"),
    ),
    "caption",
)


def column(tab: Browser, place: int) -> list[str]:
    cells = f"[...document.querySelectorAll('tbody tr')].map(row => row.cells[{place}].textContent)"
    return list(tab.run(cells))


@needs_browser
def test_tables_sort_by_click_and_by_key(tab: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page.html("t", [("a", "A", [TABLE])], []), encoding="utf-8")
    tab.open(file, 1400)
    original = column(tab, 0)

    def click(place: int) -> str | None:
        tab.run(f"document.querySelectorAll('thead [role=button]')[{place}].click()")
        states = tab.run("[...document.querySelectorAll('thead th')].map(th => th.getAttribute('aria-sort'))")
        assert [state for i, state in enumerate(states) if i != place] == [None, None]
        return states[place]

    assert click(1) == "ascending"
    assert column(tab, 1) == ["−0.5 ± 0.1", "< 0.001", "0.25", "+1,200", "—"]
    assert click(1) == "descending"
    assert column(tab, 1) == ["+1,200", "0.25", "< 0.001", "−0.5 ± 0.1", "—"], "absent stays last"
    assert click(1) is None and column(tab, 0) == original
    assert click(2) == "ascending" and column(tab, 2) == ["3 s", "90 s", "2.0 min", "1 h", "—"]
    assert click(0) == "ascending" and column(tab, 0) == ["a", "b", "c9", "c10", "d"]
    tab.run("document.querySelectorAll('thead [role=button]')[1].focus()")
    tab.press("Enter", 13)
    assert column(tab, 1)[0] == "−0.5 ± 0.1"
    assert tab.messages() == []


VISIBLE = "[...document.querySelectorAll('{}')].filter(e => getComputedStyle(e).display !== 'none').length"


@needs_browser
@pytest.mark.parametrize("kind", ["typical", "hostile"])
def test_a_strategy_can_be_hidden_everywhere(tab: Browser, tmp_path: Path, kind: str) -> None:
    paths = KINDS[kind](tmp_path)
    write_report(paths)
    name, other = ("top-2", "full") if kind == "typical" else (LATEX, HOSTILE)
    tab.open(paths.report_html, 1400)
    assert not tab.run("document.getElementById('strategies').hidden")
    gone = VISIBLE.format(f".of-{slug(name)}")
    stays = VISIBLE.format(f".of-{slug(other)}:not(.of-{slug(name)})")  # what is both's goes with either
    before, beside = tab.run(gone), tab.run(stays)
    assert before > 10
    for where in ("tr", "svg g"):
        assert tab.run(f"document.querySelectorAll('main {where}.of-{slug(name)}').length") > 1
    box = f"document.querySelector('input[value=\"of-{slug(name)}\"]')"
    tab.run(f"{box}.click()")
    assert tab.run(gone) == 0 and tab.run(stays) == beside
    tab.run(f"{box}.click()")
    assert tab.run(gone) == before
    assert tab.messages() == []


@needs_browser
def test_columns_of_strategies_hide_too(tab: Browser, tmp_path: Path) -> None:
    wide = Table("t", ("task", "a", "b"), (("x", "0.1", "0.2"), ("y", "0.3", "0.4")), "caption")
    file = tmp_path / "page.html"
    file.write_text(page.html("t", [("a", "A", [wide])], ["a", "b"]), encoding="utf-8")
    tab.open(file, 1400)
    tab.run("document.querySelector('input').click()")
    shown = "[...document.querySelectorAll('th, td')].filter(e => e.offsetWidth).map(e => e.textContent)"
    assert tab.run(shown) == ["task", "b", "x", "0.2", "y", "0.4"]


@needs_browser
def test_marks_say_what_they_are(tab: Browser, usual: ResultPaths) -> None:
    tab.open(usual.report_html, 1400)
    titles = tab.run("[...document.querySelectorAll('svg use > title')].map(title => title.textContent)")
    assert any(re.fullmatch(r"top-2, seed 10\d: 0\.9\d+", title) for title in titles)
    assert tab.run("[...document.querySelectorAll('svg title')].every(t => t.namespaceURI.endsWith('svg'))")


@needs_browser
def test_the_dark_page_is_dark(tab: Browser, usual: ResultPaths, tmp_path: Path) -> None:
    for dark in (False, True):
        tab.open(usual.report_html, 1400, dark=dark)
        tab.screenshot(tmp_path / "page.png")
        picture = Image.open(tmp_path / "page.png").convert("L")
        assert picture.size == (1400, 900)
        assert ImageStat.Stat(picture).mean[0] < 60 if dark else ImageStat.Stat(picture).mean[0] > 220
