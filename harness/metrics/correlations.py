import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from harness.metrics.base import Values


def correlation(function: Callable[[Any, Any], Any], predictions: Any, references: Any) -> float:
    """0 where a side is constant and no association can be told; NaN for predictions that are no numbers,
    which a model gives that has diverged, not one that says the same for all."""
    if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
        return math.nan
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(function(predictions, references).statistic)


class Pearson(Values):
    """Pearson correlation of predicted and true values; 0 for constant predictions."""

    name: ClassVar[str] = "pearson"
    form: ClassVar[str | None] = "pearson"
    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return correlation(stats.pearsonr, predictions, references)


class Spearman(Values):
    """Spearman rank correlation of predicted and true values; 0 for constant predictions."""

    name: ClassVar[str] = "spearman"
    form: ClassVar[str | None] = "spearman"
    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return correlation(stats.spearmanr, predictions, references)
