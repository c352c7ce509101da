from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import mean_squared_error

from harness.metrics.base import Values


class MeanSquaredError(Values):
    """Mean squared difference of predicted and true values; lower is better."""

    name: ClassVar[str] = "mean_squared_error"
    form: ClassVar[str | None] = "mean"
    higher_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = None

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float(mean_squared_error(references, predictions))

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return ((np.asarray(predictions) - np.asarray(references)) ** 2)[:, None]
