"""Sounds of a telephone's keypad, synthesised: the two tones of a key (ITU-T Q.23), at a telephone's 8 kHz.

Everything is drawn from fixed seeds. Keys are about as short, as far off their pitch and as unlike in their
two levels as ITU-T Q.24 lets a receiver expect.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from harness.tasks.audio_classification import AudioClassification
from harness.tasks.labels import Labelled
from harness.tasks.speech_recognition import SpeechRecognition

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

RATE = 8000
_LOW = (697, 770, 852, 941)
_HIGH = (1209, 1336, 1477, 1633)
_KEYS = "123A456B789C*0#D"
TONES = {key: (_LOW[index // 4], _HIGH[index % 4]) for index, key in enumerate(_KEYS)}
_OFF_PITCH = 0.015  # of the frequency, at most
_EDGE_SECONDS = 0.004

_SOURCE = "synthesised; tones of ITU-T Q.23, tolerances of ITU-T Q.24"


def press(key: str, seconds: float, rng: np.random.Generator) -> NDArray[Any]:
    """The sound of one key, shape (samples,), with edges that do not click."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = [
        10 ** (rng.uniform(-4, 0) / 20)
        * np.sin(2 * np.pi * (frequency * (1 + rng.uniform(-_OFF_PITCH, _OFF_PITCH)) * time + rng.uniform()))
        for frequency in TONES[key]
    ]
    edge = np.minimum(1, np.minimum(time, time[::-1]) / _EDGE_SECONDS)
    return np.asarray((tones[0] + tones[1]) * edge * rng.uniform(0.1, 0.4))


def silence(seconds: float) -> NDArray[Any]:
    return np.zeros(round(seconds * RATE))


def noisy(wave: NDArray[Any], ratio: float, rng: np.random.Generator) -> NDArray[Any]:
    """White noise added, at a ratio of signal to noise in decibels."""
    return wave + rng.normal(0, np.sqrt(np.mean(wave**2) / 10 ** (ratio / 10)), len(wave))


def clipped(wave: NDArray[Any], decibels: float) -> NDArray[Any]:
    """What an input that is overdriven by so much leaves: the tones, and their harmonics and differences."""
    limit = np.abs(wave).max() / 10 ** (decibels / 20)
    kept: NDArray[Any] = np.clip(wave, -limit, limit)
    return kept


def wav(wave: NDArray[Any]) -> bytes:
    """A WAV file of 16 bits."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(wave, -1, 1), RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def table(rows: Iterable[tuple[NDArray[Any], str]], target: str) -> Mapping[str, Dataset]:
    from datasets import Dataset, Features, Value

    sounds, said = zip(*rows, strict=True)
    features = Features({"audio": Value("binary"), target: Value("string")})
    data = {"audio": [wav(sound) for sound in sounds], target: list(said)}
    return {"train": Dataset.from_dict(data, features=features)}


class KeypadTones(AudioClassification):
    """Which of the sixteen keys is it? A single key of 0.1 to 0.2 s, 100 sounds of each.

    Attributes:
        condition: `clean`; `noisy`, under white noise about as loud as the key; `clipped`, from an overdriven
            input that clips nearly everything, under a little noise.
    """

    name: ClassVar[str] = "keypad-tones"
    source: ClassVar[str] = _SOURCE
    in_content: ClassVar[tuple[str, ...]] = (*Labelled.in_content, "condition")

    target: str = "key"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")
    condition: Literal["clean", "noisy", "clipped"] = "clean"

    def raw(self) -> Mapping[str, Dataset]:
        rng = np.random.default_rng([1, ("clean", "noisy", "clipped").index(self.condition)])
        keys = rng.permutation(list(_KEYS) * 100).tolist()
        return table(((self._recorded(key, rng), key) for key in keys), self.target)

    def _recorded(self, key: str, rng: np.random.Generator) -> NDArray[Any]:
        before, after = rng.uniform(0, 0.03, 2)
        wave = np.concatenate([silence(before), press(key, rng.uniform(0.1, 0.2), rng), silence(after)])
        if self.condition == "noisy":
            return noisy(wave, rng.uniform(-5, 5), rng)
        if self.condition == "clipped":
            return noisy(clipped(wave, rng.uniform(15, 30)), rng.uniform(10, 20), rng)
        return wave


class KeypadStrings(SpeechRecognition):
    """Which number was dialled? Three to seven digits in groups with pauses between, which are spaces in the
    transcript, by people of different speeds, under noise. No number is dialled twice."""

    name: ClassVar[str] = "keypad-strings"
    source: ClassVar[str] = _SOURCE

    vocabulary: str | None = " 0123456789"

    def raw(self) -> Mapping[str, Dataset]:
        rng = np.random.default_rng(2)
        numbers: dict[str, None] = {}
        while len(numbers) < 1200:
            numbers[self._number(rng)] = None
        return table(((self._recorded(number, rng), number) for number in numbers), self.target)

    def _number(self, rng: np.random.Generator) -> str:
        digits = "".join(rng.choice(list("0123456789"), rng.integers(3, 8)))
        cut = int(rng.integers(2, len(digits)))  # groups of two and more, but for the last
        return f"{digits[:cut]} {digits[cut:]}"

    def _recorded(self, number: str, rng: np.random.Generator) -> NDArray[Any]:
        speed = rng.uniform(0.7, 1.4)
        pieces = [silence(rng.uniform(0, 0.05))]
        for key in number:
            if key == " ":
                pieces.append(silence(rng.uniform(0.12, 0.2) / speed))
            else:
                pieces.append(press(key, rng.uniform(0.06, 0.1) / speed, rng))
                pieces.append(silence(rng.uniform(0.03, 0.05) / speed))
        return noisy(np.concatenate(pieces), rng.uniform(5, 20), rng)
