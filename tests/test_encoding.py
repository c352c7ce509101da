"""Encoded data: made once, kept as Arrow, memory-mapped by every worker, cut into batches by a seed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_tokenizer, sentences, word_task, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import spec
from harness.errors import InputError
from harness.plan import make_plan
from harness.prepare import prepare
from harness.training import data
from harness.training.data import (
    Split,
    encode,
    encoding_key,
    evaluation_batches,
    open_split,
    train_batches,
)
from harness.training.workspace import Workspace, workspace_of

LENGTH = 16


@pytest.fixture
def workspace(sweep: Any, tmp_path: Path) -> Any:
    """`workspace(**changes)`: what a worker of this sweep is told; its cache is the test's own."""

    def make(**changes: Any) -> Workspace:
        plain = {"strategies": {"full": {"freeze": 0}}, "optimizer": {"learning_rate": 1e-3}}
        loaded = spec.load(sweep(**{**plain, **changes}))
        whole = workspace_of(make_plan(loaded, prepare(loaded)), tmp_path / "results")
        return replace(whole, cache=str(tmp_path / "cache"))

    return make


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {p: p.stat() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {str(path): (stat.st_mtime_ns, stat.st_ino) for path, stat in found.items()}


# -- encoding --------------------------------------------------------------------------------------


def test_data_is_encoded_once(workspace: Any) -> None:
    """The second call, of this or another worker's workspace, finds the files and leaves them."""
    one = workspace()
    folder = encode(one, "words", "tiny", LENGTH)
    before = stamps(folder)
    assert before
    assert encode(one, "words", "tiny", LENGTH) == folder
    assert encode(pickle.loads(pickle.dumps(one)), "words", "tiny", LENGTH) == folder
    assert stamps(folder) == before


def test_rows_are_what_the_tokenizer_says(workspace: Any) -> None:
    """Ids as the tokenizer gives them, cut at `max_length`; labels as class ids; rows in order."""
    one = workspace()
    task, facts = one.task("words"), one.facts["words"]
    tokenizer = one.backbone("tiny").processor("AutoTokenizer")
    for name, raw in task.load("words").items():
        split = open_split(one, "words", "tiny", 6, name)
        assert len(split) == len(raw)
        assert [row["labels"] for row in split.rows] == [facts.classes.index(label) for label in raw["label"]]
        whole = [tokenizer(text)["input_ids"] for text in raw["text"]]
        assert max(map(len, whole)) > 6
        for row, ids in zip(split.rows, whole, strict=True):
            assert row["input_ids"] == (ids if len(ids) <= 6 else [*ids[:5], ids[-1]])
        assert split.lengths.tolist() == [min(6, len(ids)) for ids in whole]


def test_pairs_keep_both_texts_apart(workspace: Any, tmp_path: Path) -> None:
    firsts, seconds = ([text for text, _ in sentences(60, seed)] for seed in (1, 2))
    rows = [(a, b, str(i % 2)) for i, (a, b) in enumerate(zip(firsts, seconds, strict=True))]
    path = write_table(tmp_path / "pairs.csv", rows, ("one", "two", "same"))
    one = workspace(tasks=[word_task(path, inputs=["one", "two"], target="same",
                                     train_size=None, validation_size=10, test_size=10)])  # fmt: skip
    split = open_split(one, "words", "tiny", 40, "train")
    raw = one.task("words").load("words")["train"]
    tokenizer = one.backbone("tiny").processor("AutoTokenizer")
    for row, a, b in zip(split.rows, raw["one"], raw["two"], strict=True):
        assert tokenizer.decode(row["input_ids"]) == f"[CLS] {a} [SEP] {b} [SEP]"


def test_texts_longer_than_the_model_reads_are_cut_to_it(workspace: Any, models: Any, tmp_path: Path) -> None:
    """The tokenizer knows the model's limit: no larger, and no missing, `max_length` goes beyond it."""
    folder = tmp_path / "short"
    shutil.copytree(models("bert"), folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 8}))
    one = workspace(backbones=[{"name": "tiny", "path": str(folder)}])
    for wanted, longest in ((None, 8), (100, 8), (5, 5)):
        assert open_split(one, "words", "tiny", wanted, "train").lengths.max() == longest


