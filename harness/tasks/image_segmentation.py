from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.tasks.base import LENGTH, Batch, Collate, Example, Facts, Rngs
from harness.tasks.images import (
    Images,
    array_of,
    extent,
    file_of,
    fitted,
    opened,
    picture_of,
    pixel_batch,
    plain,
)
from harness.tasks.labels import named_classes, wrong_classes

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


class ImageSegmentation(Images):
    """One image to a class for every pixel (semantic segmentation).

    The target is a mask: an image of the same size as its image, whose values are class ids (a palette's
    numbers where it has one). In a folder (`imagefolder`) a `metadata.jsonl` holds `{"file_name": …,
    "mask_file_name": …}` for each image. Masks reach the model resized by nearest neighbour; what the model
    says is scaled up to the image's own size, bilinearly, and scored there.

    Attributes:
        labels: class names in order of their ids; by default the numbers up to the largest in the data.
        ignore_index: the value of pixels without a class; one of the classes' numbers is neither learned,
            predicted nor counted.
    """

    name: ClassVar[str] = "image-segmentation"
    kind: ClassVar[str] = "image-segmentation"
    auto_class: ClassVar[str] = "AutoModelForSemanticSegmentation"
    # a crop would leave pixels without an answer
    processor_options: ClassVar[Mapping[str, Any]] = {"do_center_crop": False}

    target: str = "mask"
    labels: tuple[str, ...] | None = None
    ignore_index: int = Field(default=255, ge=0, le=255)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("mean_iou", "pixel_accuracy")

    def columns(self) -> list[str]:
        return [self.image, self.target]

    def image_columns(self) -> tuple[str, ...]:
        return (self.image, self.target)

    # -- the data --------------------------------------------------------------------------------

    def fault_of(self, row: Mapping[str, Any]) -> str | None:
        found = self._wrong_mask(row[self.image], row[self.target])
        return None if found is None else f"has a mask{file_of(row[self.target])} {found}"

    def _wrong_mask(self, image: Any, mask: Any) -> str | None:
        (width, height), (wide, high) = extent(image), extent(mask)
        if (width, height) != (wide, high):
            return f"of {wide} × {high} pixels for an image of {width} × {height}"
        try:
            counts = self._counts(mask)
        except ValueError as error:
            return str(error)
        if not counts.any():
            return f"in which every pixel is ignored ({self.ignore_index})"
        if self.labels is not None and (unknown := np.flatnonzero(counts[len(self.labels) :])).size:
            first = len(self.labels) + int(unknown[0])
            return f"with the class {first}, but there are labels for 0 to {len(self.labels) - 1} only"
        return None

    def _counts(self, mask: Any) -> np.ndarray[Any, Any]:
        """Pixels per class, shape (256,)."""
        counts = np.bincount(ids_of(mask).ravel(), minlength=256)
        counts[self.ignore_index] = 0
        return counts

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        found = {
            role: np.sum([self._counts(mask) for mask in plain(split)[self.target]], axis=0) > 0
            for role, split in splits.items()
        }
        anywhere = np.any(list(found.values()), axis=0)
        names = list(self.labels or map(str, range(int(np.flatnonzero(anywhere)[-1]) + 1)))
        exempt = {self.ignore_index}
        if self.labels is None:
            exempt |= set(np.flatnonzero(~anywhere).tolist())
        ids = {
            role: {int(index): int(index) for index in np.flatnonzero(there)} for role, there in found.items()
        }
        mistakes = wrong_classes(names, ids, place, "class", exempt)
        if len(set(range(len(names))) - {self.ignore_index}) < 2:
            mistakes.add(place, f"'{self.target}' has a single class ({', '.join(names)})")
        mistakes.raise_any()
        return names

    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        """Per example the pixels of every class."""
        masks = plain(split)[self.target]
        return [self._counts(mask)[: len(facts.classes)].tolist() for mask in masks]

    def constant(self, train: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """Every pixel is of the class that most pixels of train are of."""
        chosen = np.arange(len(train[0])) == np.sum(train, axis=0).argmax()
        return [
            {"hits": (chosen * true).tolist(), "predicted": (chosen * sum(true)).tolist()}
            for true in references
        ]

    def perfect(self, references: Sequence[Any]) -> list[Any]:
        return [{"hits": list(true), "predicted": list(true)} for true in references]

    # -- the model -------------------------------------------------------------------------------

    def head(self, facts: Facts) -> dict[str, Any]:
        # families do not agree on its name; each reads its own
        ignored = dict.fromkeys(("semantic_loss_ignore_index", "loss_ignore_index"), self.ignore_index)
        return {**named_classes(facts), **ignored}

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        """`mask` is as the model takes it, `truth` of the original size."""

        def row(example: dict[str, Any]) -> dict[str, Any]:
            picture = self.picture(example[self.image], processor)
            truth = ids_of(example[self.target])
            mask = resized(processor, truth)
            return {
                **picture,
                "mask": mask.tobytes(),
                "mask_shape": list(mask.shape),
                "truth": truth.tobytes(),
                "size": list(truth.shape),
                LENGTH: mask.size,
            }

        return split.map(row, remove_columns=split.column_names, desc=None)

    def collate(self, processor: Any) -> Collate:
        def batch(examples: list[Example], rngs: Rngs) -> Batch:
            import torch

            pictures = [picture_of(example) for example in examples]
            masks = [array_of(example, "mask", "mask_shape") for example in examples]
            if rngs is not None:
                pairs = [self._varied_mask(*one) for one in zip(rngs, pictures, masks, strict=True)]
                pictures, masks = [picture for picture, _ in pairs], [mask for _, mask in pairs]
            inputs = pixel_batch(processor, pictures)
            labels = torch.full_like(inputs["pixel_mask"], self.ignore_index)
            for row, mask in enumerate(masks):
                labels[row, : mask.shape[0], : mask.shape[1]] = mask
            return {**inputs, "labels": labels}

        return batch

    def _varied_mask(
        self, rng: np.random.Generator, picture: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a transform fills in at the borders is 0: for its time that stands for "no class"."""
        import torch
        from torchvision import tv_tensors

        picture, moved = self.varied(rng, picture, tv_tensors.Mask(mask - self.ignore_index))
        return picture, moved.as_subclass(torch.Tensor) + self.ignore_index  # bytes wrap around

    def predict(self, outputs: Any, examples: list[Example], facts: Facts) -> list[dict[str, Any]]:
        from torch.nn.functional import interpolate

        classes = len(facts.classes)
        padded = [max(example["shape"][side] for example in examples) for side in (1, 2)]
        logits = interpolate(outputs.logits.float(), padded, mode="bilinear", align_corners=False)
        rows = []
        for example, row in zip(examples, logits, strict=True):
            _, height, width = example["shape"]
            scaled = interpolate(
                row[None, :, :height, :width], example["size"], mode="bilinear", align_corners=False
            )
            if self.ignore_index < classes:  # a number among the classes that stands for none is no answer
                scaled[:, self.ignore_index] = -math.inf
            said = scaled[0].argmax(0).cpu().numpy().ravel()
            truth = np.frombuffer(example["truth"], np.uint8)
            judged = truth != self.ignore_index
            hits = np.bincount(truth[judged & (said == truth)], minlength=classes)
            predicted = np.bincount(said[judged], minlength=classes)
            rows.append({"prediction": {"hits": hits.tolist(), "predicted": predicted.tolist()}})
        return rows


def ids_of(mask: Any) -> np.ndarray[Any, Any]:
    """The class ids of a mask's cell: uint8 of shape (H, W).

    Raises: ValueError for colours in place of numbers, and numbers beyond 255.
    """
    values = np.asarray(opened(mask))
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]  # grey, written as three equal colours
    if values.ndim != 2:
        raise ValueError("that holds colours, not class ids")
    if values.max() > 255 or values.min() < 0:
        raise ValueError(f"with the class {values.max() if values.max() > 255 else values.min()}")
    return values.astype(np.uint8)


def resized(processor: Any, mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A mask in the size that a processor gives to its image: uint8 of shape (H, W)."""
    from PIL import Image

    image = Image.fromarray(np.repeat(mask[..., None], 3, axis=-1))  # processors want colours
    return np.ascontiguousarray(fitted(processor, image, resample=Image.Resampling.NEAREST)[0])
