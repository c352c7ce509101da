from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.errors import nearest
from harness.tasks.base import LENGTH, Batch, Collate, Example, Facts, Rngs
from harness.tasks.images import Images, extent, file_of, picture_of, pixel_batch, plain
from harness.tasks.labels import class_id, named_classes, sorted_names, wrong_classes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset

# COCO scores the best hundred boxes of an image.
_MOST_BOXES = 100
# Annotators round: what reaches over an edge by no more than this many pixels is cut at the edge.
_TOLERANCE = 1.0


class ObjectDetection(Images):
    """One image to boxes with a class each.

    The target holds an image's objects as `{"bbox": [[x, y, width, height], …], "category": [class, …]}` or
    as a list of `{"bbox": …, "category": …}`, boxes in pixels. In a folder (`imagefolder`) a `metadata.jsonl`
    holds `{"file_name": …, "objects": …}` for each image. An image may hold no object.

    Attributes:
        labels: class names in order of their ids; by default those of the data.
        bbox_format: `xywh` (COCO: corner and size) or `xyxy` (two corners).
        bbox, category: what the target calls boxes and classes.
    """

    name: ClassVar[str] = "object-detection"
    kind: ClassVar[str] = "object-detection"
    auto_class: ClassVar[str] = "AutoModelForObjectDetection"
    needs: ClassVar[tuple[str, ...]] = (*Images.needs, "torchmetrics", "pycocotools")
    # a crop would cut boxes, and predictions are read as parts of the whole image
    processor_options: ClassVar[Mapping[str, Any]] = {"do_center_crop": False}

    target: str = "objects"
    labels: tuple[str, ...] | None = None
    bbox_format: Literal["xywh", "xyxy"] = "xywh"
    bbox: str = "bbox"
    category: str = "category"

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("map", "map_50")

    def columns(self) -> list[str]:
        return [self.image, self.target]

    # -- the data --------------------------------------------------------------------------------

    def _objects(self, cell: Any) -> tuple[list[Any], list[Any]]:
        """Boxes as the data writes them, and their classes.

        Raises: ValueError for a cell that does not hold both.
        """
        if isinstance(cell, Mapping):
            lacking = [name for name in (self.bbox, self.category) if cell.get(name) is None]
            if lacking:
                raise ValueError(f"has no '{lacking[0]}' in '{self.target}' ({nearest(lacking[0], cell)})")
            boxes, classes = list(cell[self.bbox]), list(cell[self.category])
            if len(boxes) != len(classes):
                raise ValueError(f"has {len(boxes)} boxes but {len(classes)} classes in '{self.target}'")
            return boxes, classes
        if not isinstance(cell, Sequence) or not all(isinstance(one, Mapping) for one in cell):
            raise ValueError(f"has no objects in '{self.target}'")
        return [one.get(self.bbox) for one in cell], [one.get(self.category) for one in cell]

    def _corners(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        x, y, right, bottom = (float(value) for value in box)
        return (x, y, x + right, y + bottom) if self.bbox_format == "xywh" else (x, y, right, bottom)

    def fault_of(self, row: Mapping[str, Any]) -> str | None:
        found = self._wrong_objects(row[self.target], extent(row[self.image]))
        return None if found is None else f"{found}{file_of(row[self.image])}"

    def _wrong_objects(self, cell: Any, size: tuple[int, int]) -> str | None:
        try:
            boxes, classes = self._objects(cell)
        except ValueError as error:
            return str(error)
        for number, (box, value) in enumerate(zip(boxes, classes, strict=True)):
            if value is None:
                return f"has no '{self.category}' for object {number}"
            if reason := self._wrong_box(box, size):
                return f"has a box {reason} as object {number}: {box}"
        return None

    def _wrong_box(self, box: Any, size: tuple[int, int]) -> str | None:
        if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_number, box)):
            return "that is not four numbers"
        if not all(math.isfinite(value) for value in box):
            return "with NaN or infinity"
        left, top, right, bottom = self._corners(box)
        if right <= left or bottom <= top:
            return "without area"
        width, height = size
        over = max(-left, -top, right - width, bottom - height)
        if over > _TOLERANCE or left >= width or top >= height or right <= 0 or bottom <= 0:
            return f"outside its image of {width} × {height} pixels"
        return None

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        found = {
            role: {value for cell in split[self.target] for value in self._objects(cell)[1]}
            for role, split in splits.items()
        }
        own = {role: _names(split.features[self.target], self.category) for role, split in splits.items()}
        names = list(self.labels or own["train"] or sorted_names(set().union(*found.values())))
        ids = {
            role: {value: class_id(value, names, own[role]) for value in values}
            for role, values in found.items()
        }
        mistakes = wrong_classes(names, ids, place, "class")
        if not names:
            mistakes.add(place, f"no image has an object in '{self.target}'")
        mistakes.raise_any()
        return names

    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        own = _names(split.features[self.target], self.category)
        sizes = [extent(image) for image in plain(split)[self.image]]
        rows = []
        for cell, (width, height) in zip(split[self.target], sizes, strict=True):
            boxes, classes = self._objects(cell)
            corners = [self._corners(box) for box in boxes]
            inside = [
                [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
                for left, top, right, bottom in corners
            ]
            labels = [class_id(value, facts.classes, own) for value in classes]
            rows.append({"boxes": inside, "labels": labels})
        return rows

    def constant(self, train: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        return [{"boxes": [], "labels": [], "scores": []} for _ in references]

    def perfect(self, references: Sequence[Any]) -> list[Any]:
        return [{**true, "scores": [1.0] * len(true["labels"])} for true in references]

    # -- the model -------------------------------------------------------------------------------

    def head(self, facts: Facts) -> dict[str, Any]:
        return named_classes(facts)

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        """Boxes are stored as (centre x, centre y, width, height) in parts of the image, flat; `size` is the
        original height and width."""
        from datasets import Features, List, Value

        true = self.references(split, facts)

        def row(example: dict[str, Any], index: int) -> dict[str, Any]:
            width, height = extent(example[self.image])
            picture = self.picture(example[self.image], processor)
            return {
                **picture,
                "boxes": [value for box in true[index]["boxes"] for value in _relative(box, width, height)],
                "classes": true[index]["labels"],
                "size": [height, width],
                LENGTH: math.prod(picture["shape"][-2:]),
            }

        whole, numbers = List(Value("int64")), List(Value("float64"))
        features = Features(
            {
                "pixels": Value("binary"),
                "shape": whole,
                "boxes": numbers,
                "classes": whole,
                "size": whole,
                LENGTH: Value("int64"),
            }
        )
        return split.map(
            row, with_indices=True, remove_columns=split.column_names, features=features, desc=None
        )

    def collate(self, processor: Any) -> Collate:
        def batch(examples: list[Example], rngs: Rngs) -> Batch:
            import torch

            pictures, labels = [], []
            for index, example in enumerate(examples):
                picture = picture_of(example)
                boxes = torch.tensor(example["boxes"], dtype=torch.float32).reshape(-1, 4)
                classes = torch.tensor(example["classes"], dtype=torch.int64)
                if rngs is not None:
                    picture, boxes, kept = self._varied_boxes(rngs[index], picture, boxes)
                    classes = classes[kept]
                pictures.append(picture)
                labels.append({"class_labels": classes, "boxes": boxes})
            return {**pixel_batch(processor, pictures), "labels": labels}

        return batch

    def _varied_boxes(
        self, rng: np.random.Generator, picture: torch.Tensor, boxes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The varied image, the boxes that are still in it, shape (kept, 4), and which ones these are."""
        import torch
        from torchvision import tv_tensors
        from torchvision.transforms.v2.functional import clamp_bounding_boxes, convert_bounding_box_format

        height, width = picture.shape[-2:]
        pixels = boxes * torch.tensor([width, height, width, height])
        boxed = tv_tensors.BoundingBoxes(pixels, format="CXCYWH", canvas_size=(height, width))
        picture, boxed = self.varied(rng, picture, boxed)
        height, width = picture.shape[-2:]
        moved = torch.as_tensor(convert_bounding_box_format(clamp_bounding_boxes(boxed), new_format="CXCYWH"))
        moved = moved.as_subclass(torch.Tensor)
        kept = (moved[:, 2] >= 1) & (moved[:, 3] >= 1)  # at least a pixel wide and high
        return picture, moved[kept] / torch.tensor([width, height, width, height]), kept

    def predict(self, outputs: Any, examples: list[Example], facts: Facts) -> list[dict[str, Any]]:
        import torch

        scores, labels, queries = _candidates(outputs.logits.float(), len(facts.classes))
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        scores, order = scores[:, :_MOST_BOXES], order[:, :_MOST_BOXES]
        sizes = torch.tensor([example["size"] for example in examples], device=scores.device)
        middle, extents = outputs.pred_boxes.float().split(2, dim=-1)
        boxes = torch.cat([middle - extents / 2, middle + extents / 2], dim=-1)
        boxes = boxes * sizes.flip(-1).repeat(1, 2)[:, None]  # height, width -> width, height, width, height
        boxes = boxes.gather(1, queries.gather(1, order)[..., None].expand(-1, -1, 4))
        columns = (boxes, labels.gather(1, order), scores)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [{"prediction": {"boxes": b, "labels": c, "scores": s}} for b, c, s in rows]


def _candidates(logits: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, classes and queries, each of shape (images, candidates), of what a model may have found.

    Args:
        logits: shape (images, queries, classes + 1) of a model whose last class is "no object": every query
            has one answer (Carion et al. 2020). Shape (images, queries, classes) of one that judges every
            class by itself: each is an answer (Zhu et al. 2021, arXiv 2010.04159).
    """
    import torch

    images, count, _ = logits.shape
    queries = torch.arange(count, device=logits.device)
    if logits.shape[-1] > classes:
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        return scores, labels, queries.expand(images, -1)
    labels = torch.arange(classes, device=logits.device).repeat(count)
    queries = queries.repeat_interleave(classes)
    return logits.sigmoid().flatten(1), labels.expand(images, -1), queries.expand(images, -1)


def _relative(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """Corners in pixels to centre and size in parts of the image."""
    left, top, right, bottom = box
    return (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )


def _names(feature: Any, category: str) -> list[str] | None:
    """The class names that a data set itself has for its numbers."""
    while hasattr(feature, "feature"):  # a list of objects
        feature = feature.feature
    feature = feature.get(category) if isinstance(feature, Mapping) else None
    while hasattr(feature, "feature"):
        feature = feature.feature
    names = getattr(feature, "names", None)
    return list(names) if names else None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
