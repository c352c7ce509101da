from typing import Any, ClassVar

import datasets
import numpy as np

from harness.metrics.base import Metric

_SOURCE = "Nakayama 2018, seqeval; the measure is that of Tjong Kim Sang & De Meulder 2003, CoNLL-2003"


class Tagged(Metric):
    """Base of metrics over tags (`O`, `B-…`, `I-…`): an example is a list of strings, one per word."""

    source: ClassVar[str] = _SOURCE
    predictions: ClassVar[Any] = datasets.Sequence(datasets.Value("string"))
    references: ClassVar[Any] = datasets.Sequence(datasets.Value("string"))
    form: ClassVar[str | None] = "ratio"

    def _compute(self, predictions: Any, references: Any, **context: Any) -> dict[str, float]:
        return {self.name: self.score(predictions, references)}  # of different lengths: lists stay lists

    @staticmethod
    def seqeval(measure: str, predictions: Any, references: Any, **how: Any) -> float:
        from seqeval import metrics

        return float(getattr(metrics, f"{measure}_score")(references, predictions, **how))

    @staticmethod
    def spans(predictions: Any, references: Any) -> Any:
        """Per example: entities found and right, said, and true; shape (examples, 3)."""
        from seqeval.metrics.sequence_labeling import get_entities

        rows = []
        for said, true in zip(predictions, references, strict=True):
            ours, theirs = set(get_entities(list(said))), set(get_entities(list(true)))
            rows.append((len(ours & theirs), len(ours), len(theirs)))
        return np.asarray(rows).reshape(-1, 3)


class SpanF1(Tagged):
    """F1 of whole entities over all types: one counts as found if its first word, its last word and its type
    are right. 0 where nothing is found, or there is nothing to find."""

    name: ClassVar[str] = "span_f1"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return self.seqeval("f1", predictions, references, average="micro", zero_division=0)

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        right, said, true = self.spans(predictions, references).T
        return np.c_[2 * right, said + true]


class SpanPrecision(Tagged):
    """Share of the entities found that are right in extent and type; 0 where none is found."""

    name: ClassVar[str] = "span_precision"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return self.seqeval("precision", predictions, references, average="micro", zero_division=0)

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return self.spans(predictions, references)[:, :2]


class SpanRecall(Tagged):
    """Share of the true entities that are found, right in extent and type; 0 where there are none."""

    name: ClassVar[str] = "span_recall"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return self.seqeval("recall", predictions, references, average="micro", zero_division=0)

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return self.spans(predictions, references)[:, ::2]


class TagAccuracy(Tagged):
    """Share of the words with the right tag."""

    name: ClassVar[str] = "tag_accuracy"

    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        return self.seqeval("accuracy", predictions, references)

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        pairs = zip(predictions, references, strict=True)
        return np.asarray([(np.sum(np.equal(said, true)), len(true)) for said, true in pairs])
