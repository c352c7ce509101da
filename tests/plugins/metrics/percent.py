from typing import Any, ClassVar

from harness.metrics.base import Metric


class Percent(Metric):
    """Accuracy from 0 to 100: a second metric on another scale."""

    name: ClassVar[str] = "percent"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float((predictions == references).mean() * 100)


class ErrorRate(Metric):
    """Share of wrong predictions: lower is better."""

    name: ClassVar[str] = "error_rate"
    higher_is_better: ClassVar[bool] = False

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float((predictions != references).mean())
