"""A task of one's own, from YAML alone, in every format that a sweep file may name; and what is said when
the data is not what the file says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, write_table

from harness.errors import InputError, Mistake
from harness.tasks import sources

KIND = "text-classification"
ROWS = sentences(60, seed=3)
FORMATS = ("csv", "tsv", "jsonl", "parquet")


@pytest.fixture
def refused(read: Any) -> Callable[..., list[Mistake]]:
    """`refused(dataset=…, …)`: the mistakes, each with a place and a reason."""

    def make(**settings: Any) -> list[Mistake]:
        with pytest.raises(InputError) as caught:
            read(**settings)
        mistakes = list(caught.value.mistakes)
        assert mistakes and all(m.place and m.reason and "\n" not in m.reason for m in mistakes)
        return mistakes

    return make


def table(path: Path, rows: Any, columns: tuple[str, ...] = ("text", "label")) -> dict[str, Any]:
    """A `dataset:` over one new file."""
    write_table(path, rows, columns)
    name = {".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}.get(path.suffix, "csv")
    return {"path": name, "data_files": {"train": str(path)}}


# -- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_file_format_becomes_a_task(suffix: str, read: Any, tmp_path: Path) -> None:
    """One file: validation and test are carved from it, nothing is lost and nothing doubled."""
    _, splits, facts = read(dataset=table(tmp_path / f"d.{suffix}", ROWS))
    assert facts.classes == ["animals", "colours", "fruits"]
    assert facts.sizes == {"train": 49, "validation": 5, "test": 6}
    found = [(row["text"], row["label"]) for split in splits.values() for row in split.to_list()]
    assert sorted(found) == sorted(ROWS)


@pytest.mark.parametrize("labels", ["names", "numbers"])
def test_same_content_has_the_same_fingerprint_in_every_format(
    labels: str, read: Any, tmp_path: Path
) -> None:
    """What a trial learns from is its content: converting a file re-runs nothing."""
    rows = ROWS if labels == "names" else [(text, len(label)) for text, label in ROWS]
    found = {suffix: read(dataset=table(tmp_path / f"d.{suffix}", rows))[2].fingerprint for suffix in FORMATS}
    moved = tmp_path / "elsewhere"
    found["moved"] = read(dataset=table(moved / "other-name.csv", rows))[2].fingerprint
    assert len(set(found.values())) == 1, found


def test_saved_folder_has_the_fingerprint_of_the_file(read: Any, tmp_path: Path) -> None:
    import datasets

    dataset = table(tmp_path / "d.csv", ROWS)
    texts, labels = zip(*ROWS, strict=True)
    made = datasets.Dataset.from_dict({"text": list(texts), "label": list(labels)})
    made.save_to_disk(str(tmp_path / "saved"))
    _, _, facts = read(dataset={"path": str(tmp_path / "saved")})
    assert facts == read(dataset=dataset)[2]


def test_fingerprint_follows_the_content(read: Any, tmp_path: Path) -> None:
    """One letter, one label, or another order is another data set."""
    changed = [
        ROWS,
        [(ROWS[0][0] + "s", ROWS[0][1]), *ROWS[1:]],
        [(ROWS[0][0], ROWS[1][1]), *ROWS[1:]],
        ROWS[::-1],
    ]
    found = {
        read(dataset=table(tmp_path / f"{index}.csv", rows))[2].fingerprint
        for index, rows in enumerate(changed)
    }
    assert len(found) == len(changed)


def test_saved_dataset_dict_keeps_its_own_splits(read: Any, tmp_path: Path) -> None:
    """The usual names are known (`dev` is validation); ids of a class label are looked up by number."""
    import datasets

    names = ["animals", "colours", "fruits"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    parts = {"train": ROWS[:40], "dev": ROWS[40:50], "test": ROWS[50:]}
    made = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {"text": [t for t, _ in rows], "label": [names.index(label) for _, label in rows]}, features
            )
            for name, rows in parts.items()
        }
    )
    made.save_to_disk(str(tmp_path / "saved"))
    _, splits, facts = read(dataset={"path": str(tmp_path / "saved")})
    assert facts.classes == names
    assert facts.sizes == {"train": 40, "validation": 10, "test": 10}
    assert list(splits["validation"]["text"]) == [text for text, _ in ROWS[40:50]]


def test_class_names_that_look_like_numbers_are_not_taken_for_ids(
    read: Any, tmp_path: Path, models: Any
) -> None:
    """Star ratings 1…3 as a class label have the ids 0…2: the id decides, not the look of the name."""
    import datasets

    from harness.backbones.base import Backbone

    ids = [index % 3 for index in range(60)]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["1", "2", "3"])}
    )
    datasets.Dataset.from_dict({"text": [t for t, _ in ROWS], "label": ids}, features).save_to_disk(
        str(tmp_path / "stars")
    )
    task, splits, facts = read(dataset={"path": str(tmp_path / "stars")})
    assert facts.classes == ["1", "2", "3"]
    processor = Backbone(path=str(models("bert"))).processor("AutoTokenizer")
    encoded = task.encode(splits["train"], processor, facts, 16)
    assert list(encoded["labels"]) == list(splits["train"]["label"])


def test_tab_separated_file_with_bom_and_stray_quotes(read: Any, tmp_path: Path) -> None:
    """As MRPC is distributed: a byte-order mark, `#` in column names, quotation marks that quote nothing."""
    path = tmp_path / "msr.tsv"
    lines = ["Quality\t#1 String\t#2 String"]
    lines += [f'{i % 2}\t"he said {text}\tand "then" {text} {i}' for i, (text, _) in enumerate(ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    task, splits, facts = read(
        dataset={"path": "csv", "data_files": {"train": str(path)}, "sep": "\t", "quoting": 3},
        inputs=["#1 String", "#2 String"], target="Quality", metrics=["accuracy", "f1"], primary="f1",
    )  # fmt: skip
    assert facts.classes == ["0", "1"]
    assert sum(facts.sizes.values()) == 60
    assert all(text.startswith('"he said') for text in splits["train"]["#1 String"])
    assert task.primary_metric == "f1"


def test_files_by_split_and_by_pattern(read: Any, tmp_path: Path) -> None:
    """A list of files, and a pattern (relative or absolute), are read as one split."""
    for index in range(3):
        write_table(tmp_path / f"part{index}.csv", ROWS[20 * index : 20 * index + 20])
    for files in (
        [f"part{index}.csv" for index in range(3)],
        "part*.csv",
        str(tmp_path / "part*.csv"),
    ):
        _, _, facts = read(dataset={"path": "csv", "data_files": {"train": files}})
        assert sum(facts.sizes.values()) == 60, files


def test_image_folder_gives_its_raw_splits(tmp_path: Path) -> None:
    """Reading data does not depend on the kind of task: folders of images come back with their labels."""
    from PIL import Image

    for split, count in (("train", 3), ("test", 2)):
        for label in ("cats", "dogs"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / f"{index}.png")
    for dataset in ({"path": "imagefolder", "data_dir": "pets"}, {"path": "pets"}):
        own = sources.load(sources.locate(dict(dataset), [tmp_path], "dataset"))
        assert {name: len(split) for name, split in own.items()} == {"train": 6, "test": 4}
        assert own["train"].features["label"].names == ["cats", "dogs"]
        assert own["train"][0]["image"].size == (8, 8)


# -- splits ----------------------------------------------------------------------------------------


def test_own_split_names_and_a_carved_one(read: Any, tmp_path: Path) -> None:
    """`splits:` maps roles to the data's names; null carves the role although a split has its name."""
    write_table(tmp_path / "a.csv", ROWS[:40])
    write_table(tmp_path / "b.csv", ROWS[40:])
    _, splits, facts = read(
        dataset={"path": "csv", "data_files": {"learn": "a.csv", "validation": "b.csv"}},
        splits={"train": "learn", "validation": None, "test": "validation"},
        validation_size=10,
    )
    assert facts.sizes == {"train": 30, "validation": 10, "test": 20}
    assert list(splits["test"]["text"]) == [text for text, _ in ROWS[40:]]
    assert {t for r in ("train", "validation") for t in splits[r]["text"]} == {t for t, _ in ROWS[:40]}


