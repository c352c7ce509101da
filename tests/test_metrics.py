"""Every metric against scikit-learn or scipy, on arrays that hypothesis makes up, edges included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from harness.errors import InputError
from harness.metrics import scorer
from harness.metrics.base import Metric, Values
from harness.registry import plugins

# Those of one number per example; metrics of other kinds are checked with their tasks.
FOUND = {
    name: metric
    for name, metric in plugins("metrics", Metric).items()
    if getattr(metric.predictions, "dtype", "") in ("int64", "float64")
}
SHIPPED = {name: metric for name, metric in FOUND.items() if metric.__module__.startswith("harness.")}

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def correlation(function: Any) -> Callable[[Any, Any], float]:
    """0 where either side is constant: then no association can be told."""

    def compute(predictions: Any, references: Any) -> float:
        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return 0.0
        return float(function(predictions, references).statistic)

    return compute


# What each metric must equal, given (predictions, references). A new metric adds its line here.
CLASSES: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": lambda p, r: sk.accuracy_score(r, p),
    "macro_f1": lambda p, r: sk.f1_score(r, p, average="macro", zero_division=0),
    "matthews_correlation": lambda p, r: sk.matthews_corrcoef(r, p),
}
NUMBERS: dict[str, Callable[[Any, Any], float]] = {
    "pearson": correlation(stats.pearsonr),
    "spearman": correlation(stats.spearmanr),
    "mean_squared_error": lambda p, r: float(np.mean((np.asarray(p) - np.asarray(r)) ** 2)),
}
BINARY: dict[str, Callable[[Any, Any], float]] = {
    "f1": lambda p, r: sk.f1_score(r, p, pos_label=1, zero_division=0),
}
PERFECT = {"mean_squared_error": 0.0}  # 1 for the others

_few = settings(max_examples=25, deadline=None, derandomize=True)


def classes(count: int) -> st.SearchStrategy[Arrays]:
    one = st.integers(0, count - 1)
    pairs = st.lists(st.tuples(one, one), min_size=1, max_size=40)
    return pairs.map(lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows])))


def numbers() -> st.SearchStrategy[Arrays]:
    # a grid, so that ties and constants are common and no difference is lost to rounding
    one = st.integers(-50, 50).map(lambda value: value / 4)
    pairs = st.lists(st.tuples(one, one), min_size=1, max_size=40)
    return pairs.map(lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows])))


def value(name: str, predictions: Any, references: Any, **context: Any) -> float:
    return scorer.score([name], list(predictions), list(references), context)[name]


def test_every_shipped_metric_is_checked_here() -> None:
    """A new metric without a reference implementation fails this suite."""
    assert set(SHIPPED) == set(CLASSES) | set(NUMBERS) | set(BINARY)


@pytest.mark.parametrize("name", sorted(CLASSES))
@given(arrays=classes(4))
@_few
@pytest.mark.filterwarnings("ignore:A single label")
def test_class_metrics_equal_scikit_learn(name: str, arrays: Arrays) -> None:
    assert value(name, *arrays, classes=4) == pytest.approx(CLASSES[name](*arrays), abs=1e-12)


@pytest.mark.parametrize("name", sorted(NUMBERS))
@given(arrays=numbers())
@_few
@pytest.mark.filterwarnings("ignore:An input array is")
def test_value_metrics_equal_scipy(name: str, arrays: Arrays) -> None:
    """One example and constant arrays included: what is undefined says 0, never NaN, and nothing raises."""
    assert value(name, *arrays) == pytest.approx(NUMBERS[name](*arrays), abs=1e-9)


@given(arrays=classes(2))
@_few
def test_f1_of_two_classes_is_that_of_class_one(arrays: Arrays) -> None:
    assert value("f1", *arrays, classes=2) == pytest.approx(BINARY["f1"](*arrays), abs=1e-12)


@given(arrays=classes(3))
@_few
def test_f1_of_more_classes_is_the_macro_mean(arrays: Arrays) -> None:
    """Also where a split happens to show two of the three classes: the task says how many there are."""
    assert value("f1", *arrays, classes=3) == pytest.approx(CLASSES["macro_f1"](*arrays), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews_correlation"])
@pytest.mark.parametrize("constant", ["predictions", "references", "both"])
@pytest.mark.filterwarnings("error")
def test_a_constant_side_gives_zero_without_a_warning(name: str, constant: str) -> None:
    """A head that has collapsed scores 0: NaN would lose the trial, and the sweep with it."""
    varied, same = [0, 1, 1, 0, 1], [1] * 5
    predictions = varied if constant == "references" else same
    references = varied if constant == "predictions" else same
    assert value(name, predictions, references) == 0.0


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_predictions_that_are_not_numbers_do_not_pass_for_constant_ones(name: str) -> None:
    """NaN predictions are a diverged model, not one that says the same for all."""
    assert math.isnan(value(name, [0.1, float("nan"), 0.3], [0.1, 0.2, 0.3]))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_direction_is_declared_and_true(name: str) -> None:
    """The perfect prediction has the best value, and a wrong one is worse in the declared direction."""
    truth: list[Any] = [0, 1, 1, 0, 1, 0, 0, 1]
    wrong: list[Any] = [1, 1, 0, 0, 0, 1, 0, 1]
    best, worse = value(name, truth, truth, classes=2), value(name, wrong, truth, classes=2)
    assert best == pytest.approx(PERFECT.get(name, 1.0))
    assert (best > worse) if scorer.higher_is_better(name) else (best < worse)


@pytest.mark.parametrize("name", sorted(FOUND))
def test_works_as_a_metric_of_the_evaluate_library(name: str) -> None:
    """`compute` at once, example by example and batch by batch give one value, under the metric's name."""
    references: list[Any] = [0, 1, 1, 0, 1, 0]
    predictions: list[Any] = [0, 1, 0, 0, 1, 1]
    if issubclass(FOUND[name], Values):
        predictions = [prediction / 3 + 0.1 * index for index, prediction in enumerate(predictions)]
    at_once = FOUND[name]().compute(predictions=predictions, references=references)
    assert list(at_once) == [name] and isinstance(at_once[name], float)
    singly, batched = FOUND[name](keep_in_memory=True), FOUND[name](keep_in_memory=True)
    for prediction, reference in zip(predictions, references, strict=True):
        singly.add(prediction=prediction, reference=reference)
    for start in (0, 3):
        batched.add_batch(
            predictions=predictions[start : start + 3], references=references[start : start + 3]
        )
    assert singly.compute() == at_once == batched.compute()
    assert FOUND[name]().description == (FOUND[name].__doc__ or "").strip() != ""


