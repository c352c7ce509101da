from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.errors import Mistakes, bad, nearest
from harness.tasks.base import Batch, Collate, Facts, Task

if TYPE_CHECKING:
    from datasets import Dataset


class TextClassification(Task):
    """One text, or a pair of texts, to one class; with `regression: true`, to one number.

    Attributes:
        inputs: the column of the text, or the two columns of a pair.
        labels: class names in order of their ids; by default those of the data.
    """

    name: ClassVar[str] = "text-classification"
    kind: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    processor_class: ClassVar[str] = "AutoTokenizer"

    inputs: tuple[str, ...] = Field(default=("text",), min_length=1, max_length=2)
    labels: tuple[str, ...] | None = None
    regression: bool = False

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("spearman", "pearson") if self.regression else ("accuracy",)

    def columns(self) -> list[str]:
        return [*self.inputs, self.target]

    def strata(self, split: Dataset) -> np.ndarray[Any, Any] | None:
        # as text: a label that is missing stops the sweep in `describe`, and must not stop numpy before
        return None if self.regression else np.asarray([str(value) for value in split[self.target][:]])

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        mistakes = Mistakes()
        for column in self.inputs:
            for name, split in splits.items():
                row = next((i for i, text in enumerate(split[column][:]) if not isinstance(text, str)), None)
                if row is not None:
                    mistakes.add(place, f"row {row} of the {name} split has no text in '{column}'")
        seen = {name: set(split[self.target][:]) for name, split in splits.items()}
        for name, values in seen.items():
            if None in values:
                mistakes.add(place, f"the {name} split has rows without a '{self.target}'")
        mistakes.raise_any()
        if self.regression:
            if not all(isinstance(value, (int, float)) for values in seen.values() for value in values):
                raise bad(place, f"'{self.target}' is not a number, as regression needs")
            if not all(math.isfinite(value) for values in seen.values() for value in values):
                raise bad(place, f"'{self.target}' holds NaN or infinity")
            return []
        names = self._class_names(splits, seen, place)
        ids = {name: self._class_ids(split, names) for name, split in splits.items()}
        for name, found in ids.items():
            for value in sorted((value for value, index in found.items() if index is None), key=str):
                mistakes.add(place, f"the {name} split has the label {value!r}", nearest(value, names))
        for index, label in enumerate(names):
            if index not in ids["train"].values():
                mistakes.add(place, f"the label '{label}' is missing from train")
        if len(names) < 2:
            mistakes.add(place, f"'{self.target}' has a single class ({', '.join(names)})")
        mistakes.raise_any()
        return names

    def _class_names(
        self, splits: Mapping[str, Dataset], seen: Mapping[str, set[Any]], place: str
    ) -> list[str]:
        if self.labels is not None:
            return list(self.labels)
        feature = splits["train"].features[self.target]
        if hasattr(feature, "names"):
            return list(feature.names)
        values = set().union(*seen.values())
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            raise bad(place, f"'{self.target}' holds fractions", "set regression: true for a numeric target")
        return [str(value) for value in sorted(values, key=lambda v: (isinstance(v, str), v))]

    def _class_ids(self, split: Dataset, names: list[str]) -> dict[Any, int | None]:
        """The id of every label as a split writes it; None for one that is not among `names`."""
        own = getattr(split.features[self.target], "names", None)
        return {value: self._class_id(value, names, own) for value in set(split[self.target][:])}

    def _class_id(self, value: Any, names: list[str], own: list[str] | None) -> int | None:
        if own is not None and self.labels is None:
            # a number of the split's own names, whatever these look like and whatever their order
            name = own[value] if 0 <= value < len(own) else None
            return names.index(name) if name in names else None
        if own is None and str(value) in names:
            return names.index(str(value))
        if isinstance(value, (int, float)) and float(value).is_integer() and 0 <= int(value) < len(names):
            return int(value)  # names were given to numbers
        return None

    def head(self, facts: Facts) -> dict[str, Any]:
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        ids = dict(enumerate(facts.classes))
        return {
            "num_labels": len(ids),
            "id2label": ids,
            "label2id": {name: index for index, name in ids.items()},
            "problem_type": "single_label_classification",
        }

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        ids = {} if self.regression else self._class_ids(split, facts.classes)
        # a tokenizer knows what its model can read (and says a huge number where there is no limit)
        limit = None if max_length is None else min(max_length, processor.model_max_length)

        def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = dict(processor(*(batch[c] for c in self.inputs), truncation=True, max_length=limit))
            labels = [float(v) if self.regression else ids[v] for v in batch[self.target]]
            return {**encoded, "labels": labels, "length": [len(ids) for ids in encoded["input_ids"]]}

        return split.map(rows, batched=True, remove_columns=split.column_names, desc=None)

    def collate(self, processor: Any) -> Collate:
        from transformers import DataCollatorWithPadding

        pad = DataCollatorWithPadding(processor, return_tensors="pt")
        return lambda examples: dict(pad(examples))

    def predict(self, outputs: Any, batch: Batch) -> list[dict[str, Any]]:
        logits = outputs.logits.float().cpu().numpy()
        if self.regression:
            return [{"prediction": float(value)} for value in logits[:, 0]]
        return [{"prediction": int(row.argmax()), "scores": row.tolist()} for row in logits]