def test_large_splits_are_memory_mapped_from_the_cache(
    workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a machine share one copy in the page cache; what is small is held as Python values."""
    monkeypatch.setattr(data, "_SMALL", 0)
    one = workspace()
    folder = encode(one, "words", "tiny", LENGTH)
    for name in ("train", "validation", "test"):
        rows = open_split(one, "words", "tiny", LENGTH, name).rows
        files = [Path(entry["filename"]) for entry in rows.cache_files]
        assert files and all(path.parent == folder / name and path.suffix == ".arrow" for path in files)
        assert "MemoryMapped" in type(rows.data).__name__ or all(
            "MemoryMapped" in type(block).__name__ for block in rows.data.blocks[0]
        )


def test_key_is_of_everything_that_decides_the_rows(
    workspace: Any, models: Any, words_csv: Path, tmp_path: Path
) -> None:
    """Another length, tokenizer, text or label is another key; another place of the same files is not."""

    def key(length: int | None = LENGTH, **changes: Any) -> str:
        return encoding_key(workspace(**changes), "words", "tiny", length)

    here = key()
    copied = tmp_path / "copied"
    shutil.copytree(models("bert"), copied / "model")
    moved = Path(shutil.copy(words_csv, copied / "same-words.csv"))
    same = {"backbones": [{"name": "tiny", "path": str(copied / "model")}], "tasks": [word_task(moved)]}
    assert key(**same) == here
    assert key(optimizer={"learning_rate": 1e-4}, seeds={"tune": 2}) == here

    other_tokenizer = tmp_path / "other"
    shutil.copytree(models("bert"), other_tokenizer)
    save_tokenizer(other_tokenizer, "gpt")
    changed = moved.read_text().replace("cat", "dog", 1)
    (tmp_path / "changed.csv").write_text(changed)
    others = {
        key(LENGTH + 1),
        key(None),
        key(backbones=[{"name": "tiny", "path": str(other_tokenizer)}]),
        key(tasks=[word_task(tmp_path / "changed.csv")]),
        key(tasks=[word_task(words_csv, train_size=63)]),
        key(tasks=[word_task(words_csv, labels=["fruits", "colours", "animals"])]),
    }
    assert len(others) == 6 and here not in others


def test_data_that_has_changed_since_the_plan_is_refused(workspace: Any, tmp_path: Path) -> None:
    """Its rows would be trained on under the name of others."""
    path = write_table(tmp_path / "mine.csv", sentences(240, seed=1))
    one = workspace(tasks=[word_task(path)])
    write_table(path, sentences(240, seed=9))
    with pytest.raises(InputError, match="no longer"):
        encode(one, "words", "tiny", LENGTH)
    assert not (tmp_path / "cache" / "encoded" / encoding_key(one, "words", "tiny", LENGTH)).exists()


def encode_at_once(workspace: Workspace, here: Path, me: str) -> list[int]:
    """Wait for the other process, encode, and return the sizes; every split that is really encoded leaves a
    line. (Called by this process and by another one.)"""
    from harness.tasks.text_classification import TextClassification

    plain = TextClassification.encode

    def watched(self: Any, *rest: Any) -> Any:
        with (here / "encoded").open("a") as file:
            file.write(f"{me}\n")
        time.sleep(0.1)  # the other one comes while this one writes
        return plain(self, *rest)

    workspace.backbone("tiny").processor("AutoTokenizer")  # slow imports are done before the start
    TextClassification.encode = watched  # type: ignore[method-assign]
    try:
        (here / f"{me} is ready").touch()
        while len(list(here.glob("* is ready"))) < 2:
            time.sleep(0.005)
        encode(workspace, "words", "tiny", LENGTH)
        names = ("train", "validation", "test")
        return [len(open_split(workspace, "words", "tiny", LENGTH, name)) for name in names]
    finally:
        TextClassification.encode = plain  # type: ignore[method-assign]


def test_two_processes_at_once_write_one_copy(workspace: Any, tmp_path: Path) -> None:
    """Both start at the same moment, both get the whole folder, one of them has made it."""
    one = workspace()
    (tmp_path / "workspace").write_bytes(pickle.dumps(one))
    script = (
        "import os, pickle, shutil; from pathlib import Path; from test_encoding import encode_at_once\n"
        "shutil.rmtree(os.environ['HARNESS_CACHE'])  # made by conftest, for another session\n"
        f"here = Path({str(tmp_path)!r})\n"
        "print(encode_at_once(pickle.loads((here / 'workspace').read_bytes()), here, 'other'))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
    try:
        mine = encode_at_once(one, tmp_path, "mine")
        said = other.communicate(timeout=50)[0]
    finally:
        other.kill()
    assert other.returncode == 0
    assert mine == [64, 32, 32] and said.splitlines()[-1] == str(mine)
    writers = (tmp_path / "encoded").read_text().split()
    assert len(writers) == 3 and len(set(writers)) == 1, "three splits, one writer"
    left = {path.name for path in (tmp_path / "cache" / "encoded").iterdir() if path.is_dir()}
    assert left == {encoding_key(one, "words", "tiny", LENGTH)}


def test_what_a_killed_writer_left_is_no_hindrance(workspace: Any, tmp_path: Path) -> None:
    """Half a folder under another name, and a lock file that nobody holds."""
    one = workspace()
    folder = tmp_path / "cache" / "encoded"
    key = encoding_key(one, "words", "tiny", LENGTH)
    (folder / f".writing.{key}" / "train").mkdir(parents=True)
    (folder / f".writing.{key}" / "train" / "state.json").write_text("{")
    (folder / f"{key}.lock").touch()
    assert len(open_split(one, "words", "tiny", LENGTH, "train")) == 64
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [key]


def test_a_writer_that_fails_leaves_no_folder(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call does not take half of it for the whole."""
    from harness.tasks.text_classification import TextClassification

    one = workspace()
    plain = TextClassification.encode
    calls: list[int] = []

    def breaks(self: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the disk is full")
        return plain(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(TextClassification, "encode", breaks)
        with pytest.raises(OSError, match="full"):
            encode(one, "words", "tiny", LENGTH)
    root = Path(one.cache) / "encoded"
    assert not [path for path in root.iterdir() if path.is_dir()]
    assert len(open_split(one, "words", "tiny", LENGTH, "test")) == 32


def test_encoded_data_is_as_readable_as_the_umask_says(workspace: Any) -> None:
    """A cache folder can be shared by several people on a machine."""
    before = os.umask(0o022)
    try:
        folder = encode(workspace(), "words", "tiny", LENGTH)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755


# -- batches ---------------------------------------------------------------------------------------


def split_of(lengths: list[int]) -> Split:
    return Split(rows=None, lengths=np.array(lengths), references=[], collate=lambda examples, _: {})


def padding(split: Split, batches: list[list[int]]) -> int:
    """Units that are computed for nothing when every batch is padded to its longest."""
    return sum(len(b) * int(split.lengths[b].max()) - int(split.lengths[b].sum()) for b in batches)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**62),
    bucketing=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_epoch_holds_every_example_once(lengths: list[int], size: int, seed: int, bucketing: bool) -> None:
    split = split_of(lengths)
    batches = train_batches(split, size, seed, bucketing)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size), "the loop counts its steps so"
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1), "at most one is short"
    assert batches == train_batches(split, size, seed, bucketing)
    assert sorted(i for b in evaluation_batches(split, size) for i in b) == list(range(len(lengths)))


