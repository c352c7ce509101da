"""Training data made harder on purpose: noise in labels, classes out of balance; and margins to be met."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, word_task, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli import main
from harness.records.paths import ResultPaths
from harness.records.record import read_records
from harness.registry import build
from harness.tasks.text_classification import TextClassification


@pytest.fixture(scope="module")
def many_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("labels") / "words.csv", sentences(600, seed=5))


def task(path: Path, **changes: Any) -> TextClassification:
    settings = {
        "dataset": {"path": "csv", "data_files": {"train": str(path)}},
        "validation_size": 60,
        "test_size": 60,
        **changes,
    }
    return build(TextClassification, settings, "task")


def train(path: Path, **changes: Any) -> Any:
    return task(path, **changes).load()["train"]


@settings(max_examples=10, deadline=None)
@given(share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), seed=st.integers(0, 3))
def test_label_noise_changes_its_share_of_train_alone(many_words: Path, share: float, seed: int) -> None:
    clean, noisy = (task(many_words, label_noise=x, split_seed=seed).load() for x in (0.0, share))
    assert clean["train"]["text"][:] == noisy["train"]["text"][:]
    pairs = list(zip(clean["train"]["label"][:], noisy["train"]["label"][:], strict=True))
    assert sum(a != b for a, b in pairs) == round(share * len(pairs))
    assert {b for _, b in pairs} <= {a for a, _ in pairs}
    for name in ("validation", "test"):
        assert clean[name]["label"][:] == noisy[name]["label"][:]


def test_label_noise_is_the_same_every_time(many_words: Path) -> None:
    first, again = (train(many_words, label_noise=0.3)["label"][:] for _ in range(2))
    assert first == again


@pytest.mark.parametrize("imbalance", [2.0, 10.0])
def test_classes_fall_geometrically_in_train_alone(many_words: Path, imbalance: float) -> None:
    splits = task(many_words, imbalance=imbalance).load()
    counts = Counter(splits["train"]["label"][:])
    sizes = [counts[name] for name in sorted(counts)]
    assert sizes[0] / sizes[-1] == pytest.approx(imbalance, rel=0.1)
    assert sizes[0] / sizes[1] == pytest.approx(imbalance**0.5, rel=0.1)
    assert set(Counter(splits["test"]["label"][:]).values()) == {20}


@pytest.mark.parametrize("labels", [None, [str(number) for number in reversed(range(12))]])
def test_imbalance_ranks_classes_by_their_ids(tmp_path: Path, labels: list[str] | None) -> None:
    """Numbers as numbers, 2 before 10; in the order of `labels` where it is given."""
    rows = [(text, str(index % 12)) for index, (text, _) in enumerate(sentences(600, seed=6))]
    path = write_table(tmp_path / "numbers.csv", rows)
    made = task(path, imbalance=10.0, labels=labels)
    splits = made.load()
    counts = Counter(made.references(splits["train"], made.facts(splits)))
    sizes = [counts[index] for index in range(12)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] / sizes[-1] == pytest.approx(10, rel=0.25)


def test_harder_data_is_other_data(many_words: Path) -> None:
    """Trials on changed labels are other trials, through the content of the data."""
    made = [task(many_words, **changes) for changes in ({}, {"label_noise": 0.1}, {"imbalance": 3})]
    assert len({one.facts(one.load()).fingerprint for one in made}) == 3
    assert len({str(one.identity()) for one in made}) == 1


@pytest.mark.parametrize(("margin", "code"), [(0.0, 0), (0.99, 3)])
def test_a_run_says_whether_its_margin_is_met(
    sweep: Any, words_csv: Path, tmp_path: Path, capsys: Any, margin: float, code: int
) -> None:
    path = sweep(
        tasks=[word_task(words_csv, margin=margin, train_size=160)],
        strategies={"full": {"freeze": 0}},
        optimizer={"learning_rate": 1e-2},
        training={"epochs": 8, "batch_size": 8, "max_length": 16},
        seeds={"tune": 1, "confirm": 1},
    )
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == code
    missed = "does not beat the constant predictor (accuracy 0.344) by the margin of 0.99"
    assert (missed in capsys.readouterr().err) == (code == 3)
    report = (tmp_path / "out" / "small" / "report.md").read_text()
    assert (missed.split(" (")[0] in report) == (code == 3)
    assert "constant predictor" in report


def test_a_task_is_run_on_the_backbones_that_it_names(sweep: Any, models: Any, words_csv: Path) -> None:
    from harness import spec
    from harness.errors import InputError

    backbones = [{"name": name, "path": str(models(name))} for name in ("bert", "roberta")]
    tasks = [word_task(words_csv, "one", backbones=["bert"]), word_task(words_csv, "two")]
    made = spec.load(sweep(backbones=backbones, tasks=tasks))
    assert [(t.name, b.name) for t, b in made.pairs] == [("one", "bert"), ("two", "bert"), ("two", "roberta")]
    with pytest.raises(InputError, match=r"there is no backbone 'brt'.*did you mean 'bert'"):
        spec.load(sweep(backbones=backbones, tasks=[word_task(words_csv, backbones=["brt", "roberta"])]))
    with pytest.raises(InputError, match="no task is run on the backbone 'roberta'"):
        spec.load(sweep(backbones=backbones, tasks=tasks[:1]))


def test_what_is_skipped_is_counted_in_the_plan_and_in_every_record(
    sweep: Any, tmp_path: Path, capsys: Any
) -> None:
    rows = [*sentences(60, seed=2), ("", "animals"), ("the old dog", "")]
    table = write_table(tmp_path / "words.csv", rows)
    task = word_task(table, train_size=40, validation_size=10, test_size=10, on_bad_example="skip")
    path = sweep(tasks=[task], seeds={"tune": 1, "confirm": 0}, strategies={"full": {"freeze": 0}})
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    skipped: Counter[str] = Counter()
    for record in read_records(ResultPaths(tmp_path / "out" / "small")):
        skipped = Counter(record["provenance"]["data"]["skipped"])
    assert sum(skipped.values()) == 2
    assert all(
        f"{count} faulty examples of the {split} split are left out" in said
        for split, count in skipped.items()
    )
