import warnings
from typing import Any, ClassVar

from scipy import stats

from harness.metrics.base import Values, defined


class Pearson(Values):
    """Pearson correlation of predicted and true values; 0 for constant predictions."""

    name: ClassVar[str] = "pearson"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            return defined(stats.pearsonr(predictions, references).statistic)


class Spearman(Values):
    """Spearman rank correlation of predicted and true values; 0 for constant predictions."""

    name: ClassVar[str] = "spearman"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            return defined(stats.spearmanr(predictions, references).statistic)
