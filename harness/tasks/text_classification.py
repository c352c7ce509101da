from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.errors import bad
from harness.tasks.base import LENGTH, Collate, Facts
from harness.tasks.labels import Labelled

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


class TextClassification(Labelled):
    """One text, or a pair of texts, to one class; with `regression: true`, to one number.

    Attributes:
        inputs: the column of the text, or the two columns of a pair.
        regression: the target is a number.
    """

    name: ClassVar[str] = "text-classification"
    kind: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    processor_class: ClassVar[str] = "AutoTokenizer"
    hint_for_fractions: ClassVar[str] = "set regression: true for a numeric target"

    inputs: tuple[str, ...] = Field(default=("text",), min_length=1, max_length=2)
    regression: bool = False

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("spearman", "pearson") if self.regression else super().default_metrics

    def columns(self) -> list[str]:
        return [*self.inputs, self.target]

    def strata(self, split: Dataset) -> np.ndarray[Any, Any] | None:
        return None if self.regression else super().strata(split)

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        for column in self.inputs:
            for index, text in enumerate(split[column][:]):
                if not isinstance(text, str):
                    yield index, f"has no text in '{column}'"
        yield from super().faults(split)

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        if not self.regression:
            return super().describe(splits, place)
        if self.label_noise or self.imbalance > 1:
            raise bad(place, "label_noise and imbalance are for classes, not for regression")
        values = [value for split in splits.values() for value in split[self.target][:]]
        if not all(isinstance(value, (int, float)) for value in values):
            raise bad(place, f"'{self.target}' is not a number, as regression needs")
        if not all(math.isfinite(value) for value in values):
            raise bad(place, f"'{self.target}' holds NaN or infinity")
        return []

    def altered(self, train: Dataset, rng: np.random.Generator) -> Dataset:
        return train if self.regression else super().altered(train, rng)

    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        if self.regression:
            return [float(value) for value in split[self.target][:]]
        return super().references(split, facts)

    def constant(self, train: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        return [fmean(train)] * len(references) if self.regression else super().constant(train, references)

    def head(self, facts: Facts) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"} if self.regression else super().head(facts)

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        # a tokenizer knows what its model can read (and says a huge number where there is no limit)
        limit = None if max_length is None else min(max_length, processor.model_max_length)

        def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = dict(processor(*(batch[c] for c in self.inputs), truncation=True, max_length=limit))
            return {**encoded, LENGTH: [len(ids) for ids in encoded["input_ids"]]}

        labels = self.references(split, facts)
        encoded = split.map(rows, batched=True, remove_columns=split.column_names, desc=None)
        return encoded.add_column("labels", labels)

    def collate(self, processor: Any) -> Collate:
        return lambda examples, _: padded(examples, processor)

    def predict(self, outputs: Any, examples: Any, facts: Facts) -> list[dict[str, Any]]:
        if self.regression:
            return [{"prediction": float(value)} for value in outputs.logits.float().cpu().numpy()[:, 0]]
        return super().predict(outputs, examples, facts)


def padded(examples: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, torch.Tensor]:
    """What the tokenizer's own `pad` makes of encoded texts, at a fraction of its time, which for a head on
    stored features is most of a step."""
    import torch

    fill = {"input_ids": processor.pad_token_id, "token_type_ids": processor.pad_token_type_id}
    longest = max(len(example["input_ids"]) for example in examples)
    left = processor.padding_side == "left"
    batch: dict[str, torch.Tensor] = {}
    for name, first in examples[0].items():
        if not isinstance(first, list):
            batch[name] = torch.tensor([example[name] for example in examples])
            continue
        rows = np.full((len(examples), longest), fill.get(name, 0), dtype=np.int64)
        for row, example in zip(rows, examples, strict=True):
            values = example[name]
            row[slice(longest - len(values), None) if left else slice(len(values))] = values
        batch[name] = torch.from_numpy(rows)
    return batch
