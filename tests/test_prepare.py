"""What is found out before any trial starts: facts about data and models, and every mistake at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, word_task, write_table

from harness import spec
from harness.errors import InputError, Mistake
from harness.prepare import Prepared, prepare


@pytest.fixture
def prepared(sweep: Any) -> Any:
    def make(**changes: Any) -> Prepared:
        return prepare(spec.load(sweep(**changes)))

    return make


@pytest.fixture
def refused(prepared: Any) -> Any:
    def make(**changes: Any) -> list[Mistake]:
        with pytest.raises(InputError) as caught:
            prepared(**changes)
        assert all(m.place and m.reason for m in caught.value.mistakes)
        return list(caught.value.mistakes)

    return make


def test_facts_about_tasks_and_models(prepared: Any, models: Any, words_csv: Path) -> None:
    """Sizes and classes per task; per task and backbone the ladder, its weights and FLOPs by rung, the head
    last, and the name of the weights."""
    import transformers

    found = prepared(
        backbones=[{"name": "a", "path": str(models("bert"))}, {"name": "b", "path": str(models("gpt2"))}],
        tasks=[word_task(words_csv), word_task(words_csv, "capped", train_size=30)],
    )
    assert list(found.tasks) == ["words", "capped"]
    assert found.tasks["words"].sizes == {"train": 64, "validation": 32, "test": 32}
    assert found.tasks["capped"].sizes["train"] == 30
    assert found.tasks["words"].classes == ["animals", "colours", "fruits"]
    assert set(found.models) == {(task, model) for task in found.tasks for model in "ab"}
    for (_, name), facts in found.models.items():
        family = {"a": "bert", "b": "gpt2"}[name]
        assert facts.model_type == family
        assert len(facts.rungs) == 4 and len(facts.sizes) == len(facts.flops) == 5
        auto = transformers.AutoModelForSequenceClassification
        model = auto.from_pretrained(models(family), num_labels=3)
        assert sum(facts.sizes) == sum(parameter.numel() for parameter in model.parameters())
        assert facts.sizes[-1] == sum(
            p.numel() for n, p in model.named_parameters() if n[:5] in ("class", "score")
        )
        assert all(count > 0 for count in facts.flops[1:])
    assert found.models["words", "a"].fingerprint == found.models["capped", "a"].fingerprint
    assert found.models["words", "a"].fingerprint != found.models["words", "b"].fingerprint


def test_the_same_sweep_gives_the_same_facts(prepared: Any) -> None:
    """Trial ids are hashes of them."""
    assert prepared() == prepared()


def test_flops_are_those_of_the_length_that_is_trained(prepared: Any, tmp_path: Path) -> None:
    """Short texts cost what they are long, not what `max_length` would allow; a cut makes them cheaper."""
    path = write_table(tmp_path / "long.csv", [(f"{text} " * 5, label) for text, label in sentences(60, 1)])
    task = word_task(path, train_size=None, validation_size=None, test_size=None)
    total = {
        length: sum(prepared(tasks=[task], training={"max_length": length}).models["words", "tiny"].flops)
        for length in (4, 12, 64)
    }
    assert 2 * total[4] < total[12] < total[64]


def test_every_mistake_is_found_at_once(refused: Any, models: Any, words_csv: Path, tmp_path: Path) -> None:
    """Two bad tasks, a bad backbone and a depth beyond the ladder of the good one: one report."""
    empty = write_table(tmp_path / "one-class.csv", [(text, "same") for text, _ in sentences(40, 1)])
    broken = tmp_path / "broken"
    broken.mkdir()
    mistakes = refused(
        backbones=[{"name": "tiny", "path": str(models("bert"))}, {"name": "no", "path": str(broken)}],
        tasks=[word_task(words_csv), word_task(words_csv, "column", target="lable"),
               word_task(empty, "class", train_size=None, validation_size=None, test_size=None)],
        strategies={"full": {"freeze": 0}, "deep": {"freeze": {"each": [2, 9]}}},
    )  # fmt: skip
    said = {(m.place, m.reason.split(",")[0]) for m in mistakes}
    assert {place for place, _ in said} >= {"tasks.1", "tasks.2", "backbones.1"}
    assert any("lable" in reason for place, reason in said if place == "tasks.1")
    assert any("single class" in reason for place, reason in said if place == "tasks.2")
    (depth,) = [m for m in mistakes if m.place.startswith("strategies")]
    assert "deep" in depth.place and "9" in depth.reason and "4" in depth.reason


def test_depth_in_a_space_is_checked_for_every_value(refused: Any) -> None:
    (mistake,) = refused(strategies={"top": {"freeze": {"grid": [0, 3, 5]}}}, baseline="top")
    assert mistake.place.startswith("strategies.top") and "5" in mistake.reason


def test_depth_is_checked_on_every_backbone(refused: Any, models: Any, tmp_path: Path) -> None:
    """Four rungs here and two there: a depth of three is right on one of them only."""
    import transformers

    short = tmp_path / "short"
    shutil.copytree(models("bert"), short)
    config = transformers.BertConfig.from_pretrained(short, num_hidden_layers=1)
    transformers.BertModel(config).save_pretrained(short)
    both = [{"name": "four", "path": str(models("bert"))}, {"name": "two", "path": str(short)}]
    (mistake,) = refused(backbones=both, strategies={"top": {"freeze": 3}}, baseline="top")
    assert "has 2" in mistake.reason


def test_unreadable_data_stands_below_its_task(refused: Any, tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    path.write_bytes(b"no parquet")
    (mistake,) = refused(
        tasks=[{"name": "t", "kind": "text-classification",
                "dataset": {"path": "parquet", "data_files": {"train": str(path)}}}]
    )  # fmt: skip
    assert mistake.place == "tasks.0.dataset"


def test_model_of_another_kind(refused: Any, tmp_path: Path) -> None:
    """An image model on a text task."""
    import transformers

    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    (mistake,) = refused(backbones=[{"name": "vit", "path": str(tmp_path / "vit")}])
    assert mistake.place == "backbones.0" and "vit" in mistake.reason


def test_tokenizer_with_more_words_than_the_model(refused: Any, models: Any, tmp_path: Path) -> None:
    """An embedding that is too small breaks on the first example: found before any trial."""
    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 6}))
    (mistake,) = refused(backbones=[{"name": "tiny", "path": str(folder)}])
    assert mistake.place == "backbones.0" and "inputs" in mistake.reason


def test_model_without_a_tokenizer(refused: Any, models: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (mistake,) = refused(backbones=[{"name": "tiny", "path": str(folder)}])
    assert mistake.place == "backbones.0" and "tokenizer" in mistake.reason


def test_damaged_weights(refused: Any, models: Any, tmp_path: Path) -> None:
    """Nothing of the weights is needed to plan, and still their damage is found now."""
    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    (mistake,) = refused(backbones=[{"name": "tiny", "path": str(folder)}])
    assert mistake.place == "backbones.0" and "model.safetensors" in mistake.reason
