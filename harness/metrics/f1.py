from typing import Any, ClassVar

from sklearn.metrics import f1_score

from harness.metrics.base import Metric


class F1(Metric):
    """F1 of class 1 for two classes (as GLUE scores MRPC and QQP); the macro mean for more."""

    name: ClassVar[str] = "f1"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        binary = context.get("classes", 2) == 2
        average = "binary" if binary else "macro"
        return float(f1_score(references, predictions, average=average, zero_division=0))


class MacroF1(Metric):
    """Unweighted mean of the F1 of every class."""

    name: ClassVar[str] = "macro_f1"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float(f1_score(references, predictions, average="macro", zero_division=0))
