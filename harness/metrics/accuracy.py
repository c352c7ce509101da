from typing import Any, ClassVar

from sklearn.metrics import accuracy_score

from harness.metrics.base import Metric


class Accuracy(Metric):
    """Share of examples whose predicted class is the true one."""

    name: ClassVar[str] = "accuracy"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float(accuracy_score(references, predictions))
