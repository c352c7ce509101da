"""Two tasks on scenes put together from handwritten digits: where these are, and which pixels they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.tasks.base import Task
from harness.tasks.digits import digit_images
from harness.tasks.image_segmentation import ImageSegmentation
from harness.tasks.images import png
from harness.tasks.object_detection import ObjectDetection
from harness.tasks.splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

_SOURCE = "Alpaydin & Kaynak 1998, UCI optical recognition of handwritten digits; scenes made here"
# Shares of the drawings, by split: no drawing is seen in two of them.
_SHARES = (0.6, 0.2, 0.2)
_SIZES = (1000, 200, 200)
_NAMES = {"digits": tuple("0123456789"), "parity": ("even", "odd"), "any": ("digit",)}
# How often places are drawn for the digits of a scene before it gets a digit less.
_TRIES = 50
# What of 255 counts as ink.
_INK = 64
_NOISE = 32


@dataclass(frozen=True)
class Scene:
    """Attributes:
    pixels: uint8 of shape (side, side).
    digits, boxes: what it shows, and for each the corners (x0, y0, x1, y1) of its ink, in pixels.
    mask: uint8 of shape (side, side), 1 + the digit where there is ink or close to it, else 0.
    """

    pixels: np.ndarray[Any, Any]
    digits: list[int]
    boxes: list[tuple[int, int, int, int]]
    mask: np.ndarray[Any, Any]


class Scenes(Task):
    """Settings of both tasks.

    Attributes:
        side: width and height of a scene, in pixels.
        size: width and height of a digit's drawing in a scene, in pixels.
        most: digits in a scene, one to this many; fewer where there is no room for another one.
        classes: `digits` tells the ten apart, `parity` odd ones from even ones, `any` knows one class.
    """

    side: int = Field(default=48, ge=24)
    size: int = Field(default=20, ge=8, le=24)
    most: int = Field(default=2, ge=1)
    classes: Literal["digits", "parity", "any"] = "digits"

    def names(self) -> tuple[str, ...]:
        return _NAMES[self.classes]

    def class_of(self, digit: int) -> int:
        return {"digits": digit, "parity": digit % 2, "any": 0}[self.classes]

    def scenes(self) -> Iterator[tuple[str, list[Scene]]]:
        """The scenes of every split, of which the sizes that the task asks for are drawn. A scene does not
        depend on how many there are."""
        images, digits = digit_images()
        order = np.random.default_rng(0).permutation(len(images))
        ends = np.cumsum(np.multiply(_SHARES[:2], len(images)).astype(int))
        sizes = (self.train_size, self.validation_size, self.test_size)
        for number, (split, own) in enumerate(zip(SPLITS, np.split(order, ends), strict=True)):
            drawings, shown = images[own], digits[own]
            count = max(sizes[number] or 0, _SIZES[number])
            rngs = (np.random.default_rng([number, index]) for index in range(count))
            yield split, [_scene(rng, drawings, shown, self) for rng in rngs]


def _scene(
    rng: np.random.Generator, images: np.ndarray[Any, Any], digits: np.ndarray[Any, Any], shape: Scenes
) -> Scene:
    pixels = rng.integers(_NOISE, size=(shape.side, shape.side), dtype=np.uint8)
    scene = Scene(pixels, [], [], np.zeros_like(pixels))
    for x, y in _places(rng, int(rng.integers(1, shape.most + 1)), shape):
        chosen = int(rng.integers(len(images)))
        _draw(scene, images[chosen], int(digits[chosen]), x, y, shape.size)
    return scene


def _places(rng: np.random.Generator, count: int, shape: Scenes) -> list[tuple[int, int]]:
    """Upper left corners of `count` digits that do not overlap; of fewer where there is no room for them."""
    for number in range(count, 1, -1):
        for corners in rng.integers(shape.side - shape.size + 1, size=(_TRIES, number, 2)):
            apart = np.abs(corners[:, None] - corners).max(axis=-1) >= shape.size
            if apart.sum() == number * (number - 1):
                return [(x, y) for x, y in corners.tolist()]
    x, y = rng.integers(shape.side - shape.size + 1, size=2).tolist()
    return [(x, y)]


def _draw(scene: Scene, drawing: np.ndarray[Any, Any], digit: int, x: int, y: int, size: int) -> None:
    steps = np.arange(size) * len(drawing) // size
    cells = np.ix_(steps, steps)
    ink = drawing > _INK
    place = np.s_[y : y + size, x : x + size]
    scene.pixels[place] = np.maximum(scene.pixels[place], drawing[cells])
    scene.mask[place][_thick(ink)[cells]] = 1 + digit
    rows, columns = np.nonzero(ink[cells])
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    scene.digits.append(digit)
    scene.boxes.append((x + int(left), y + int(top), x + int(right), y + int(bottom)))


def _thick(ink: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ink and the pixels next to it."""
    wide = np.pad(ink, 1)
    side = len(ink)
    near = np.stack([wide[y : y + side, x : x + side] for y in range(3) for x in range(3)])
    thick: np.ndarray[Any, Any] = np.logical_or.reduce(near)
    return thick


class DigitScenes(ObjectDetection, Scenes):
    """Find one or two handwritten digits in a scene of 48 × 48 pixels with faint noise."""

    name: ClassVar[str] = "digit-scenes"
    source: ClassVar[str] = _SOURCE

    bbox_format: Literal["xywh", "xyxy"] = "xyxy"

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import ClassLabel, Dataset, Features, List, Value

        image = {"bytes": Value("binary"), "path": Value("string")}
        label = ClassLabel(names=list(self.names()))
        features = Features(
            image=image, objects={"bbox": List(List(Value("int64"))), "category": List(label)}
        )
        found = {}
        for split, scenes in self.scenes():
            columns = {
                "image": [png(scene.pixels) for scene in scenes],
                "objects": [
                    {"bbox": scene.boxes, "category": [self.class_of(digit) for digit in scene.digits]}
                    for scene in scenes
                ],
            }
            found[split] = Dataset.from_dict(columns, features)
        return found


class DigitMasks(ImageSegmentation, Scenes):
    """Say of every pixel of a scene of one or two handwritten digits which digit it is part of, if any."""

    name: ClassVar[str] = "digit-masks"
    source: ClassVar[str] = _SOURCE

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset, Features, Value

        ids = np.array([0, *(1 + self.class_of(digit) for digit in range(10))], np.uint8)
        image = {"bytes": Value("binary"), "path": Value("string")}
        found = {}
        for split, scenes in self.scenes():
            columns = {
                "image": [png(scene.pixels) for scene in scenes],
                "mask": [png(ids[scene.mask]) for scene in scenes],
            }
            found[split] = Dataset.from_dict(columns, Features(image=image, mask=image))
        return found

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        labels = self.labels or ("background", *self.names())
        return super(DigitMasks, self.model_copy(update={"labels": labels})).describe(splits, place)
