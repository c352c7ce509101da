from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from harness.tasks.image_classification import ImageClassification
from harness.tasks.images import png

if TYPE_CHECKING:
    from datasets import Dataset

_SIDE = 32


def digit_images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Handwritten digits that scikit-learn carries, each drawing once: uint8 of shape (n, 8, 8), 0 to 255,
    and the digits, shape (n,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images * (255 / 16)).round().astype(np.uint8)
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    keep = np.sort(first)
    return images[keep], found.target[keep]


class Digits(ImageClassification):
    """1,797 handwritten digits of 8 × 8 pixels, drawn at 32 × 32.

    Attributes:
        look: `plain` (white on black), `inverted` (black on white), or `rotated` by a quarter turn: looks
            that share what a digit is, to go from one task to another.
    """

    name: ClassVar[str] = "digits"
    source: ClassVar[str] = "Alpaydin & Kaynak 1998, UCI optical recognition of handwritten digits"

    look: Literal["plain", "inverted", "rotated"] = "plain"

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset, Features, Value

        images, digits = digit_images()
        if self.look == "inverted":
            images = 255 - images
        elif self.look == "rotated":
            images = np.rot90(images, axes=(1, 2))
        large = images.repeat(_SIDE // 8, axis=1).repeat(_SIDE // 8, axis=2)
        cells = [png(image) for image in large]
        features = Features(
            {"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("int64")}
        )
        return {"train": Dataset.from_dict({"image": cells, "label": digits.tolist()}, features)}
