"""A metric on resampled examples equals the metric computed anew on those examples, for every metric that
says what each example adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import scorer
from harness.metrics.base import Metric
from harness.metrics.forms import FORMS
from harness.registry import plugins

METRICS = {
    name: metric
    for name, metric in plugins("metrics", Metric).items()
    if metric.form is not None and metric.__module__.startswith("harness.")
}
COCO = ("map", "map_50")
WORDS = ("the", "cat", "sat")
TAGS = ("O", "B-x", "I-x", "B-y")


def lists(one: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[list[Any]]:
    return st.lists(one, min_size=least, max_size=4)


def tagged(draw: Callable[[Any], Any]) -> tuple[list[str], list[str]]:
    length = draw(st.integers(1, 5))
    one = st.lists(st.sampled_from(TAGS), min_size=length, max_size=length)
    return draw(one), draw(one)


def counted(draw: Callable[[Any], Any]) -> tuple[dict[str, list[int]], list[int]]:
    hits = draw(st.lists(st.integers(0, 3), min_size=3, max_size=3))
    more = st.lists(st.integers(1, 2), min_size=3, max_size=3)
    return {"hits": hits, "predicted": np.add(hits, draw(more)).tolist()}, np.add(hits, draw(more)).tolist()


def boxed(draw: Callable[[Any], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Boxes that overlap by few different amounts, scores with ties; a class that nothing is of."""

    def boxes(classes: list[int], most: int) -> dict[str, Any]:
        labels = draw(st.lists(st.sampled_from(classes), max_size=most))
        corners = [(draw(st.integers(0, 2)), draw(st.integers(0, 1))) for _ in labels]
        found = [[x, y, x + 4 + draw(st.integers(0, 2)), y + 4] for x, y in corners]
        return {"boxes": found, "labels": labels}

    said = boxes([0, 1, 3], 5)
    scores = [draw(st.integers(1, 3)) / 4 for _ in said["labels"]]
    return {**said, "scores": scores}, boxes([0, 1, 2], 3)


@st.composite
def example(draw: Any, metric: type[Metric]) -> tuple[Any, Any]:
    """A prediction and a reference of the metric's type."""
    kind = getattr(metric.predictions, "dtype", "")
    if kind == "int64":
        return draw(st.integers(0, 2)), draw(st.integers(0, 2))
    if kind == "float64":
        return tuple(draw(st.integers(-8, 8)) / 4 for _ in range(2))
    if kind == "string":
        return " ".join(draw(lists(st.sampled_from(WORDS)))), " ".join(draw(lists(st.sampled_from(WORDS), 1)))
    if not isinstance(metric.predictions, dict):
        return tagged(draw)
    return boxed(draw) if "boxes" in metric.predictions else counted(draw)


@st.composite
def split(draw: Any, metric: type[Metric]) -> tuple[list[Any], list[Any], list[int]]:
    """Predictions, references, and how often each example is drawn; three at least are."""
    rows = draw(st.lists(example(metric), min_size=3, max_size=5 if metric.name in COCO else 12))
    times = draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    times[:3] = [max(1, count) for count in times[:3]]
    return [said for said, _ in rows], [true for _, true in rows], times


def anew(name: str, said: list[Any], true: list[Any], times: Any, **context: Any) -> float:
    def repeated(values: list[Any]) -> list[Any]:
        return [value for value, count in zip(values, times, strict=True) for _ in range(count)]

    return scorer.score([name], repeated(said), repeated(true), context)[name]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore")
def test_resampling_is_computing_anew(name: str) -> None:
    if name in COCO:
        pytest.importorskip("torchmetrics")
        pytest.importorskip("pycocotools")

    @settings(max_examples=25 if name in COCO else 60, deadline=None, derandomize=True)
    @given(split(METRICS[name]))
    def check(rows: Any) -> None:
        said, true, times = rows
        form = FORMS[scorer.form(name, {"classes": 3}) or ""]
        parts = scorer.parts([name], said, true, {"classes": 3})[name]
        assert form.score(parts) == pytest.approx(
            anew(name, said, true, [1] * len(said), classes=3), abs=1e-9
        )
        weights = np.array([times, [1] * len(said)], dtype=float)
        expected = [anew(name, said, true, row, classes=3) for row in weights.astype(int)]
        assert form.resampled(parts, weights) == pytest.approx(expected, abs=1e-9)
        others = 1 - np.eye(len(said), dtype=int)
        expected = [anew(name, said, true, row, classes=3) for row in others]
        assert form.without_each(parts) == pytest.approx(expected, abs=1e-9)

    check()


@pytest.mark.filterwarnings("ignore")
def test_f1_of_two_classes_is_a_ratio() -> None:
    said, true, times = [1, 0, 1, 1], [1, 1, 0, 1], [2, 1, 0, 3]
    parts = scorer.parts(["f1"], said, true, {"classes": 2})["f1"]
    assert scorer.form("f1", {"classes": 2}) == "ratio"
    found = FORMS["ratio"].resampled(parts, np.array([times], dtype=float))
    assert found == pytest.approx([anew("f1", said, true, times, classes=2)])


@pytest.mark.filterwarnings("ignore")
def test_average_precision_where_order_decides() -> None:
    """A hit and a miss of equal score in an image that occurs three times; a box that overlaps two true ones
    by as much; a hit after a hundred misses of its class."""
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    one, far, near = [0, 0, 10, 10], [50, 50, 60, 60], [2, 0, 12, 10]
    said = [
        {"boxes": [one, far], "labels": [0, 0], "scores": [0.5, 0.5]},
        {"boxes": [[1, 0, 11, 10], [3, 0, 13, 10]], "labels": [1, 1], "scores": [0.9, 0.8]},
        {"boxes": [far] * 100 + [one], "labels": [2] * 101, "scores": [0.9] * 100 + [0.1]},
    ]
    true = [
        {"boxes": [one], "labels": [0]},
        {"boxes": [one, near], "labels": [1, 1]},
        {"boxes": [one], "labels": [2]},
    ]
    parts = scorer.parts(["map"], said, true, {})["map"]
    weights = np.array([[1, 1, 1], [3, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    expected = [anew("map", said, true, row) for row in weights.astype(int)]
    assert FORMS["average_precision"].resampled(parts, weights) == pytest.approx(expected, abs=1e-9)
    assert expected[1] < 1 and expected[3] == 0
