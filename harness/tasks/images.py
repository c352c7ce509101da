"""What the kinds that look at images share: reading them, fitting them to a model, varying them.

Fitting to a model is done in two steps by the model's own image processor: resizing and cropping once, when a
split is encoded (kept as bytes of 0 to 255), scaling and normalising when a batch is made. Between the two is
where training images are varied.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.errors import bad, nearest
from harness.tasks import files
from harness.tasks.base import Batch, Example, Task

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from PIL.Image import Image

    from harness.backbones.base import Backbone

# What image processors call the parts of the first step, and those of the second, which includes whatever
# makes of pixels something that is not red, green and blue from 0 to 255.
_FITTING = ("do_resize", "do_center_crop", "do_pad", "do_thumbnail", "do_align_long_axis")
_NORMALISING = ("do_rescale", "do_normalize", "include_top", "do_flip_channel_order")
# How far the two steps may be from the processor at once, in levels of 255: the first one rounds.
_ROUNDING = 1.0


class Images(Task):
    """Settings of every kind that looks at images.

    Attributes:
        image: the column of the images: files, or what `datasets` calls an Image.
        augmentation: transforms of `torchvision.transforms.v2` by class name with their arguments, in order,
            e.g. `{RandomHorizontalFlip: {p: 0.5}}`; training images only, drawn anew in each epoch. Boxes
            and masks follow.
    """

    processor_class: ClassVar[str] = "AutoImageProcessor"
    extra: ClassVar[str] = "vision"
    needs: ClassVar[tuple[str, ...]] = ("PIL", "torchvision")

    image: str = "image"
    augmentation: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def augments(self) -> bool:
        return bool(self.augmentation)

    def check(self, place: str) -> None:
        super().check(place)  # raises where torchvision is not there
        try:
            _transforms(self.augmentation)
        except ValueError as error:
            raise bad(f"{place}.augmentation", str(error)) from error

    def processor(self, backbone: Backbone, place: str = "backbone") -> Any:
        processor = super().processor(backbone, place)
        if reason := unfaithful(processor):
            raise bad(place, f"its image processor, {type(processor).__name__}, {reason}")
        return processor

    def raw(self) -> Any:
        return {name: self._undecoded(split, name) for name, split in super().raw().items()}

    def _undecoded(self, split: Dataset, name: str) -> Dataset:
        """The split with images as bytes or absolute paths: a broken file is named where it is decoded."""
        import datasets

        for column, feature in split.features.items():
            if isinstance(feature, datasets.Image):
                split = split.cast_column(column, datasets.Image(decode=False))
            elif column in self.image_columns():
                split = files.located(split, column, self.dataset or {}, name)
        return split

    def image_columns(self) -> tuple[str, ...]:
        """The columns that hold images, masks included."""
        return (self.image,)

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        for index, row in enumerate(plain(split)):
            if reason := self._unreadable(row) or self.fault_of(row):
                yield index, reason
        yield from super().faults(split)

    def _unreadable(self, row: Mapping[str, Any]) -> str | None:
        for column in self.image_columns():
            try:
                opened(row[column])
            except Exception as error:  # PIL raises whatever its decoders raise
                return f"has no readable image in '{column}'{file_of(row[column])}: {error}"
        return None

    def fault_of(self, row: Mapping[str, Any]) -> str | None:
        """What is wrong with an example whose images can be read, as a sentence without subject."""
        return None

    def stored(self, split: Dataset) -> Dataset:
        def content(row: dict[str, Any]) -> dict[str, Any]:
            return {column: {"bytes": _bytes(row[column]), "path": None} for column in self.image_columns()}

        return plain(split).map(content, load_from_cache_file=False, desc=None)

    def picture(self, value: Any, processor: Any) -> dict[str, Any]:
        """An image as an encoded example holds it: `pixels` (bytes of C × H × W) and their `shape`."""
        pixels = fitted(processor, opened(value).convert("RGB"))
        return {"pixels": pixels.tobytes(), "shape": list(pixels.shape)}

    def varied(self, rng: np.random.Generator, *values: Any) -> Any:
        """The same random transforms on tensors of `torchvision.tv_tensors`."""
        import torch
        from torchvision.transforms import v2

        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which sets the generators of accelerators too
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            return v2.Compose(_transforms(self.augmentation))(*values)


def plain(split: Dataset) -> Dataset:
    """The split with its images not decoded."""
    import datasets

    for column, feature in split.features.items():
        if isinstance(feature, datasets.Image):
            split = split.cast_column(
                column, {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
            )
    return split


def opened(value: Any) -> Image:
    """The image of a cell, read to its end.

    Raises: OSError and others of PIL for what is none or is cut off.
    """
    from PIL import Image

    if value is None:
        raise ValueError("there is none")
    image = Image.open(io.BytesIO(_bytes(value)))
    image.load()
    return image


def extent(value: Any) -> tuple[int, int]:
    """Width and height in pixels of the image of a cell, of which only the beginning is read."""
    from PIL import Image

    size: tuple[int, int] = Image.open(io.BytesIO(_bytes(value))).size
    return size


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return Path(value).read_bytes()
    content: bytes | None = value["bytes"]
    return content if content is not None else Path(value["path"]).read_bytes()


def file_of(value: Any) -> str:
    """` (cats/3.png)` for a cell that comes from a file."""
    path = value if isinstance(value, str) else (value or {}).get("path")
    return f" ({path})" if path else ""


def png(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A cell that holds an image, of uint8 pixels of shape (H, W) or (H, W, 3)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def fitted(processor: Any, image: Image, **options: Any) -> np.ndarray[Any, Any]:
    """The image in the size that a model takes: uint8 of shape (3, H, W). `options` go to the processor."""
    if hasattr(processor, "val_transforms"):  # of timm: a chain that ends in a tensor and its normalisation
        for transform in processor.val_transforms.transforms[:-2]:
            image = transform(image)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    found = processor(images=[image], **_without(processor, _NORMALISING), **options)
    return np.ascontiguousarray(found["pixel_values"][0].round().clamp(0, 255).byte().numpy())


def normalised(processor: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The numbers that a model reads, from uint8 pixels of shape (B, 3, H, W)."""
    if hasattr(processor, "val_transforms"):
        scaled: torch.Tensor = processor.val_transforms.transforms[-1](pixels.float() / 255)
        return scaled
    found: torch.Tensor = processor(images=pixels, **_without(processor, _FITTING))["pixel_values"]
    return found


