"""The drawings: what they show is what their numbers say, whatever the names, however many."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from harness.report import figures
from harness.report.blocks import slug
from harness.report.drawings.canvas import MOST, shorter, style
from harness.report.figures import Bar, Drawing, ForestRow, Line, Panel, Point, Rank, StripRow

SVG = "{http://www.w3.org/2000/svg}"
PLAIN = ["head-only", "top-2", "full", "full-l2sp"]
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    r"50% $x$ #1 \evil_{a}^b",
    "a\x00\x1b\n| `b`",
    "",
    "日本語",
]
NAN = float("nan")


def noise(i: int, j: int) -> float:
    """Numbers without a pattern that a mistake could keep."""
    return math.sin(12.9898 * i + 78.233 * j) / 20


def forest(names: Sequence[str]) -> Drawing:
    rows = [
        ForestRow(
            n,
            i,
            noise(i, 0),
            (noise(i, 0) - 0.02, noise(i, 0) + 0.01),
            tuple(noise(i, k) for k in (1, 2, 3)),
            "worse",
        )
        for i, n in enumerate(names)
    ]
    return figures.forest("d", names[0], rows, names[-1], 0.01)


def pareto(names: Sequence[str]) -> Drawing:
    points = [Point(n, i, 3.0 * 4**i, 0.8 + noise(i, 0), (0.7, 0.9), i < 2) for i, n in enumerate(names)]
    return figures.pareto("d", names[0], points, "seconds", names[-1])


def lines(names: Sequence[str]) -> list[Line]:
    return [Line(n, i, tuple((float(k), noise(i, k)) for k in (0, 1, 3, 4, 7))) for i, n in enumerate(names)]


def curves(names: Sequence[str]) -> Drawing:
    return figures.curves("d", names[0], lines(names), "rungs", names[-1], False)


def best_so_far(names: Sequence[str]) -> Drawing:
    return figures.best_so_far("d", names[0], lines(names), "seconds", names[-1])


def strips(names: Sequence[str]) -> Drawing:
    rows = [
        StripRow(n, i, tuple((k, noise(i, k)) for k in range(5)), ((7, "diverged"),) if i == 1 else ())
        for i, n in enumerate(names)
    ]
    return figures.strips("d", names[0], rows, names[-1])


def heat(names: Sequence[str]) -> Drawing:
    size = range(len(names))
    values = [[None if i == j else 0.5 + 9 * noise(i, j) for j in size] for i in size]
    return figures.heat("d", names[0], names, values, names[-1])


def response(names: Sequence[str]) -> Drawing:
    panels = [
        Panel(n, i, tuple((x, None, noise(i, k)) for k, x in enumerate((1e-5, 1e-4, 1e-2))))
        for i, n in enumerate(names)
    ]
    return figures.response("d", names[0], panels, (names[-1], None), "accuracy")


def grid(names: Sequence[str]) -> Drawing:
    panels = [
        Panel(
            n, i, tuple((x, y, noise(i, k + 2 * y)) for k, x in enumerate((0.5, 1.0, "all")) for y in (0, 1))
        )
        for i, n in enumerate(names)
    ]
    return figures.response("d", names[0], panels, ("freeze", names[-1]), "accuracy", -1)


def bars(names: Sequence[str]) -> Drawing:
    entries = [Bar(n, 0.1 + i / 10, (i / 10, 0.2 + i / 10) if i else None) for i, n in enumerate(names)]
    return figures.bars("d", names[0], entries, names[-1])


def critical(names: Sequence[str]) -> Drawing:
    ranks = [Rank(n, i, 1 + i + noise(i, 1)) for i, n in enumerate(names)]
    return figures.critical("d", names[0], ranks, [list(names[:2]), list(names[1:4]), list(names[:1])])


KINDS: dict[str, Callable[[Sequence[str]], Drawing]] = {
    function.__name__: function
    for function in (forest, pareto, curves, best_so_far, strips, heat, response, grid, bars, critical)
}


def marks(drawing: Drawing, word: str = "") -> list[tuple[str, float, float]]:
    """(what it says when pointed at, x, y) of every mark, in the order of drawing."""
    found = []
    for use in ElementTree.fromstring(drawing.svg).iter(f"{SVG}use"):
        title = use.findtext(f"{SVG}title") or ""
        if title and word in title:
            found.append((title, float(use.attrib["x"]), float(use.attrib["y"])))
    return found


def words(drawing: Drawing) -> str:
    return "\n".join(ElementTree.fromstring(drawing.svg).itertext())


def rows(drawing: Drawing) -> list[dict[str, str]]:
    header, *body = drawing.data
    return [dict(zip(header, row, strict=True)) for row in body]


def on_one_scale(values: Sequence[float], pixels: Sequence[float]) -> None:
    """Pixels are the values, but for zero and unit (and for rounding to a hundredth of a point)."""
    assert len(values) == len(pixels) >= 3 and np.ptp(values) > 0 and np.ptp(pixels) > 10
    fit = np.polyfit(values, pixels, 1)
    np.testing.assert_allclose(np.polyval(fit, values), pixels, atol=0.02)


def numbers(drawing: Drawing, column: str) -> list[float]:
    return [float(row[column]) for row in rows(drawing) if row[column]]


@pytest.mark.parametrize("kind", KINDS)
def test_same_values_give_the_same_bytes_without_a_date(kind: str) -> None:
    one, two = KINDS[kind](PLAIN), KINDS[kind](PLAIN)
    assert one.svg == two.svg and one.pdf == two.pdf and one.data == two.data
    assert one.pdf.startswith(b"%PDF") and b"CreationDate" not in one.pdf
    assert "metadata" not in one.svg and "date" not in one.svg
    assert KINDS[kind](PLAIN[::-1]).svg != one.svg


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_stay_text(kind: str) -> None:
    drawing = KINDS[kind](HOSTILE)
    root = ElementTree.fromstring(drawing.svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "g", "path", "defs", "use", "text", "style", "title", "clipPath", "rect", "tspan"
    }  # fmt: skip
    assert "<img" not in drawing.svg and "\x00" not in drawing.svg and "\x1b" not in drawing.svg
    assert "日本語" in words(drawing) and r"50% $x$ #1 \evil_{a}^b" in words(drawing)
    assert all(name in {cell for row in drawing.data for cell in row} for name in HOSTILE)
    owned = {name for element in root.iter() for name in element.get("class", "").split()}
    assert kind == "bars" or {f"of-{slug(name)}" for name in HOSTILE} <= owned


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, pytest.param(MOST, marks=pytest.mark.long)])
def test_one_row_and_many_rows(kind: str, count: int) -> None:
    names = [f"strategy number {i} of quite a few, all alike in how they begin" for i in range(count)]
    drawing = KINDS[kind](names)
    text = words(drawing)
    assert text.count("strategy number") >= count
    assert drawing.pdf.startswith(b"%PDF")
    if kind != "heat":  # a square of forty grows; the page scrolls it
        width = float(ElementTree.fromstring(drawing.svg).attrib["width"].removesuffix("pt"))
        assert width < 72 * 8, "names widen no drawing"


@pytest.mark.parametrize("kind", KINDS)
def test_words_have_eight_points_and_marks_have_words(kind: str) -> None:
    drawing = KINDS[kind](PLAIN)
    sizes = [float(size) for size in re.findall(r"font(?:-size)?:[^;\"]*?([\d.]+)px", drawing.svg)]
    assert sizes and min(sizes) >= 8
    titles = [title.text or "" for title in ElementTree.fromstring(drawing.svg).iter(f"{SVG}title")]
    assert all(any(name in title for title in titles) for name in PLAIN)


def test_nothing_is_drawn_where_there_is_no_number() -> None:
    drawings = [
        figures.forest("d", "t", [ForestRow("a", 0, None, None, (NAN,), "not compared")], "x", 0.01),
        figures.pareto("d", "t", [Point("a", 0, 1, y, None, True) for y in (NAN, 2.0)], "x", "y"),
        figures.curves("d", "t", [Line("a", 0, ((1, NAN), (NAN, 1))), Line("b", 1, ())], "x", "y", True),
        figures.strips("d", "t", [StripRow("a", 0, ((0, NAN),)), StripRow("b", 1, ())], "x"),
        figures.heat("d", "t", ["a", "b"], [[None, NAN], [0.25, None]], "x"),
        figures.response("d", "t", [Panel("a", 0, ((1.0, None, NAN),))], ("x", None), "y"),
        figures.bars("d", "t", [Bar("a", NAN)], "x"),
        figures.critical("d", "t", [Rank("a", 0, NAN)], [["a", "b"]]),
    ]  # fmt: skip
    for drawing in drawings:
        assert not re.search(r"\b(nan|inf|None)\b", words(drawing) + str(drawing.data))
        assert not re.search(r'"[^"]*\bnan\b[^"]*"', drawing.svg)
    assert [len(marks(drawing)) for drawing in drawings] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert drawings[4].data[1:] == (("b", "a", "0.25"),) and "0.25" in words(drawings[4])


# What is drawn is what the CSV says.


def test_forest_is_its_numbers() -> None:
    drawing = forest(PLAIN)
    seeds = [float(seed) for row in rows(drawing) for seed in row["seed_differences"].split()]
    bounds = [float(row[side]) for row in rows(drawing) for side in ("ci_low", "ci_high")]
    centre = [x for title, x, _ in marks(drawing) if title.endswith("worse")]
    dots = [x for _, x, _ in marks(drawing, "one seed")]
    values, pixels = numbers(drawing, "difference") + seeds, centre + dots
    on_one_scale(values, pixels)
    fit = np.polyfit(values, pixels, 1)
    paths = re.findall(r'd="M ([\d.]+) [\d.]+ \s*L ([\d.]+) [\d.]+ \s*"[^>]*stroke-width: 1.8', drawing.svg)
    np.testing.assert_allclose([float(x) for path in paths for x in path], np.polyval(fit, bounds), atol=0.02)


def test_pareto_is_its_numbers() -> None:
    drawing = pareto(PLAIN)
    _, xs, ys = zip(*marks(drawing), strict=True)
    on_one_scale([math.log(cost) for cost in numbers(drawing, "device_s")], xs)
    on_one_scale(numbers(drawing, "score"), ys)


@pytest.mark.parametrize("kind", ["curves", "best_so_far"])
def test_lines_are_their_numbers(kind: str) -> None:
    drawing = KINDS[kind](PLAIN)
    _, xs, ys = zip(*marks(drawing), strict=True)
    on_one_scale(numbers(drawing, "y"), ys)
    if kind == "curves":
        on_one_scale(numbers(drawing, "x"), xs)
    else:  # logarithmic beyond 1, with room for 0
        assert np.all(np.diff(xs[:5]) > 0) and len(set(np.reshape(xs, (4, 5))[:, 2])) == 1


def test_steps_hold_what_was_reached() -> None:
    drawing = figures.best_so_far("d", "t", [Line("a", 0, ((1.0, 0.5), (3.0, 0.75)))], "x", "y")
    (_, left, low), (_, right, high) = marks(drawing)
    path = next(p for p in re.findall(r'd="(M[^"]*)"', drawing.svg) if len(p.split("L")) == 3)
    corners = [tuple(map(float, corner.split())) for corner in re.split("[ML]", path)[1:]]
    assert corners == [(left, low), (right, low), (right, high)]


def test_strips_are_their_numbers() -> None:
    drawing = strips(PLAIN)
    drawn = {title: x for title, x, _ in marks(drawing, ", seed")}
    finished = [row for row in rows(drawing) if row["fate"] == "finished"]
    pixels = [
        next(x for title, x in drawn.items() if title.startswith(f"{row['strategy']}, seed {row['seed']}:"))
        for row in finished
    ]
    on_one_scale([float(row["score"]) for row in finished], pixels)
    lost = [row for row in rows(drawing) if row["fate"] != "finished"]
    assert lost == [{"strategy": "top-2", "seed": "7", "score": "", "fate": "diverged"}]
    assert drawn["top-2, seed 7: diverged"] < min(pixels) - 10, "beyond the break"
    assert "no score" in words(drawing) and "no score" not in words(strips(["a"]))


def test_no_seed_hides_another() -> None:
    row = StripRow("a", 0, ((0, 0.5), (1, 0.5), (2, 0.5), (3, 0.9)))
    places = [(x, y) for _, x, y in marks(figures.strips("d", "t", [row], "x"), ", seed")]
    assert len(set(places)) == 4 and len({x for x, _ in places}) == 2


def test_heat_is_its_numbers() -> None:
    drawing = heat(PLAIN)
    shown = [line for line in words(drawing).splitlines() if re.fullmatch(r"\d\.\d\d", line)]
    assert shown == [f"{value:.2f}" for value in numbers(drawing, "value")] and len(shown) == 12
    titles = [title.text for title in ElementTree.fromstring(drawing.svg).iter(f"{SVG}title")]
    assert titles == [f"{r['row']} > {r['column']}: {float(r['value']):.3g}" for r in rows(drawing)]
    above = [float(row["value"]) > 0.5 for row in rows(drawing)]
    fills = re.findall(r"fill: (#[0-9a-f]{6}); opacity", drawing.svg)
    assert [fill == "#0072b2" for fill in fills] == above and {*above} == {True, False}


def test_response_panels_share_one_scale() -> None:
    drawing = response(PLAIN)
    values, drawn = numbers(drawing, "mean"), marks(drawing)
    assert len(drawn) == len(values) == 12
    ys = np.reshape([y for _, _, y in drawn], (4, 3))
    for left, right in ((0, 1), (2, 3)):  # panels side by side
        on_one_scale(values[3 * left : 3 * right + 3], [*ys[left], *ys[right]])
    on_one_scale([math.log(float(row["x"])) for row in rows(drawing)[:3]], [x for _, x, _ in drawn[:3]])


def test_response_over_two_axes() -> None:
    drawing = grid(PLAIN)
    drawn = sorted(set(marks(drawing, "head-only at")))  # the best is drawn twice: square and frame
    assert len(drawn) == 6 and len({x for _, x, _ in drawn}) == 3 and len({y for *_, y in drawn}) == 2
    settings = [title.split(" at ")[1].split(",")[0] for title, _, _ in drawn]
    assert settings == ["0.5", "0.5", "1", "1", "all", "all"]
    assert len(rows(drawing)) == 24 and {row["x"] for row in rows(drawing)} == {"0.5", "1.0", "all"}
    filled, framed = dict[str, float](), list[str]()
    for group in ElementTree.fromstring(drawing.svg).iter(f"{SVG}g"):
        for use in group.findall(f"{SVG}use"):
            title = use.findtext(f"{SVG}title") or ""
            look = use.attrib.get("style") or group.attrib["style"]
            if title and look.startswith("fill-opacity: 0;"):
                framed.append(title)
            elif title:
                filled[title] = float(re.findall(r"fill-opacity: ([\d.]+)", look)[0])
    means = {title: float(title.split(": ")[1].replace("−", "-")) for title in filled}
    assert len(means) == 24
    np.testing.assert_allclose(sorted(means.values()), sorted(numbers(drawing, "mean")), rtol=1e-3)
    strengths = [filled[title] for title in sorted(means, key=means.__getitem__)]
    assert strengths == sorted(strengths) and len(set(strengths)) > 4
    best = [min((t for t in means if t.startswith(f"{name} at")), key=means.__getitem__) for name in PLAIN]
    assert framed == best, "less is better here"


@pytest.mark.parametrize("second", [None, "y"])
def test_a_crowd_of_settings_stays_light(second: str | None) -> None:
    points = tuple((float(k), k * 7.0 % 31 if second else None, noise(0, k)) for k in range(1, 1001))
    drawing = figures.response("d", "t", [Panel("a", 0, points)], ("x", second), "y")
    assert len(drawing.svg) < 100_000 and len(drawing.data) == 1001
    best = max(points, key=lambda point: point[2])
    assert [title.split(": ")[0] for title, *_ in marks(drawing)] == [
        f"a at {best[0]:g}" + (f", {best[1]:g}" if second else "")
    ]


def test_bars_are_their_numbers() -> None:
    drawing = bars(PLAIN)
    widths = []
    for group in ElementTree.fromstring(drawing.svg).iter(f"{SVG}g"):
        if group.find(f"{SVG}title") is not None:
            path = group.find(f"{SVG}path")
            assert path is not None
            xs = [float(x) for x in re.findall(r"[ML] ([\d.]+)", path.attrib["d"])]
            widths.append(max(xs) - min(xs))
    values = numbers(drawing, "value")
    np.testing.assert_allclose(np.divide(widths, widths[0]), np.divide(values, values[0]), atol=0.002)


def test_critical_is_its_numbers() -> None:
    drawing = critical(PLAIN)
    on_one_scale(numbers(drawing, "mean_rank"), [x for _, x, _ in marks(drawing)])
    assert drawing.svg.count("stroke-width: 3") == 2, "a bar for each clique of two or more"
    assert [row["cliques"] for row in rows(drawing)] == ["1 3", "1 2", "2", "2"]
    assert all(f"{float(row['mean_rank']):.2f}" in words(drawing) for row in rows(drawing))


# Style.


def test_styles_differ_for_hundreds_of_strategies() -> None:
    assert len({tuple(map(str, style(number))) for number in range(385)}) == 385


def test_long_names_keep_both_ends() -> None:
    name = "a" * 50 + "b" * 50
    assert len(shorter(name)) == 40 and shorter(name).startswith("aaa") and shorter(name).endswith("bbb")
    assert shorter("short") == "short"


@pytest.mark.parametrize(
    ("values", "kind"),
    [((1.0, 7.0), "linear"), ((1.0, 100.0), "log"), ((0.0, 0.1, 10.0), "symlog"), ((-1.0, 100.0), "linear")],
)
def test_axes_are_logarithmic_where_values_span_much(values: tuple[float, ...], kind: str) -> None:
    from matplotlib.figure import Figure

    from harness.report.drawings.canvas import scale

    axes: Any = Figure().add_subplot()
    scale(axes, "x", values)
    assert axes.get_xscale() == kind