def test_relative_paths_are_looked_for_beside_the_sweep_file(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep file and its data can be moved together and run from anywhere; the current folder is second."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write_table(tmp_path / "data" / "d.csv", ROWS)
    relative = {"path": "csv", "data_files": {"train": "data/d.csv"}}
    assert read(dataset=relative)[2].sizes["train"] == 49
    write_table(elsewhere / "data" / "d.csv", ROWS[:30])
    assert read(dataset=relative)[2].sizes["train"] == 49, "the file beside the sweep file comes first"
    shutil.rmtree(tmp_path / "data")
    assert read(dataset=relative)[2].sizes["train"] == 24


def test_regression_takes_numbers_and_needs_no_classes(read: Any, tmp_path: Path) -> None:
    rows = [(text, index / 7) for index, (text, _) in enumerate(ROWS)]
    task, _, facts = read(dataset=table(tmp_path / "d.csv", rows), regression=True)
    assert facts.classes == []
    assert task.metric_names == ("spearman", "pearson")
    assert task.head(facts)["num_labels"] == 1


# -- mistakes --------------------------------------------------------------------------------------


def test_every_missing_file_is_named(refused: Any) -> None:
    files = {"train": "no1.csv", "validation": ["no2.csv", "no3.csv"], "test": "no*.csv"}
    mistakes = refused(dataset={"path": "csv", "data_files": files})
    assert len(mistakes) == 4
    for name in ("no1.csv", "no2.csv", "no3.csv", "no*.csv"):
        assert any(name in m.reason for m in mistakes)
    assert any("tasks.0.dataset.data_files.validation.1" in m.place for m in mistakes)


@pytest.mark.parametrize(
    "dataset", [{"path": "csv"}, {}, {"path": 5}, {"data_files": "x.csv"}, {"path": "./no-folder"},
                {"path": "nobody/no-such-data"}, {"path": "no-such-format"}],
    ids=lambda dataset: json.dumps(dataset),
)  # fmt: skip
def test_data_set_that_is_nowhere(dataset: dict[str, Any], refused: Any) -> None:
    """No format, no folder, or (offline) no such data set on the hub."""
    (mistake,) = refused(dataset=dataset)
    assert "dataset" in mistake.place


@pytest.mark.parametrize("column", ["text", "label"])
def test_missing_column_with_the_nearest_name(column: str, refused: Any, tmp_path: Path) -> None:
    columns = tuple(f"{c}s" if c == column else c for c in ("text", "label"))
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", ROWS, columns))
    assert f"'{column}'" in mistake.reason and f"'{column}s'" in mistake.hint


def test_column_that_one_split_lacks(refused: Any, tmp_path: Path) -> None:
    """Splits of a saved folder may differ in their columns."""
    import datasets

    made = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict({"text": ["a", "b"] * 20, "label": [0, 1] * 20}),
            "test": datasets.Dataset.from_dict({"text": ["c", "d"]}),
        }
    )
    made.save_to_disk(str(tmp_path / "saved"))
    (mistake,) = refused(dataset={"path": str(tmp_path / "saved")})
    assert "'label'" in mistake.reason and "test" in mistake.reason


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("role", ["train", "test"])
def test_empty_split(suffix: str, role: str, refused: Any, tmp_path: Path) -> None:
    """A file with a header and no rows, or with nothing at all."""
    write_table(tmp_path / f"some.{suffix}", ROWS)
    write_table(tmp_path / f"none.{suffix}", [])
    other = "test" if role == "train" else "train"
    name = {"tsv": "tsv", "jsonl": "jsonl"}.get(suffix, suffix)
    files = {role: str(tmp_path / f"none.{suffix}"), other: str(tmp_path / f"some.{suffix}")}
    refused(dataset={"path": name, "data_files": files})


