"""F1 over classes of examples."""

from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import f1_score

from harness.metrics.base import Metric


class MacroF1(Metric):
    """Unweighted mean of the F1 of every class."""

    name: ClassVar[str] = "macro_f1"
    form: ClassVar[str | None] = "macro_f1"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float(f1_score(references, predictions, average="macro", zero_division=0))

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return np.c_[predictions, references]


class F1(MacroF1):
    """F1 of class 1 for two classes (as GLUE scores MRPC and QQP); the macro mean for more."""

    name: ClassVar[str] = "f1"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        if not _binary(context):
            return super().score(predictions, references)
        return float(f1_score(references, predictions, average="binary", zero_division=0))

    def form_in(self, **context: Any) -> str | None:
        return "ratio" if _binary(context) else self.form

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        if not _binary(context):
            return super().parts(predictions, references)
        said, true = np.equal(predictions, 1), np.equal(references, 1)
        return np.c_[2 * (said & true), said.astype(int) + true]


def _binary(context: dict[str, Any]) -> bool:
    return bool(context.get("classes", 2) == 2)
