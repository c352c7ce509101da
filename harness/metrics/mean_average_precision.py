from typing import Any, ClassVar

import datasets

from harness.metrics.base import Metric

_SOURCE = "Lin et al. 2014, arXiv 1405.0312, COCO; computed by torchmetrics with pycocotools"
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
    overlaps: ClassVar[list[float] | None] = None

    def _compute(self, predictions: Any, references: Any, **context: Any) -> dict[str, float]:
        return {
            self.name: self.score(predictions, references)
        }  # boxes of different numbers: lists stay lists

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        from torchmetrics.detection import MeanAveragePrecision as Coco

        coco = Coco(box_format="xyxy", iou_type="bbox", iou_thresholds=self.overlaps)
        coco.warn_on_many_detections = False
        coco.update([_tensors(row) for row in predictions], [_tensors(row) for row in references])
        return max(0.0, float(coco.compute()["map"]))


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
