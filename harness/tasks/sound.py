"""What the kinds whose examples are sounds share: files to samples, samples to inputs, augmentation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.tasks import files
from harness.tasks.base import LENGTH, Collate, Example, Facts, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

# Shorter sounds are filled up with silence: no model reads less than a few windows of 25 ms.
_SHORTEST_SECONDS = 0.05


class Augmentation(BaseModel):
    """How training examples are varied, each by its own draws. What is evaluated stays as it is.

    Attributes:
        gain: decibels, from and to.
        noise: white noise at a ratio of signal to noise in decibels, from and to.
        shift: seconds of silence, shared out at random before and after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    gain: tuple[float, float] | None = None
    noise: tuple[float, float] | None = None
    shift: float = Field(default=0.0, ge=0)

    @field_validator("gain", "noise")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"goes from {value[0]} to {value[1]}")
        return value

    def apply(self, wave: NDArray[Any], rate: int, rng: np.random.Generator) -> NDArray[Any]:
        """Samples of shape (samples,), varied; longer by `shift`."""
        if self.gain is not None:
            wave = wave * 10 ** (rng.uniform(*self.gain) / 20)
        if self.noise is not None:
            deviation = math.sqrt(float(np.mean(wave**2)) / 10 ** (rng.uniform(*self.noise) / 10))
            wave = wave + rng.normal(0, deviation, len(wave))
        silence = round(self.shift * rate)
        before = int(rng.integers(silence + 1))
        return np.pad(wave, (before, silence - before)).astype(np.float32)