def test_label_missing_from_train(refused: Any, tmp_path: Path) -> None:
    """What train never shows cannot be learned: said before training, with the label's name."""
    write_table(tmp_path / "a.csv", [row for row in ROWS if row[1] != "fruits"])
    write_table(tmp_path / "b.csv", ROWS)
    (mistake,) = refused(dataset={"path": "csv", "data_files": {"train": "a.csv", "test": "b.csv"}})
    assert "'fruits'" in mistake.reason and "train" in mistake.reason


def test_label_that_labels_does_not_list(refused: Any, tmp_path: Path) -> None:
    dataset = table(tmp_path / "d.csv", ROWS)
    mistakes = refused(dataset=dataset, labels=["animals", "colour", "fruits"])
    unknown = [m for m in mistakes if "'colours'" in m.reason]
    assert {m.reason.split(" split")[0] for m in unknown} == {"the train", "the validation", "the test"}
    assert all("'colour'" in m.hint for m in unknown)
    assert any("'colour' is missing from train" in m.reason for m in mistakes)


def test_own_names_of_numbers_are_found_in_labels(read: Any, tmp_path: Path) -> None:
    """`labels` in another order than a class label's own names moves the ids, not the names."""
    import datasets

    names = ["animals", "colours", "fruits"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    ids = [names.index(label) for _, label in ROWS]
    datasets.Dataset.from_dict({"text": [text for text, _ in ROWS], "label": ids}, features).save_to_disk(
        str(tmp_path / "saved")
    )
    task, splits, facts = read(dataset={"path": str(tmp_path / "saved")}, labels=[*reversed(names)])
    said = [facts.classes[index] for index in task.references(splits["test"], facts)]
    assert said == [dict(ROWS)[text] for text in splits["test"]["text"]]


def test_label_listed_twice(refused: Any, tmp_path: Path) -> None:
    mistakes = refused(
        dataset=table(tmp_path / "d.csv", ROWS), labels=["animals", "colours", "fruits", "fruits"]
    )
    assert any("fruits" in m.reason for m in mistakes)


def test_single_class(refused: Any, tmp_path: Path) -> None:
    rows = [(text, "same") for text, _ in ROWS]
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", rows))
    assert "single class" in mistake.reason


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("labels", ["names", "numbers"])
def test_row_without_a_label(suffix: str, labels: str, refused: Any, tmp_path: Path) -> None:
    """Found although carving by class comes before the labels are looked at."""
    rows: list[Any] = ROWS if labels == "names" else [(text, len(label)) for text, label in ROWS]
    mistakes = refused(dataset=table(tmp_path / f"d.{suffix}", [*rows, ("the cat", None), ("a dog", None)]))
    assert any("'label'" in m.reason for m in mistakes)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_row_without_text(suffix: str, refused: Any, tmp_path: Path) -> None:
    """The row and the split are named."""
    dataset = table(tmp_path / f"d.{suffix}", [*ROWS[:5], (None, "fruits"), *ROWS[5:]])
    files = {"train": dataset["data_files"]["train"], "test": str(tmp_path / f"t.{suffix}")}
    write_table(tmp_path / f"t.{suffix}", ROWS)
    dataset["data_files"] = files
    (mistake,) = refused(dataset=dataset, splits={"validation": "test", "test": None})
    assert "row " in mistake.reason and "'text'" in mistake.reason


def test_a_faulty_row_is_told_where_it_stands_and_not_where_it_serves(refused: Any, tmp_path: Path) -> None:
    """All splits are carved from one whose name is its own; a single table is named, several are not."""
    rows: list[Any] = [
        (None, label) if index % 7 == 3 else (text, label) for index, (text, label) in enumerate(ROWS)
    ]
    write_table(tmp_path / "d.jsonl", rows)
    dataset = {"path": "jsonl", "data_files": {"learn": "d.jsonl"}}
    settings = {"splits": {"train": "learn"}, "validation_size": 20, "test_size": 20}
    told = [m.reason for m in refused(dataset=dataset, **settings) if m.reason.startswith("row ")]
    where = re.compile(rf"row (\d+) of the learn split \({tmp_path / 'd.jsonl'}\) has no text in 'text'")
    found = [where.fullmatch(reason) for reason in told]
    assert {int(match[1]) for match in found if match} == set(range(3, 60, 7)) and all(found)
    dataset["data_files"] = {"learn": ["d.jsonl", "d.jsonl"]}
    reasons = [m.reason for m in refused(dataset=dataset, **settings)]
    assert any(
        re.fullmatch(r"row \d+ of the learn split has no text in 'text'", reason) for reason in reasons
    )


def test_regression_target_that_is_no_number(refused: Any, tmp_path: Path) -> None:
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", ROWS), regression=True)
    assert "not a number" in mistake.reason


def test_regression_target_that_is_not_finite(refused: Any, tmp_path: Path) -> None:
    """A NaN among the targets would make every loss NaN."""
    import datasets

    values = [float("nan") if index == 7 else index / 9 for index in range(60)]
    datasets.Dataset.from_dict({"text": [t for t, _ in ROWS], "label": values}).save_to_disk(
        str(tmp_path / "saved")
    )
    (mistake,) = refused(dataset={"path": str(tmp_path / "saved")}, regression=True)
    assert "'label'" in mistake.reason


def test_fractions_as_classes(refused: Any, tmp_path: Path) -> None:
    """Most likely a regression that was not declared."""
    rows = [(text, index / 7) for index, (text, _) in enumerate(ROWS)]
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", rows))
    assert "regression" in mistake.hint


def test_damaged_files(refused: Any, tmp_path: Path) -> None:
    """Truncated Parquet, a file that is no Parquet, half a line of JSON, rows of different widths, bytes
    that are no text."""
    whole = write_table(tmp_path / "whole.parquet", ROWS).read_bytes()
    damaged = {
        "truncated.parquet": whole[: len(whole) // 2],
        "foreign.parquet": b"this is no parquet file at all",
        "half.jsonl": b'{"text": "the cat", "label": "animals"}\n{"text": "the do',
        "ragged.csv": b"text,label\na,b\n" + b"c,d,e,f,g\n" * 5,
        "binary.csv": bytes(range(128, 256)) * 20,
    }
    for name, content in damaged.items():
        path = tmp_path / name
        path.write_bytes(content)
        kind = {".jsonl": "json"}.get(path.suffix, path.suffix[1:])
        (mistake,) = refused(dataset={"path": kind, "data_files": {"train": name}})
        assert "cannot be read" in mistake.reason, name


def test_damaged_saved_folder(refused: Any, tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"text": [t for t, _ in ROWS], "label": [c for _, c in ROWS]})
    made.save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "saved").glob("*.arrow"):
        path.unlink()
    (mistake,) = refused(dataset={"path": str(tmp_path / "saved")})
    assert "cannot be read" in mistake.reason