def _without(processor: Any, parts: tuple[str, ...]) -> dict[str, Any]:
    """Arguments that switch parts of a processor off."""
    return {**{part: False for part in parts if hasattr(processor, part)}, "return_tensors": "pt"}


def unfaithful(processor: Any) -> str | None:
    """Why the two steps do not stand for a processor, in the words that follow its name; None if they do.

    They are compared with the processor at once, on an image of colours that change slowly: one of them would
    show channels in another order or normalised twice, and no resizing goes beyond what pixels can hold.
    """
    import torch
    from PIL import Image

    across, down = np.meshgrid(np.linspace(60, 190, 64), np.linspace(80, 170, 48))
    image = Image.fromarray(np.stack([across, down, 250 - across], axis=-1).astype(np.uint8))
    try:
        at_once = processor(images=[image], return_tensors="pt")["pixel_values"]
        in_two = normalised(processor, torch.from_numpy(fitted(processor, image))[None])
        black_grey = torch.tensor([0, 100], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)
        black, grey = normalised(processor, black_grey)
    except Exception as error:  # processors that make something else of an image raise anything
        return f"does not make one picture of an image: {type(error).__name__}: {error}"
    if at_once.shape != in_two.shape:
        shapes = [" × ".join(map(str, found.shape)) for found in (at_once, in_two)]
        return f"makes {shapes[0]} numbers of an image at once, and {shapes[1]} in two steps"
    level = (grey - black).abs().amax() / 100
    if ((at_once - in_two).abs() > _ROUNDING * level).any():
        return "gives other numbers at once than by resizing first and normalising after"
    return None


def picture_of(example: Example) -> torch.Tensor:
    """The pixels of an encoded example: uint8, a `tv_tensors.Image` of shape (3, H, W)."""
    from torchvision import tv_tensors

    image: torch.Tensor = tv_tensors.Image(array_of(example, "pixels", "shape"))
    return image


def array_of(example: Example, content: str, shape: str) -> torch.Tensor:
    """A uint8 array that an encoded example holds as bytes."""
    import torch

    array = np.frombuffer(example[content], np.uint8).reshape(example[shape])
    return torch.from_numpy(array.copy())  # copied: torch wants memory that it may write to


def pixel_batch(processor: Any, pictures: Sequence[torch.Tensor]) -> Batch:
    """`pixel_values` of shape (B, 3, H, W), smaller images padded with zeros at the right and the bottom, and
    `pixel_mask` of shape (B, H, W), 1 where there is an image."""
    import torch

    height = max(picture.shape[-2] for picture in pictures)
    width = max(picture.shape[-1] for picture in pictures)
    pixels = torch.zeros(len(pictures), 3, height, width, dtype=torch.uint8)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.long)
    for row, picture in enumerate(pictures):
        pixels[row, :, : picture.shape[-2], : picture.shape[-1]] = picture
        mask[row, : picture.shape[-2], : picture.shape[-1]] = 1
    return {"pixel_values": normalised(processor, pixels) * mask[:, None], "pixel_mask": mask}


def _transforms(chain: dict[str, dict[str, Any]]) -> list[Any]:
    """Raises: ValueError for a name that torchvision does not know, or arguments that it refuses."""
    from torchvision.transforms import v2

    known = [
        n for n in dir(v2) if isinstance(getattr(v2, n), type) and issubclass(getattr(v2, n), v2.Transform)
    ]
    made = []
    for name, arguments in chain.items():
        if name not in known:
            raise ValueError(f"torchvision has no transform '{name}' ({nearest(name, known)})")
        try:
            made.append(getattr(v2, name)(**arguments))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} does not take {arguments}: {error}") from error
    return made