class Sound(Task):
    """Sounds in files (whatever libsndfile reads: WAV, FLAC, Ogg, MP3, …), mixed to one channel and resampled
    to the rate of the model's feature extractor. A training's `max_length` counts tokens and is not applied.

    Attributes:
        audio: the column of the sounds: those of an `audiofolder`, bytes, or paths, which are looked for from
            the folder of the file that names them.
        max_seconds: longer sounds are cut for classification, and are faulty for recognition.
        augmentation: how training examples are varied.
    """

    processor_class: ClassVar[str] = "AutoFeatureExtractor"
    extra: ClassVar[str] = "speech"
    needs: ClassVar[tuple[str, ...]] = ("soundfile",)

    audio: str = "audio"
    max_seconds: float | None = Field(default=None, gt=0)
    augmentation: Augmentation | None = None

    @property
    def augments(self) -> bool:
        return self.augmentation is not None

    def columns(self) -> list[str]:
        return [self.audio, self.target]

    def raw(self) -> Mapping[str, Dataset]:
        return {name: self._undecoded(split, name) for name, split in super().raw().items()}

    def _undecoded(self, split: Dataset, name: str) -> Dataset:
        """The split with sounds as bytes or absolute paths: a decoder of the data library is not needed."""
        from datasets import Audio

        if isinstance(split.features.get(self.audio), Audio):
            return split.cast_column(self.audio, Audio(decode=False))
        return files.located(split, self.audio, self.dataset or {}, name)

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        for index, value in enumerate(split[self.audio]):
            try:
                samples, rate = decode(content(value))
            except ValueError as error:
                yield index, f"{error} ('{self.audio}'{named(value)})"
                continue
            reason = self.fault_of(samples, rate)
            if reason is not None:
                yield index, f"{reason} ('{self.audio}'{named(value)})"
        yield from super().faults(split)

    def fault_of(self, samples: NDArray[Any], rate: int) -> str | None:
        """What is wrong with samples of shape (samples, channels), as a sentence without subject."""
        if len(samples) == 0:
            return "has a sound of zero length"
        return None if np.isfinite(samples).all() else "has a sound that holds NaN or infinity"

    def stored(self, split: Dataset) -> Dataset:
        """The split with the bytes of the files, whatever they are called and wherever they lie."""
        from datasets import Value

        if split.features[self.audio] == Value("binary"):
            return split
        features = split.features.copy()
        features[self.audio] = Value("binary")
        return split.map(
            lambda row: {self.audio: content(row[self.audio])},
            features=features,
            load_from_cache_file=False,  # it would go by the paths
            desc=None,
        )

    def wave(self, data: bytes, rate: int) -> NDArray[Any]:
        """Samples at `rate` Hz, shape (samples,), float32."""
        from scipy.signal import resample_poly

        samples, own = decode(data)
        mono = samples.mean(axis=1)
        if own != rate:
            shared = math.gcd(own, rate)
            mono = resample_poly(mono, rate // shared, own // shared)
        if self.max_seconds is not None:
            mono = mono[: max(1, round(self.max_seconds * rate))]
        missing = math.ceil(_SHORTEST_SECONDS * rate) - len(mono)
        return np.pad(mono, (0, max(0, missing))).astype(np.float32)

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        """What the model reads of each sound; its samples where training varies these."""
        from datasets import Features, List, Value

        rate = processor.sampling_rate

        def row(example: Example) -> Example:
            wave = self.wave(example[self.audio], rate)
            inputs = wave if self.augments else features(wave, processor)
            return {"inputs": inputs.tobytes(), "shape": inputs.shape, LENGTH: len(inputs)}

        kinds = {"inputs": Value("binary"), "shape": List(Value("int64")), LENGTH: Value("int64")}
        encoded = split.map(
            row,
            remove_columns=split.column_names,
            features=Features(kinds),
            load_from_cache_file=False,
            desc=None,
        )
        return encoded.add_column("labels", self.labels_of(split, facts))

    def labels_of(self, split: Dataset, facts: Facts) -> list[Any]:
        """What the loss compares each example with."""
        return self.references(split, facts)

    def batch_labels(self, examples: list[Example]) -> Any:
        """The labels of a batch as a tensor."""
        import torch

        return torch.tensor([example["labels"] for example in examples])

    def collate(self, processor: Any) -> Collate:
        (name, *_), rate = processor.model_input_names, processor.sampling_rate
        masked = getattr(processor, "return_attention_mask", None)

        def batch(examples: list[Example], rngs: Any) -> dict[str, Any]:
            arrays = [np.frombuffer(e["inputs"], np.float32).reshape(e["shape"]) for e in examples]
            if self.augmentation is not None:
                if rngs is not None:
                    vary = self.augmentation.apply
                    arrays = [vary(wave, rate, rng) for wave, rng in zip(arrays, rngs, strict=True)]
                arrays = [features(wave, processor) for wave in arrays]
            padded = processor.pad(
                {name: arrays}, padding=True, return_attention_mask=masked, return_tensors="pt"
            )
            return {**padded, "labels": self.batch_labels(examples)}

        return batch

    def remarks(self, sample: Dataset, processor: Any) -> list[str]:
        shapes = {(samples.shape[1], rate) for samples, rate in map(decode, sample[self.audio][:])}
        rates = sorted({rate for _, rate in shapes if rate != processor.sampling_rate})
        found = []
        if rates:
            hertz = ", ".join(f"{rate} Hz" for rate in rates)
            found.append(f"some sounds of {hertz} are resampled to the model's {processor.sampling_rate} Hz")
        if any(channels > 1 for channels, _ in shapes):
            found.append("the channels of some sounds are mixed to one")
        return found


def content(value: Any) -> bytes:
    """The file behind an entry of a sound column.

    Raises: ValueError with a sentence without subject.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("has no sound")
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise ValueError(f"names a file that cannot be read: {error.strerror or error}") from error


def named(value: Any) -> str:
    """The file of an entry of a sound column, to be put after the column's name."""
    path = value.get("path") if isinstance(value, Mapping) else value
    return f", {path}" if isinstance(path, str) else ""


def decode(data: bytes) -> tuple[NDArray[Any], int]:
    """Samples of shape (samples, channels), float32 in [-1, 1], and their rate in Hz.

    Raises: ValueError with a sentence without subject.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        reason = str(error).rpartition(": ")[2].strip().rstrip(".")
        raise ValueError(f"has a sound that cannot be read: {reason}") from error
    return samples, int(rate)


def features(wave: NDArray[Any], processor: Any) -> NDArray[Any]:
    """What a feature extractor makes of one sound: its samples, or frames of a spectrogram."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = processor(wave, sampling_rate=processor.sampling_rate)
    # an extractor that divides by the deviation over time divides silence by zero
    return np.nan_to_num(np.asarray(found[processor.model_input_names[0]][0], dtype=np.float32))