def test_split_that_does_not_exist_with_the_nearest_name(refused: Any, tmp_path: Path) -> None:
    files = {"training": str(write_table(tmp_path / "d.csv", ROWS))}
    dataset = {"path": "csv", "data_files": files}
    (mistake,) = refused(dataset=dataset, splits={"train": "trainin"})
    assert mistake.place == "tasks.0.splits.train" and "'training'" in mistake.hint
    (mistake,) = refused(dataset=dataset, splits={"trian": "training"})
    assert "'trian'" in mistake.reason and "train" in mistake.reason


def test_data_without_a_train_split(refused: Any, tmp_path: Path) -> None:
    files = {"test": str(write_table(tmp_path / "d.csv", ROWS))}
    (mistake,) = refused(dataset={"path": "csv", "data_files": files})
    assert "train" in mistake.place and "test" in mistake.hint


@pytest.mark.parametrize("splits", [{"validation": "test"}, {"test": "train"}])
def test_one_split_cannot_serve_two_roles(splits: dict[str, str], refused: Any, tmp_path: Path) -> None:
    """Nothing is selected or trained on what is reported."""
    files = {name: str(write_table(tmp_path / f"{name}.csv", ROWS)) for name in ("train", "test")}
    (mistake,) = refused(dataset={"path": "csv", "data_files": files}, splits=splits)
    assert "splits" in mistake.place


@pytest.mark.parametrize("sizes", [{"test_size": 60}, {"validation_size": 54}, {"test_size": 1000}])
def test_carving_more_than_train_has(sizes: dict[str, int], refused: Any, tmp_path: Path) -> None:
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", ROWS), **sizes)
    assert next(iter(sizes)) in mistake.place and "nothing" in mistake.reason


@pytest.mark.parametrize("key", ["train_size", "validation_size", "test_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "ten"])
def test_size_that_is_no_size(key: str, value: Any, refused: Any, tmp_path: Path) -> None:
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", ROWS), **{key: value})
    assert mistake.place.endswith(f"tasks.0.{key}")


def test_metric_that_does_not_exist(refused: Any, tmp_path: Path) -> None:
    (mistake,) = refused(dataset=table(tmp_path / "d.csv", ROWS), metrics=["accuracy", "acuracy"])
    assert mistake.place == "tasks.0.metrics.1" and "'accuracy'" in mistake.hint
