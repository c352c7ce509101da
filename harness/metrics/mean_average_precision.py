from typing import Any, ClassVar

import datasets
import numpy as np

from harness.metrics.base import Metric

_SOURCE = "Lin et al. 2014, arXiv 1405.0312, COCO; computed by torchmetrics with pycocotools"
_MOST_BOXES = 100  # per image and class
_BOXES = {
    "boxes": datasets.List(datasets.List(datasets.Value("float64"))),
    "labels": datasets.List(datasets.Value("int64")),
}


class MeanAveragePrecision(Metric):
    """Average precision over classes and over overlaps (intersection over union) from 0.5 to 0.95, of the 100
    boxes per image with the highest scores. Only classes that occur in the references count; 0 where none
    does.

    One prediction: `boxes` [x0, y0, x1, y1] in pixels, their `labels` and `scores`; a reference: the same
    without scores.
    """

    name: ClassVar[str] = "map"
    source: ClassVar[str] = _SOURCE
    predictions: ClassVar[Any] = {**_BOXES, "scores": datasets.List(datasets.Value("float64"))}
    references: ClassVar[Any] = _BOXES
    form: ClassVar[str | None] = "average_precision"
    overlaps: ClassVar[list[float] | None] = None

    def _compute(self, predictions: Any, references: Any, **context: Any) -> dict[str, float]:
        return {
            self.name: self.score(predictions, references)
        }  # boxes of different numbers: lists stay lists

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        coco = self._coco()
        coco.update([_tensors(row) for row in predictions], [_tensors(row) for row in references])
        # (overlaps, recalls, classes, areas, most boxes), -1 for classes without references. The mean that
        # torchmetrics gives is rounded to float32.
        precision = coco.compute()["precision"][..., 0, -1]
        known = precision[precision > -1]
        return float(known.mean()) if len(known) else 0.0

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        """Only detections of classes that occur in the references; no other counts."""
        overlaps = np.asarray(self._coco().iou_thresholds)
        true = [(_boxes(row), np.asarray(row["labels"], dtype=int)) for row in references]
        classes = np.unique(np.concatenate([labels for _, labels in true]))
        counts, rows = [], []
        for said, (boxes, labels) in zip(predictions, true, strict=True):
            found, scores = _boxes(said), np.asarray(said["scores"], dtype=float)
            row: list[tuple[int, float, int]] = []
            for number, label in enumerate(classes):
                mine = np.flatnonzero(np.asarray(said["labels"]) == label)
                mine = mine[np.argsort(-scores[mine], kind="stable")][:_MOST_BOXES]
                bits = _hits(found[mine], boxes[labels == label], overlaps) @ (1 << np.arange(len(overlaps)))
                row += zip([number] * len(mine), scores[mine], bits, strict=True)
            rows.append(row)
            counts.append((labels[:, None] == classes).sum(axis=0))
        width = max(map(len, rows))
        padded = [row + [(-1, 0.0, 0)] * (width - len(row)) for row in rows]
        ahead = np.tile([len(overlaps), len(classes)], (len(rows), 1))
        return np.c_[ahead, counts, np.reshape(padded, (len(rows), -1))]

    def _coco(self) -> Any:
        from torchmetrics.detection import MeanAveragePrecision as Coco

        # Recalls as COCO has them. The default's are float32: rounded above or below k/n, differently from
        # one machine to another, and that decides whether k of n reach them.
        recalls = np.linspace(0, 1, 101).tolist()
        coco = Coco(iou_thresholds=self.overlaps, rec_thresholds=recalls, extended_summary=True)
        coco.warn_on_many_detections = False
        return coco


class MeanAveragePrecision50(MeanAveragePrecision):
    """Average precision over classes; a box counts as found if it overlaps by half."""

    name: ClassVar[str] = "map_50"
    overlaps: ClassVar[list[float] | None] = [0.5]


def _tensors(row: dict[str, Any]) -> dict[str, Any]:
    import torch

    found = {
        "boxes": torch.tensor(row["boxes"], dtype=torch.float64).reshape(-1, 4),
        "labels": torch.tensor(row["labels"], dtype=torch.int64),
    }
    if "scores" in row:
        found["scores"] = torch.tensor(row["scores"], dtype=torch.float64)
    return found


def _boxes(row: dict[str, Any]) -> Any:
    return np.asarray(row["boxes"], dtype=float).reshape(-1, 4)


def _hits(said: Any, true: Any, overlaps: Any) -> Any:
    """Which detections, best first, find a true box: (detections, overlaps). Each takes the one that it
    overlaps most, of those that no better one has taken; the last of equals, as pycocotools does."""
    hits = np.zeros((len(said), len(overlaps)), dtype=int)
    shared = _intersection_over_union(said, true)
    taken = np.zeros((len(overlaps), len(true)), dtype=bool)
    each = np.arange(len(overlaps))
    for place in np.flatnonzero((shared >= overlaps.min()).any(axis=1)):
        free = np.where(taken, -1.0, shared[place])
        best = len(true) - 1 - free[:, ::-1].argmax(axis=1)
        hits[place] = free[each, best] >= overlaps
        taken[each, best] |= hits[place] > 0
    return hits


def _intersection_over_union(a: Any, b: Any) -> Any:
    corner, size = a[:, :2], a[:, 2:] - a[:, :2]
    other, extent = b[:, :2], b[:, 2:] - b[:, :2]
    # From corner and size, as pycocotools has them: to the last bit.
    end = np.minimum((corner + size)[:, None], (other + extent)[None])
    sides = end - np.maximum(corner[:, None], other[None])
    both = np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0.0)
    union = size.prod(axis=1)[:, None] + extent.prod(axis=1)[None] - both
    return both / np.where(both > 0, union, 1.0)
