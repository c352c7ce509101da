from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from harness.errors import bad
from harness.tasks import conll
from harness.tasks.base import LENGTH, Collate, Facts, Task
from harness.tasks.labels import class_id, named_classes, wrong_classes

if TYPE_CHECKING:
    from datasets import Dataset

# The tag of a word that belongs to no entity.
OUTSIDE = "O"
# Begin, inside, and where a data set tells them apart the end of an entity and one of a single word.
_TAG = re.compile(r"O|[BIES]-.+")
# What a loss does not count.
_IGNORED = -100
# Per word the position of its first piece among the model's inputs; -1 for a word that has none.
STARTS = "starts"


class TokenClassification(Task):
    """Every word of a sentence to a tag: named entities in the BIO scheme (Ramshaw & Marcus 1995).

    A word that a tokenizer cuts into pieces is labelled and read at its first piece (Devlin et al. 2019);
    words behind `max_length`, and those of which a tokenizer leaves nothing, are predicted `O`, and count.

    Attributes:
        tokens: the column of the words, a list of strings.
        target: the column of the tags, a list as long: strings, or ids of a class label.
        labels: the tags in order of their ids; by default those of the data.
        label_noise: share of the training entities that get another type, drawn evenly.
    """

    name: ClassVar[str] = "token-classification"
    kind: ClassVar[str] = "token-classification"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    processor_class: ClassVar[str] = "AutoTokenizer"
    extra: ClassVar[str] = "entities"
    needs: ClassVar[tuple[str, ...]] = ("seqeval",)
    # byte-level tokenizers refuse words one by one without it, and others do not mind
    processor_options: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True}
    in_content: ClassVar[tuple[str, ...]] = (*Task.in_content, "label_noise")

    tokens: str = "tokens"
    target: str = "tags"
    labels: tuple[str, ...] | None = None
    label_noise: float = Field(default=0.0, ge=0, le=1)

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("span_f1", "span_precision", "span_recall", "tag_accuracy")

    def columns(self) -> list[str]:
        return [self.tokens, self.target, *(conll.PLACE if self._from_conll else ())]

    @property
    def _from_conll(self) -> bool:
        return (self.dataset or {}).get("path") == conll.FORMAT

    # -- what is true ----------------------------------------------------------------------------

    def _tags(self, split: Dataset) -> list[Any]:
        """The tags of every example by name; None for an id without one."""
        feature = getattr(split.features[self.target], "feature", None)
        names = getattr(feature, "names", None) or self.labels

        def named(tag: Any) -> Any:
            if not isinstance(tag, int) or names is None:
                return tag
            return names[tag] if 0 <= tag < len(names) else None

        rows = split[self.target][:]
        return [[named(tag) for tag in row] if isinstance(row, list) else None for row in rows]

    def references(self, split: Dataset, facts: Facts) -> list[Any]:
        return self._tags(split)

    def constant(self, train: Sequence[Any], references: Sequence[Any]) -> list[Any]:
        return [[OUTSIDE] * len(tags) for tags in references]

    def faults(self, split: Dataset) -> Iterator[tuple[int, str]]:
        lines = split[conll.LINE][:] if self._from_conll else None
        for index, (words, tags) in enumerate(zip(split[self.tokens][:], self._tags(split), strict=True)):
            fault = self._fault(words, tags)
            if fault is not None:
                reason, word = fault
                where = "" if lines is None else f" ({split[index][conll.FILE]}, line {lines[index] + word})"
                yield index, reason + where

    def _fault(self, words: Any, tags: Any) -> tuple[str, int] | None:
        """What is wrong with a sentence, and at which word."""
        if not isinstance(words, list) or not any(isinstance(word, str) and word.strip() for word in words):
            return f"has no list of words in '{self.tokens}'", 0
        if tags is None:
            return f"has no list of tags in '{self.target}'", 0
        if len(words) != len(tags):
            return f"has {len(words)} words and {len(tags)} tags", 0
        for index, (word, tag) in enumerate(zip(words, tags, strict=True)):
            at = f"at word {index + 1}, {word!r}"
            if not isinstance(word, str):
                return f"has no text {at}", index
            if tag is None:
                return f"has no tag {at}", index
            if not isinstance(tag, str) or not _TAG.fullmatch(tag):
                return f"has the tag {tag!r}, which is neither O nor B-… nor I-…, {at}", index
            if self.labels is not None and tag not in self.labels:
                return f"has the tag {tag!r}, which `labels` does not list, {at}", index
        return None

    def stored(self, split: Dataset) -> Dataset:
        # where a sentence stood is not part of its content
        return split.remove_columns([name for name in conll.PLACE if name in split.column_names])

    def altered(self, train: Dataset, rng: np.random.Generator) -> Dataset:
        if self.label_noise == 0:
            return train
        tags = self._tags(train)
        starts = [
            (row, at) for row, names in enumerate(tags) for at in range(len(names)) if _starts(names, at)
        ]
        types = sorted({tags[row][at][2:] for row, at in starts})
        for index in rng.permutation(len(starts))[: round(self.label_noise * len(starts))]:
            row, at = starts[index]
            others = [name for name in types if name != tags[row][at][2:]]
            if others:
                _rename(tags[row], at, others[rng.integers(len(others))])
        feature = train.features[self.target]
        names = getattr(feature.feature, "names", None)
        values = tags if names is None else [[names.index(tag) for tag in row] for row in tags]
        return train.remove_columns(self.target).add_column(self.target, values, feature=feature)

    def describe(self, splits: Mapping[str, Dataset], place: str) -> list[str]:
        found = {role: {tag for tags in self._tags(split) for tag in tags} for role, split in splits.items()}
        names = self._class_names(splits["train"], set().union(*found.values()))
        ids = {role: {tag: class_id(tag, names, None) for tag in tags} for role, tags in found.items()}
        mistakes = wrong_classes(names, ids, place)
        if len(names) < 2:
            mistakes.add(place, f"'{self.target}' has a single class ({', '.join(names)})")
        mistakes.raise_any()
        return names

    def _class_names(self, train: Dataset, found: set[str]) -> list[str]:
        if self.labels is not None:
            return list(self.labels)
        names = getattr(train.features[self.target].feature, "names", None)
        return list(names) if names else sorted(found, key=lambda tag: (tag != OUTSIDE, tag))

    # -- what a model reads and says -------------------------------------------------------------

    def head(self, facts: Facts) -> dict[str, Any]:
        return named_classes(facts)

    def encode(self, split: Dataset, processor: Any, facts: Facts, max_length: int | None) -> Dataset:
        if not processor.is_fast:
            raise bad("backbone", "its tokenizer does not say which piece belongs to which word")
        limit = None if max_length is None else min(max_length, processor.model_max_length)
        ids = {name: index for index, name in enumerate(facts.classes)}
        true = self._tags(split)

        def rows(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            words = batch[self.tokens]
            encoded = processor(words, is_split_into_words=True, truncation=True, max_length=limit)
            starts = [first_pieces(encoded.word_ids(row), len(each)) for row, each in enumerate(words)]
            labels = []
            for row, index in enumerate(indices):
                labels.append([_IGNORED] * len(encoded["input_ids"][row]))
                if max(starts[row]) < 0 and labels[row]:
                    # nothing is left of the sentence, and the mean loss over no word would be no number
                    labels[row][0] = ids[true[index][0]]
                for tag, start in zip(true[index], starts[row], strict=True):
                    if start >= 0:
                        labels[row][start] = ids[tag]
            lengths = [len(row) for row in labels]
            return {**encoded, STARTS: starts, "labels": labels, LENGTH: lengths}

        return split.map(rows, batched=True, with_indices=True, remove_columns=split.column_names, desc=None)

    def collate(self, processor: Any) -> Collate:
        from transformers import DataCollatorForTokenClassification

        processor = copy.copy(processor)
        processor.padding_side = "right"  # where words stand must not depend on their batch
        pad = DataCollatorForTokenClassification(processor, label_pad_token_id=_IGNORED, return_tensors="pt")
        taken = {*processor.model_input_names, "labels"}
        return lambda examples, _: dict(
            pad([{name: value for name, value in each.items() if name in taken} for each in examples])
        )

    def predict(self, outputs: Any, examples: Any, facts: Facts) -> list[dict[str, Any]]:
        best = outputs.logits.argmax(dim=-1).cpu().tolist()

        def named(row: list[int], start: int) -> str:
            return facts.classes[row[start]] if start >= 0 else OUTSIDE

        return [
            {"prediction": [named(row, start) for start in example[STARTS]]}
            for row, example in zip(best, examples, strict=True)
        ]


def first_pieces(word_ids: Sequence[int | None], count: int) -> list[int]:
    """Per word, shape (count,), where its first piece stands in what a tokenizer made of them; -1 for one
    that was cut off or of which nothing is left."""
    starts = [-1] * count
    for position in reversed(range(len(word_ids))):
        word = word_ids[position]
        if word is not None:
            starts[word] = position
    return starts


def _starts(tags: Sequence[str], at: int) -> bool:
    """Whether an entity starts at a word: also where a data set writes `B-` only between neighbours."""
    tag, before = tags[at], tags[at - 1] if at else OUTSIDE
    return tag != OUTSIDE and (tag[0] in "BS" or before[2:] != tag[2:] or before[0] in "ES")


def _rename(tags: list[str], start: int, name: str) -> None:
    """Give the entity that starts there another type."""
    end = start + 1
    while end < len(tags) and tags[end] != OUTSIDE and not _starts(tags, end):
        end += 1
    for index in range(start, end):
        tags[index] = f"{tags[index][:2]}{name}"
