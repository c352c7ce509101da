from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import matthews_corrcoef

from harness.metrics.base import Metric


class MatthewsCorrelation(Metric):
    """Matthews correlation coefficient (GLUE's metric for CoLA); 0 for constant predictions."""

    name: ClassVar[str] = "matthews_correlation"
    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    form: ClassVar[str | None] = "matthews"
    source: ClassVar[str] = "Matthews 1975; multi-class: Gorodkin 2004"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        if (predictions == references[0]).all() and (references == references[0]).all():
            return 0.0  # what scikit-learn says too, with a warning about a single label
        return float(matthews_corrcoef(references, predictions))

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return np.c_[predictions, references]