def test_works_in_evaluate_combine() -> None:
    of_classes = sorted(name for name, metric in SHIPPED.items() if not issubclass(metric, Values))
    combined = evaluate.combine([SHIPPED[name]() for name in of_classes])
    references, predictions = [0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1]
    found = combined.compute(predictions=predictions, references=references)
    assert found == {name: value(name, predictions, references) for name in of_classes}


def test_a_metric_can_be_used_again() -> None:
    """One instance serves a whole sweep: nothing of one evaluation stays for the next."""
    first = value("accuracy", [1, 1, 1], [1, 1, 0])
    assert value("accuracy", [0, 0], [1, 1]) == 0.0
    assert value("accuracy", [1, 1, 1], [1, 1, 0]) == first == pytest.approx(2 / 3)


def test_several_metrics_keep_their_order() -> None:
    names = ["macro_f1", "accuracy", "f1"]
    assert list(scorer.score(names, [0, 1], [0, 1], {"classes": 2})) == names


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        scorer.load("acuracy", "tasks.0.metrics.0")
    (mistake,) = caught.value.mistakes
    assert mistake.place == "tasks.0.metrics.0" and "'accuracy'" in mistake.hint


def test_hub_metric_without_a_hub_is_bad_input() -> None:
    """Offline, a metric of the hub is said to be missing before any trial starts."""
    with pytest.raises(InputError) as caught:
        scorer.load("hub:accuracy", "tasks.0.metrics.1")
    (mistake,) = caught.value.mistakes
    assert mistake.place == "tasks.0.metrics.1" and "hub:accuracy" in mistake.reason
    assert "\n" not in mistake.reason
