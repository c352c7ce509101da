from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import accuracy_score

from harness.metrics.base import Metric


class Accuracy(Metric):
    """Share of examples whose predicted class is the true one."""

    name: ClassVar[str] = "accuracy"
    form: ClassVar[str | None] = "mean"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float(accuracy_score(references, predictions))

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return (np.asarray(predictions) == np.asarray(references))[:, None]
