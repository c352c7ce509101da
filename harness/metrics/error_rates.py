"""Error rates of transcripts, over the whole split: long references count more than short ones."""

from abc import abstractmethod
from typing import Any, ClassVar

import datasets

from harness.metrics.base import Metric


class _ErrorRate(Metric):
    """Substitutions, deletions and insertions per unit of the references. Above 1 where more is said than
    there was to say; references without any unit count as one, so that what is inserted there is counted."""

    higher_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 2.0)  # higher in theory, where much more is said
    predictions: ClassVar[Any] = datasets.Value("string")
    references: ClassVar[Any] = datasets.Value("string")
    form: ClassVar[str | None] = "ratio"

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        """Wrong units and units of the reference; one reference after the other, as jiwer aligns them."""
        found = []
        for true, said in zip(references, predictions, strict=True):
            row = self.counted([true], [said])
            missed = row.substitutions + row.deletions
            found.append((missed + row.insertions, missed + row.hits))
        return found

    @staticmethod
    @abstractmethod
    def counted(references: list[str], predictions: list[str]) -> Any:
        """What jiwer counts."""

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return self.rate(self.counted(list(references), list(predictions)))

    @staticmethod
    def rate(found: Any) -> float:
        missed = found.substitutions + found.deletions
        return float((missed + found.insertions) / max(1, missed + found.hits))


class WordErrorRate(_ErrorRate):
    """Word error rate: wrong, missing and superfluous words per word of the references."""

    name: ClassVar[str] = "wer"

    @staticmethod
    def counted(references: list[str], predictions: list[str]) -> Any:
        import jiwer

        return jiwer.process_words(references, predictions)


class CharacterErrorRate(_ErrorRate):
    """Character error rate: the same with characters, spaces included."""

    name: ClassVar[str] = "cer"

    @staticmethod
    def counted(references: list[str], predictions: list[str]) -> Any:
        import jiwer

        return jiwer.process_characters(references, predictions)
