"""Tiny real models and data, made once per session; every test writes below its own folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Before anything of the harness or of ray is imported: both read the environment once.
os.environ["HARNESS_PLUGINS"] = str(HERE / "plugins")
os.environ["HARNESS_CACHE"] = tempfile.mkdtemp(prefix="harness-test-cache-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = str(Path(os.environ["HARNESS_CACHE"]) / "datasets")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny models gain nothing from threads, and lose most of their time to them on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

from harness.tuning import environment  # noqa: E402

environment.settle(None)

import pytest  # noqa: E402

WORDS = {
    "animals": ["cat", "dog", "horse", "sheep", "goat", "mouse"],
    "fruits": ["apple", "pear", "plum", "grape", "cherry", "fig"],
    "colours": ["red", "green", "blue", "white", "black", "pink"],
}
FILLERS = ["the", "a", "one", "some", "my", "your", "old", "new", "very", "here"]


def pytest_sessionfinish() -> None:
    import shutil

    shutil.rmtree(os.environ["HARNESS_CACHE"], ignore_errors=True)


def save_tokenizer(folder: Path, kind: str = "bert") -> int:
    """A word-level tokenizer over the test vocabulary; returns the size of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *(w for group in WORDS.values() for w in group)]
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names: dict[str, str] = {"unk_token": "[UNK]"}
    if kind == "bert":
        names |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    else:  # decoders have no padding token of their own
        names |= {"eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(ids)


def save_model(folder: Path, family: str) -> Path:
    """A tiny pretrained (random) model of a family with its tokenizer."""
    import torch
    import transformers as tf

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = save_tokenizer(folder, "gpt" if family in ("gpt2", "llama") else "bert")
    size = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }  # fmt: skip  large, so that seeds and strategies differ visibly
    configs: dict[str, Any] = {
        "bert": lambda: tf.BertConfig(**size),
        "roberta": lambda: tf.RobertaConfig(**size),
        "distilbert": lambda: tf.DistilBertConfig(
            vocab_size=vocabulary, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=64,
            initializer_range=0.2,
        ),
        "deberta-v2": lambda: tf.DebertaV2Config(**size, relative_attention=True, position_buckets=8,
                                                 norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"]),
        "gpt2": lambda: tf.GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=3, n_head=2, n_positions=64,
                                      bos_token_id=3, eos_token_id=3, initializer_range=0.2),
        "llama": lambda: tf.LlamaConfig(**{**size, "pad_token_id": None}, bos_token_id=3, eos_token_id=3),
    }  # fmt: skip
    torch.manual_seed(0)
    tf.AutoModel.from_config(configs[family]()).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int, labels: list[str] | None = None) -> list[tuple[str, str]]:
    """(text, label): a few fillers around one word of the label's group; no text twice."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    for index in range(100 * count):
        label = (labels or list(WORDS))[index % len(labels or WORDS)]
        words = [*rng.choices(FILLERS, k=rng.randint(2, 9)), rng.choice(WORDS[label])]
        rng.shuffle(words)
        found.setdefault(" ".join(words), label)
        if len(found) == count:
            break
    return list(found.items())


def write_table(
    path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("text", "label")
) -> Path:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`models(family)`: the folder of a tiny model, made at first use."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save_model(tmp_path_factory.mktemp("models") / f"tiny-{family}", family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def words_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 sentences of three classes in one CSV file."""
    return write_table(tmp_path_factory.mktemp("data") / "words.csv", sentences(240, seed=1))


@pytest.fixture
def sweep(models: Any, words_csv: Path, tmp_path: Path) -> Any:
    """`sweep(**changes)`: write a small sweep file (one CSV task, tiny BERT, two strategies) and return its
    path. Changes replace whole top-level settings."""
    import yaml

    def write(file: str = "sweep.yaml", **changes: Any) -> Path:
        content: dict[str, Any] = {
            "name": "small",
            "backbones": [{"name": "tiny", "path": str(models("bert"))}],
            "tasks": [word_task(words_csv)],
            "training": {"epochs": 2, "batch_size": 8, "max_length": 16},
            "optimizer": {"learning_rate": {"grid": [1e-3, 1e-2]}},
            "strategies": {"full": {"freeze": 0}, "head-only": {"freeze": "all"}},
            "baseline": "full",
            "seeds": {"tune": 1, "confirm": 3},
        }
        content.update(changes)
        path = tmp_path / file
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return path

    return write


def word_task(path: Path, name: str = "words", **changes: Any) -> dict[str, Any]:
    """A task entry over a CSV file of `sentences`: 64 training, 32 validation and 32 test examples."""
    return {
        "name": name,
        "kind": "text-classification",
        "dataset": {"path": "csv", "data_files": {"train": str(path)}},
        "train_size": 64,
        "validation_size": 32,
        "test_size": 32,
        **changes,
    }


@pytest.fixture
def entry(sweep: Any, request: pytest.FixtureRequest) -> Any:
    """`entry(dataset=…, …)`: the task of a sweep file that holds this one task, of the kind that the test's
    module is about."""
    from harness import spec

    def make(**settings: Any) -> Any:
        return spec.load(sweep(tasks=[{"name": "mine", "kind": request.module.KIND, **settings}])).tasks[0]

    return make


@pytest.fixture
def read(entry: Any) -> Any:
    """`read(dataset=…, …)`: that task, its splits and its facts."""

    def make(**settings: Any) -> Any:
        found = entry(**settings)
        splits = found.task.load(found.place)
        return found.task, splits, found.task.facts(splits, found.place)

    return make


@pytest.fixture
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A URI of this process's memory, where no other process looks."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return f"memory://{request.node.name}-{os.getpid()}"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """`machine("b")`: from now on this process keeps what the machine b would."""

    def become(name: str) -> Path:
        monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / f"cache-{name}"))
        return tmp_path / f"cache-{name}"

    return become


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record; one that is being replaced at this moment counts as not there."""
    found = {}
    for path in (folder / "trials").glob("[!.]*.json"):
        found[path.stem] = json.loads(path.read_text())
    return found


def start(path: Path, results: Path, *more: str) -> subprocess.Popen[str]:
    """`harness run` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "run", str(path), "--results", str(results), *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], folder: Path, count: int, seconds: float = 100) -> None:
    """Until so many trials have ended, or the process has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((folder / "trials").glob("[!.]*.json"))) >= count:
            return
        time.sleep(0.02)
    assert process.poll() is not None, "no progress"


def outcome(record: dict[str, Any]) -> Any:
    return {key: record[key] for key in ("status", "metrics", "curve", "drift", "seed", "hyperparameters")}
