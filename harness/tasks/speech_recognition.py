from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import field_validator

from harness.errors import bad
from harness.tasks.base import Example, Facts
from harness.tasks.labels import class_id, wrong_classes
from harness.tasks.sound import Sound, named

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

# Class 0 is the blank of connectionist temporal classification; characters follow.
_BLANK = 0
_IGNORED = -100


class SpeechRecognition(Sound):
    """One sound to a line of text, character by character, by connectionist temporal classification (Graves
    et al. 2006). The most probable class of every frame is read off; no language model helps. The output
    layer is the task's own: a pretrained model's vocabulary is not used.

    A transcript with more characters than the model has frames counts in the scores, and not in the loss.

    Attributes:
        target: the column of the transcripts. Runs of white space count as one space.
        vocabulary: the characters that transcripts may hold, in one string; by default those of the data, all
            of which train has to show.
        lowercase: transcripts are read in lower case.
    """

    name: ClassVar[str] = "automatic-speech-recognition"
    kind: ClassVar[str] = "automatic-speech-recognition"
    auto_class: ClassVar[str] = "AutoModelForCTC"
    needs: ClassVar[tuple[str, ...]] = (*Sound.needs, "jiwer")

    target: str = "transcription"
    vocabulary: str | None = None
    lowercase: bool = False

    @field_validator("vocabulary")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("is empty")
        return value

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("wer", "cer")

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        yield from super().faults(split)
        for index, (sound, text) in enumerate(zip(split[self.audio], split[self.target][:], strict=True)):
            reason = self._wrong_transcript(text)
            if reason is not None:
                yield index, f"{reason} ('{self.target}'{named(sound)})"

    def _wrong_transcript(self, text: Any) -> str | None:
        if not isinstance(text, str):
            return "has no transcript"
        unknown = set(self._text(text)) - set(self.vocabulary) if self.vocabulary else set()
        if unknown:
            return f"has symbols outside the vocabulary: {', '.join(map(repr, sorted(unknown)))}"
        return None

    def fault_of(self, samples: NDArray[Any], rate: int) -> str | None:
        if self.max_seconds is not None and len(samples) > self.max_seconds * rate:
            return f"has a sound of {len(samples) / rate:.1f} s, longer than max_seconds"
        return super().fault_of(samples, rate)

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        if self.vocabulary is not None:
            return sorted(set(self.vocabulary))
        found = {
            role: set().union(*(self._text(value) for value in split[self.target][:]))
            for role, split in splits.items()
        }
        classes = sorted(set().union(*found.values()))
        if not classes:
            raise bad(place, f"the transcripts in '{self.target}' hold no characters")
        ids = {
            role: {symbol: class_id(symbol, classes, None) for symbol in there}
            for role, there in found.items()
        }
        wrong_classes(classes, ids, place, "symbol", hint="`vocabulary` may list it").raise_any()
        return classes

    def _text(self, transcript: str) -> str:
        text = " ".join(transcript.split())
        return text.lower() if self.lowercase else text

    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        return [self._text(value) for value in split[self.target][:]]

    def constant(self, train: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        """Nothing is said: every word, and every character, is missing."""
        return [""] * len(references)

    def labels_of(self, split: Dataset, facts: Facts) -> list[list[int]]:
        ids = {symbol: index + 1 for index, symbol in enumerate(facts.classes)}
        return [[ids[symbol] for symbol in text] for text in self.references(split, facts)]

    def batch_labels(self, examples: list[Example]) -> Any:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        rows = [torch.tensor(example["labels"], dtype=torch.long) for example in examples]
        return pad_sequence(rows, batch_first=True, padding_value=_IGNORED)

    def head(self, facts: Facts) -> dict[str, Any]:
        return {
            "vocab_size": len(facts.classes) + 1,
            "pad_token_id": _BLANK,
            "ctc_loss_reduction": "mean",
            "ctc_zero_infinity": True,
        }

    def predict(self, outputs: Any, examples: list[Example], facts: Facts) -> list[dict[str, Any]]:
        best = outputs.logits.argmax(-1).cpu().numpy()
        lengths = frame_lengths(outputs, examples)
        return [
            {"prediction": spelled(row[:length], facts.classes)}
            for row, length in zip(best, lengths, strict=True)
        ]


def frame_lengths(outputs: Any, examples: list[Example]) -> list[int]:
    """How many frames of a padded batch's logits are each example's own. A model that does not say has them
    in proportion to its input, but for less than one frame."""
    if getattr(outputs, "frame_lengths", None) is not None:
        own: list[int] = outputs.frame_lengths.tolist()
        return own
    steps = [example["shape"][0] for example in examples]
    frames = outputs.logits.shape[1]
    return [max(1, frames * count // max(steps)) for count in steps]


def spelled(best: np.ndarray[Any, Any], classes: list[str]) -> str:
    """The text that the classes of successive frames stand for: repeats are one, blanks separate."""
    symbols = (classes[index - 1] for index, _ in groupby(best.tolist()) if index != _BLANK)
    return " ".join("".join(symbols).split())
