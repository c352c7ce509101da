"""What the kinds share whose examples have one class each: names, checks, and ways to make train harder."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.errors import Mistakes, bad, nearest
from harness.tasks.base import Facts, Task

if TYPE_CHECKING:
    from datasets import Dataset


class Labelled(Task):
    """One class per example.

    Attributes:
        labels: class names in order of their ids; by default those of the data.
        label_noise: share of the training examples that get another class, drawn evenly.
        imbalance: how many times as many training examples the first class keeps as the last one; those
            between fall geometrically (Cui et al. 2019, arXiv 1901.05555). Classes already smaller stay.
    """

    in_content: ClassVar[tuple[str, ...]] = (*Task.in_content, "label_noise", "imbalance")

    labels: tuple[str, ...] | None = None
    label_noise: float = Field(default=0.0, ge=0, le=1)
    imbalance: float = Field(default=1.0, ge=1)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("accuracy",)

    def strata(self, split: Dataset) -> np.ndarray[Any, Any] | None:
        # as text: a label that is missing is told as a fault, and must not stop numpy before
        return np.asarray([str(value) for value in split[self.target][:]])

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        for index, value in enumerate(split[self.target][:]):
            if value is None:
                yield index, f"has no '{self.target}'"

    def altered(self, train: Dataset, rng: np.random.Generator) -> Dataset:
        if self.imbalance > 1:
            train = train.select(self._unbalanced(train, rng))
        if self.label_noise > 0:
            values = list(train[self.target][:])
            known = sorted(set(values), key=str)
            noisy = rng.permutation(len(values))[: round(self.label_noise * len(values))]
            for index in noisy:
                others = [value for value in known if value != values[index]]
                values[index] = others[rng.integers(len(others))] if others else values[index]
            feature = train.features[self.target]
            train = train.remove_columns(self.target).add_column(self.target, values)
            train = train.cast_column(self.target, feature)
        return train

    def _unbalanced(self, train: Dataset, rng: np.random.Generator) -> list[int]:
        ids = self._class_ids(train, self._class_names({"train": train}))
        # labels that are not among the names are told of later, and not lost before
        column = np.asarray([-1 if ids[value] is None else ids[value] for value in train[self.target][:]])
        classes, counts = np.unique(column, return_counts=True)
        kept: list[int] = []
        for rank, value in enumerate(classes):
            share = self.imbalance ** (-rank / max(1, len(classes) - 1))
            members = rng.permutation(np.flatnonzero(column == value))
            kept += members[: max(1, round(counts.max() * share))].tolist()
        return sorted(kept)

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        names = self._class_names(splits)
        found = {role: self._class_ids(split, names) for role, split in splits.items()}
        if self.labels is None and any(_fraction(value) for ids in found.values() for value in ids):
            raise bad(place, f"'{self.target}' holds fractions", self.hint_for_fractions)
        mistakes = wrong_classes(names, found, place)
        if len(names) < 2:
            mistakes.add(place, f"'{self.target}' has a single class ({', '.join(names)})")
        mistakes.raise_any()
        return names

    def _class_names(self, splits: Mapping[str, Dataset]) -> list[str]:
        if self.labels is not None:
            return list(self.labels)
        feature = splits["train"].features[self.target]
        if hasattr(feature, "names"):
            return list(feature.names)
        return sorted_names(value for split in splits.values() for value in split[self.target][:])

    hint_for_fractions: ClassVar[str] = "name a column of classes as `target`"

    def _class_ids(self, split: Dataset, names: list[str]) -> dict[Any, int | None]:
        """The id of every label as a split writes it; None for one that is not among `names`."""
        own = getattr(split.features[self.target], "names", None)
        return {value: class_id(value, names, own) for value in set(split[self.target][:])}

    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        ids = self._class_ids(split, facts.classes)
        return [ids[value] for value in split[self.target][:]]

    def head(self, facts: Facts) -> dict[str, Any]:
        return {**named_classes(facts), "problem_type": "single_label_classification"}

    def predict(self, outputs: Any, examples: Any, facts: Facts) -> list[dict[str, Any]]:
        logits = outputs.logits.float().cpu().numpy()
        return [{"prediction": int(row.argmax()), "scores": row.tolist()} for row in logits]


def named_classes(facts: Facts) -> dict[str, Any]:
    """The classes as a model's configuration writes them."""
    ids = dict(enumerate(facts.classes))
    return {"num_labels": len(ids), "id2label": ids, "label2id": {name: index for index, name in ids.items()}}


def sorted_names(values: Iterable[Any]) -> list[str]:
    """The names of classes that the data write as numbers, as strings or as both: numbers first, in order."""
    return [str(value) for value in sorted(set(values), key=lambda value: (isinstance(value, str), value))]


def class_id(value: Any, names: Sequence[str], own: Sequence[str] | None) -> int | None:
    """The id of a class as the data write it; None for one that is not among `names`.

    Args:
        own: the names that a split itself has for its numbers, whatever these look like and whatever their
            order. Where `names` has none of them, it gives the numbers other names.
    """
    if own is not None and not set(own).isdisjoint(names):
        name = own[value] if 0 <= value < len(own) else None
        return names.index(name) if name in names else None
    if own is None and str(value) in names:
        return names.index(str(value))
    if isinstance(value, (int, float)) and not _fraction(value) and 0 <= int(value) < len(names):
        return int(value)  # names were given to numbers
    return None


def _fraction(value: Any) -> bool:
    return isinstance(value, float) and not value.is_integer()


def wrong_classes(
    names: Sequence[str],
    found: Mapping[str, Mapping[Any, int | None]],
    place: str,
    what: str = "label",
    exempt: Container[int] = (),
    hint: str = "",
) -> Mistakes:
    """What names of classes and data have against each other.

    Args:
        found: by split the id of every class as the data write it; None for one that is not among `names`.
        what: the word for a class.
        exempt: ids that train need not show.
        hint: what to do about one that it does not.
    """
    mistakes = Mistakes()
    shown = set(found["train"].values())
    for role, ids in found.items():
        for value in sorted((value for value, index in ids.items() if index is None), key=str):
            mistakes.add(place, f"the {role} split has the {what} {value!r}", nearest(value, names))
    for index, name in enumerate(names):
        if name in names[:index]:
            mistakes.add(place, f"the {what} '{name}' is listed twice")
        elif index not in shown and index not in exempt:
            mistakes.add(place, f"the {what} '{name}' is missing from train", hint)
    return mistakes
