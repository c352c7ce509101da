"""A metric that cannot take one example."""

from typing import Any, ClassVar

from harness.metrics.base import Metric


class Brittle(Metric):
    """Accuracy, but for predictions of the class 2."""

    name: ClassVar[str] = "brittle"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        for index, prediction in enumerate(predictions):
            if prediction == 2:
                raise ValueError(f"cannot score example {index}")
        return float((predictions == references).mean())
