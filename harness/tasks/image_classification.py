from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.tasks.base import LENGTH, Batch, Collate, Example, Facts, Rngs
from harness.tasks.images import Images, picture_of, pixel_batch
from harness.tasks.labels import Labelled

if TYPE_CHECKING:
    from datasets import Dataset


class ImageClassification(Images, Labelled):
    """One image to one class."""

    name: ClassVar[str] = "image-classification"
    kind: ClassVar[str] = "image-classification"
    auto_class: ClassVar[str] = "AutoModelForImageClassification"

    def columns(self) -> list[str]:
        return [self.image, self.target]

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        labels = self.references(split, facts)

        def row(example: dict[str, Any], index: int) -> dict[str, Any]:
            return {**self.picture(example[self.image], processor), "labels": labels[index], LENGTH: 1}

        return split.map(row, with_indices=True, remove_columns=split.column_names, desc=None)

    def collate(self, processor: Any) -> Collate:
        def batch(examples: list[Example], rngs: Rngs) -> Batch:
            import torch

            pictures = [picture_of(example) for example in examples]
            if rngs is not None:
                pictures = [self.varied(rng, picture) for rng, picture in zip(rngs, pictures, strict=True)]
            labels = torch.tensor([example["labels"] for example in examples])
            return {**pixel_batch(processor, pictures), "labels": labels}

        return batch