@pytest.mark.parametrize("bucketing", [False, True])
def test_order_is_drawn_from_the_seed_alone(bucketing: bool) -> None:
    """Another seed gives another order, whatever the global generators are at."""
    split = split_of(list(range(1, 101)))
    np.random.seed(1)
    first = train_batches(split, 8, 5, bucketing)
    np.random.seed(2)
    assert train_batches(split, 8, 5, bucketing) == first
    assert train_batches(split, 8, 6, bucketing) != first
    assert [i for batch in first for i in batch] != list(range(100))


def test_bucketing_lessens_padding() -> None:
    """Batches of similar length, in an order that is still mixed."""
    lengths = np.random.default_rng(0).integers(4, 128, size=1000).tolist()
    split = split_of(lengths)
    plain, bucketed = (train_batches(split, 16, 3, bucketing) for bucketing in (False, True))
    assert padding(split, bucketed) < 0.2 * padding(split, plain)
    longest = [int(split.lengths[batch].max()) for batch in bucketed]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    ordered = evaluation_batches(split, 16)
    assert padding(split, ordered) <= padding(split, bucketed)
    assert [int(split.lengths[b].max()) for b in ordered] == sorted(
        (int(split.lengths[b].max()) for b in ordered), reverse=True
    )


def test_a_batch_is_padded_to_its_own_longest(workspace: Any) -> None:
    """Not to `max_length`: short batches are cheap. The padding is masked, the labels are a tensor."""
    import torch

    split = open_split(workspace(), "words", "tiny", LENGTH, "train")
    order = np.argsort(split.lengths, kind="stable")
    for indices in (order[:4].tolist(), order[-4:].tolist(), [int(order[0]), int(order[-1])]):
        batch = split.batch(indices)
        longest = int(split.lengths[indices].max())
        assert batch["input_ids"].shape == (len(indices), longest)
        assert batch["attention_mask"].sum(dim=1).tolist() == split.lengths[indices].tolist()
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
        assert batch["labels"].dtype == torch.int64
        assert batch["labels"].tolist() == [split.rows[i]["labels"] for i in indices]
    assert split.lengths.min() < split.lengths.max() <= LENGTH


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_padded_as_their_tokenizer_pads_them(models: Any, family: str, side: str) -> None:
    import torch
    from transformers import DataCollatorWithPadding

    from harness.backbones.base import Backbone
    from harness.tasks.text_classification import padded

    tokenizer = Backbone(path=str(models(family))).processor("AutoTokenizer")
    tokenizer.padding_side = side
    texts = ["the cat", "a very old horse and some new apple", "fig"]
    examples = [{**tokenizer(text), "labels": label} for text, label in zip(texts, (1, 0, 2), strict=True)]
    ours = padded(examples, tokenizer)
    theirs = DataCollatorWithPadding(tokenizer, return_tensors="pt")(examples)
    assert set(ours) == set(theirs)
    assert all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )
