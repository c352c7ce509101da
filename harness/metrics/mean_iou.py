from typing import Any, ClassVar

import datasets
import numpy as np

from harness.metrics.base import Metric

_COUNTS = datasets.List(datasets.Value("int64"))


class Counted(Metric):
    """Base of metrics over pixels, which need no more of an image than three numbers per class: how many
    pixels are of it (the reference), were said to be of it (`predicted`), and both (`hits`). Pixels without a
    true class count nowhere."""

    predictions: ClassVar[Any] = {"hits": _COUNTS, "predicted": _COUNTS}
    references: ClassVar[Any] = _COUNTS

    def _compute(self, predictions: Any, references: Any, **context: Any) -> dict[str, float]:
        true = np.sum(references, axis=0)
        hits = np.sum([row["hits"] for row in predictions], axis=0)
        predicted = np.sum([row["predicted"] for row in predictions], axis=0)
        return {self.name: self.score(hits, true, predicted=predicted)}


class MeanIou(Counted):
    """Intersection over union of every class over all pixels of the split, averaged over the classes that
    occur in the references or in the predictions."""

    name: ClassVar[str] = "mean_iou"
    source: ClassVar[str] = "Everingham et al. 2010, IJCV 88, Pascal VOC; Long et al. 2015, arXiv 1411.4038"
    form: ClassVar[str | None] = "ratios"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        union = references + context["predicted"] - predictions
        return float((predictions[union > 0] / union[union > 0]).mean())

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        hits, predicted = (np.asarray([row[name] for row in predictions]) for name in ("hits", "predicted"))
        return np.c_[hits, np.asarray(references) + predicted - hits]


class PixelAccuracy(Counted):
    """Share of the pixels with the right class."""

    name: ClassVar[str] = "pixel_accuracy"
    source: ClassVar[str] = "Long et al. 2015, arXiv 1411.4038"
    form: ClassVar[str | None] = "ratio"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return float(predictions.sum() / references.sum())

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return np.c_[np.sum([row["hits"] for row in predictions], axis=1), np.sum(references, axis=1)]
