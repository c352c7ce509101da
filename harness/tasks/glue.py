"""The GLUE tasks, from the hub, at a pinned revision (Wang et al. 2019, arXiv 1804.07461).

The hub's test labels are hidden for all of them but MRPC; the usual validation split is the test split
here, and validation is carved from train, so that nothing is selected on what is reported.
"""

from __future__ import annotations

from typing import Any, ClassVar

from harness.tasks.text_classification import TextClassification

_SOURCE = "Wang et al. 2019, arXiv 1804.07461"


def _dataset(config: str) -> dict[str, Any]:
    return {"path": "nyu-mll/glue", "name": config, "revision": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"}


def _splits(test: str = "validation") -> dict[str, str | None]:
    return {"train": "train", "validation": None, "test": test}


class Cola(TextClassification):
    """Is the sentence acceptable English?"""

    name: ClassVar[str] = "cola"
    source: ClassVar[str] = f"Warstadt et al. 2019; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("cola")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("sentence",)
    metrics: tuple[str, ...] = ("matthews_correlation", "accuracy")


class Sst2(TextClassification):
    """Is the sentence of a film review positive?"""

    name: ClassVar[str] = "sst2"
    source: ClassVar[str] = f"Socher et al. 2013; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("sst2")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("sentence",)


class Mrpc(TextClassification):
    """Are the two sentences paraphrases? All three splits are labelled."""

    name: ClassVar[str] = "mrpc"
    source: ClassVar[str] = f"Dolan & Brockett 2005; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("mrpc")
    inputs: tuple[str, ...] = ("sentence1", "sentence2")
    metrics: tuple[str, ...] = ("accuracy", "f1")


class Stsb(TextClassification):
    """How similar are the two sentences, from 0 to 5?"""

    name: ClassVar[str] = "stsb"
    source: ClassVar[str] = f"Cer et al. 2017; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("stsb")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("sentence1", "sentence2")
    regression: bool = True
    metrics: tuple[str, ...] = ("spearman", "pearson")


class Qqp(TextClassification):
    """Do the two questions ask the same?"""

    name: ClassVar[str] = "qqp"
    source: ClassVar[str] = _SOURCE
    dataset: dict[str, Any] | None = _dataset("qqp")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("question1", "question2")
    metrics: tuple[str, ...] = ("f1", "accuracy")


class Mnli(TextClassification):
    """Does the premise entail the hypothesis? Tested on the matched genres."""

    name: ClassVar[str] = "mnli"
    source: ClassVar[str] = f"Williams et al. 2018; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("mnli")
    splits: dict[str, str | None] = _splits("validation_matched")
    inputs: tuple[str, ...] = ("premise", "hypothesis")


class Qnli(TextClassification):
    """Does the sentence answer the question?"""

    name: ClassVar[str] = "qnli"
    source: ClassVar[str] = f"Rajpurkar et al. 2016; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("qnli")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("question", "sentence")


class Rte(TextClassification):
    """Does the first sentence entail the second?"""

    name: ClassVar[str] = "rte"
    source: ClassVar[str] = _SOURCE
    dataset: dict[str, Any] | None = _dataset("rte")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("sentence1", "sentence2")


class Wnli(TextClassification):
    """Does the sentence with the pronoun resolved follow from the first?"""

    name: ClassVar[str] = "wnli"
    source: ClassVar[str] = f"Levesque et al. 2011; {_SOURCE}"
    dataset: dict[str, Any] | None = _dataset("wnli")
    splits: dict[str, str | None] = _splits()
    inputs: tuple[str, ...] = ("sentence1", "sentence2")
