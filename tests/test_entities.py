"""Tags for words: how words meet the pieces of a tokenizer, what is said of faulty sentences, files with a
word per line, entity scores, and what the shipped sentences promise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import FILLERS, WORDS

from harness import spec
from harness.backbones.base import Backbone
from harness.cli import main
from harness.errors import InputError, Mistake
from harness.metrics import scorer
from harness.prepare import prepare
from harness.registry import build
from harness.tasks.base import Facts
from harness.tasks.named_entities import AMBIGUOUS, FIRMS, FIRST, PLACES, SURNAMES, NamedEntities
from harness.tasks.token_classification import STARTS, TokenClassification, first_pieces

KIND = "token-classification"
METRICS = ("span_f1", "span_precision", "span_recall", "tag_accuracy")
WORDS_OF = ["Zorblatt", "met", "Anna", "Kowalczyk", "in", "Bratislava", "."]
TAGS_OF = ["B-PER", "O", "B-PER", "I-PER", "O", "B-LOC", "O"]
CLASSES = ["O", "B-LOC", "B-PER", "I-PER"]
FACTS = Facts(sizes={}, classes=CLASSES, fingerprint="")


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small tokenizer as GPT-2 has one: byte-level pairs, no token for padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2TokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(["Anna met us in town ."] * 3, trainer)
    folder = tmp_path_factory.mktemp("byte-level")
    GPT2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.fixture(params=["bert", "gpt2"])
def processor(request: pytest.FixtureRequest, byte_level: Path) -> Any:
    """BERT's real tokenizer (word pieces, [CLS] and [SEP]), and one like GPT-2's (bytes, neither)."""
    from harness.backbones.minilm import MiniLM

    backbone = MiniLM() if request.param == "bert" else Backbone(path=str(byte_level))
    return TokenClassification().processor(backbone)


def split_of(*rows: tuple[Any, Any]) -> Any:
    from datasets import Dataset

    words, tags = zip(*rows, strict=True)
    return Dataset.from_dict({"tokens": list(words), "tags": list(tags)})


# -- words and pieces ------------------------------------------------------------------------------


def test_first_piece_of_every_word() -> None:
    assert first_pieces([None, 0, 0, 1, 3, 3, None], 5) == [1, 3, -1, 4, -1]


def test_label_stands_at_the_first_piece_of_its_word_and_nowhere_else(processor: Any) -> None:
    (row,) = TokenClassification().encode(split_of((WORDS_OF, TAGS_OF)), processor, FACTS, 64)
    starts, labels = row[STARTS], row["labels"]
    assert len(labels) == len(row["input_ids"]) == row["length"] > len(WORDS_OF)
    assert [CLASSES[labels[start]] for start in starts] == TAGS_OF
    assert all(label == -100 for at, label in enumerate(labels) if at not in starts)
    ends = [*starts[1:], len(labels)]
    for word, start, end in zip(WORDS_OF, starts, ends, strict=True):
        said = processor.decode(row["input_ids"][start:end], skip_special_tokens=True)
        assert said.replace(" ", "").lower() == word.lower()


def test_what_is_cut_off_is_predicted_outside_and_counts(processor: Any) -> None:
    """The score is over all words: a short `max_length` costs recall."""
    task = TokenClassification()
    rows = task.encode(split_of((WORDS_OF, TAGS_OF)), processor, FACTS, 7)
    example = rows[0]
    assert len(example["input_ids"]) == 7 and example[STARTS][-1] == -1
    said = task.predict(right(rows), [example], FACTS)[0]["prediction"]
    kept = sum(start >= 0 for start in example[STARTS])
    assert 0 < kept < len(WORDS_OF)
    assert said == TAGS_OF[:kept] + ["O"] * (len(WORDS_OF) - kept)
    assert task.score([{"prediction": said}], [TAGS_OF], FACTS)["span_recall"] < 1


def right(rows: Any) -> Any:
    """What a model says that is right at every labelled piece."""
    import torch

    width = max(len(labels) for labels in rows["labels"])
    logits = torch.zeros(len(rows), width, len(CLASSES))
    for index, labels in enumerate(rows["labels"]):
        for at, label in enumerate(labels):
            logits[index, at, label if label >= 0 else 1] = 1
    return SimpleNamespace(logits=logits)


def test_right_logits_become_the_references(processor: Any) -> None:
    """Sentences of different lengths in one batch, and a word of which the tokenizer may leave nothing."""
    task = TokenClassification()
    split = split_of((WORDS_OF, TAGS_OF), (["Anna", "\u200b", "slept"], ["B-PER", "O", "O"]), (["in"], ["O"]))
    rows = task.encode(split, processor, FACTS, 64)
    said = task.predict(right(rows), list(rows), FACTS)
    assert [row["prediction"] for row in said] == task.references(split, FACTS) == split["tags"][:]


def test_batches_are_padded_on_the_right_and_padding_is_not_counted(processor: Any) -> None:
    """Many decoders' tokenizers are saved with padding on the left: there, words would move."""
    task = TokenClassification()
    processor.padding_side = "left"
    rows = task.encode(split_of((WORDS_OF, TAGS_OF), (["in"], ["O"])), processor, FACTS, 64)
    batch = task.collate(processor)(list(rows.remove_columns("length")), None)
    assert set(batch) <= {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    short = len(rows[1]["input_ids"])
    assert batch["input_ids"][1, :short].tolist() == rows[1]["input_ids"]
    assert batch["attention_mask"][1].sum() == short
    assert (batch["labels"][1, short:] == -100).all()


def test_a_sentence_of_which_the_tokenizer_leaves_nothing_is_said_to_hold_no_entity() -> None:
    """Its loss is a number all the same, also where no other sentence is in its batch."""
    import torch

    from harness.backbones.minilm import MiniLM

    task = TokenClassification()
    processor = task.processor(MiniLM())
    split = split_of((["\u200b", "\u200b"], ["B-LOC", "O"]))
    rows = task.encode(split, processor, FACTS, 16)
    assert task.predict(right(rows), list(rows), FACTS)[0]["prediction"] == ["O", "O"]
    labels = task.collate(processor)(list(rows.remove_columns("length")), None)["labels"]
    loss = torch.nn.functional.cross_entropy(torch.zeros(labels.numel(), len(CLASSES)), labels.flatten())
    assert torch.isfinite(loss)


# -- data ------------------------------------------------------------------------------------------


@pytest.fixture
def refused(read: Any) -> Callable[..., list[Mistake]]:
    def make(**settings: Any) -> list[Mistake]:
        with pytest.raises(InputError) as caught:
            read(**settings)
        assert all(m.place and "\n" not in m.reason for m in caught.value.mistakes)
        return list(caught.value.mistakes)

    return make


def tagged(count: int) -> list[tuple[list[str], list[str]]]:
    """Sentences of the test vocabulary: an animal or a fruit is an entity, and so is what follows one."""
    rng = np.random.default_rng(0)
    types = {word: name.upper()[:3] for name in ("animals", "fruits") for word in WORDS[name]}
    found: dict[str, tuple[list[str], list[str]]] = {}
    while len(found) < count:
        words = [*rng.choice(FILLERS, rng.integers(1, 4)), rng.choice(list(types)), *rng.choice(FILLERS, 2)]
        at = len(words) - 3
        tags = ["O"] * at + [f"B-{types[words[at]]}", f"I-{types[words[at]]}", "O"]
        found[" ".join(words)] = [str(word) for word in words], tags
    return list(found.values())


ROWS = tagged(80)


def save_conll(path: Path, rows: Any = ROWS, form: str = "{word} NN {tag}", after: str = "") -> Path:
    lines = ["\n".join(form.format(word=w, tag=t) for w, t in zip(*row, strict=True)) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("-DOCSTART- -X- O\n\n" + "\n".join(lines) + after)
    return path


def save_jsonl(path: Path, rows: Any) -> dict[str, Any]:
    path.write_text("\n".join(json.dumps({"tokens": words, "tags": tags}) for words, tags in rows))
    return {"path": "jsonl", "data_files": {"train": str(path)}}


def test_conll_file_and_json_lines_are_the_same_task(read: Any, tmp_path: Path) -> None:
    """A converted file, or one in another folder, re-runs nothing; `O` comes first, then the alphabet."""
    save_conll(tmp_path / "a" / "d.conll")
    save_conll(tmp_path / "b" / "e.txt")
    task, splits, facts = read(dataset={"path": "conll", "data_files": {"train": "a/d.conll"}})
    assert facts.classes == ["O", "B-ANI", "B-FRU", "I-ANI", "I-FRU"]
    assert facts.sizes == {"train": 65, "validation": 7, "test": 8}
    found = [(row["tokens"], row["tags"]) for split in splits.values() for row in split]
    assert sorted(found) == sorted(ROWS)
    assert facts == read(dataset={"path": "conll", "data_files": str(tmp_path / "b" / "e.txt")})[2]
    assert facts == read(dataset=save_jsonl(tmp_path / "d.jsonl", ROWS))[2]
    assert task.head(facts)["num_labels"] == 5
    assert facts.constant["test"]["span_f1"] == 0 < facts.constant["test"]["tag_accuracy"] < 1


def test_conll_columns_are_numbered_from_either_end(read: Any, tmp_path: Path) -> None:
    """Tabs and runs of blanks separate; a byte-order mark and the last sentence's missing end do no harm."""
    path = save_conll(tmp_path / "d.conll", form="7\t{tag}  {word}\t_ ")
    path.write_text("\ufeff" + path.read_text().strip())
    _, splits, facts = read(
        dataset={"path": "conll", "data_files": {"train": "d.conll"}, "token": -2, "tag": 1}, train_size=40
    )
    assert facts.sizes["train"] == 40
    assert all(row in ROWS for row in ((r["tokens"], r["tags"]) for r in splits["train"]))


def test_conll_patterns_lists_and_splits_of_ones_own(read: Any, tmp_path: Path) -> None:
    for index in range(4):
        save_conll(tmp_path / f"part{index}.conll", ROWS[20 * index : 20 * index + 20])
    files = {"train": "part[01]*.conll", "dev": ["part2.conll"], "test": "part3.conll"}
    _, splits, facts = read(dataset={"path": "conll", "data_files": files})
    assert facts.sizes == {"train": 40, "validation": 20, "test": 20}
    assert splits["train"]["tokens"][:] == [words for words, _ in ROWS[:40]]


def test_conll_line_with_too_few_columns_is_named_with_its_file(refused: Any, tmp_path: Path) -> None:
    path = save_conll(tmp_path / "d.conll")
    lines = path.read_text().splitlines()
    lines[3] = "lonely"
    path.write_text("\n".join(lines))
    (mistake,) = refused(dataset={"path": "conll", "data_files": {"train": "d.conll"}})
    assert f"{path}, line 4 has 1 column, and 2 are needed" in mistake.reason
    mistakes = refused(dataset={"path": "conll", "data_files": {"train": "d.conll"}, "tag": 3})
    assert "4 are needed" in mistakes[0].reason and "more lines" in mistakes[-1].reason and len(mistakes) == 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"tags": 2}, "'tag'"), ({"token": "first"}, "'first'"), ({"data_dir": "."}, "data_files")],
)
def test_conll_settings_that_there_are_not(
    settings: dict[str, Any], said: str, refused: Any, tmp_path: Path
) -> None:
    save_conll(tmp_path / "d.conll")
    (mistake,) = refused(dataset={"path": "conll", "data_files": {"train": "d.conll"}, **settings})
    assert "tasks.0.dataset" in mistake.place and said in str(mistake)


def test_conll_without_files_or_text(refused: Any, tmp_path: Path) -> None:
    """No file, a file that is not there, nothing in it, bytes that are no text."""
    assert "data_files" in refused(dataset={"path": "conll"})[0].reason
    assert "no.conll" in refused(dataset={"path": "conll", "data_files": {"train": "no.conll"}})[0].reason
    (tmp_path / "none.conll").write_text("\n\n")
    refused(dataset={"path": "conll", "data_files": {"train": "none.conll"}})
    (tmp_path / "bytes.conll").write_bytes(bytes(range(128, 256)) * 20)
    (mistake,) = refused(dataset={"path": "conll", "data_files": {"train": "bytes.conll"}})
    assert "bytes.conll cannot be read" in mistake.reason


FAULTS = {
    "has no list of words": ([], []),
    "has 2 words and 1 tags": (["the", "cat"], ["O"]),
    "has no list of tags": (["the", "cat"], None),
    "has no tag at word 2, 'cat'": (["the", "cat"], ["O", None]),
    "has no text at word 1": ([None, "cat"], ["O", "O"]),
    "has the tag 'ANI', which is neither O nor": (["the", "cat"], ["O", "ANI"]),
    "has the tag 'X-ANI', which is neither": (["cat"], ["X-ANI"]),
    "has the tag 'B-', which is neither": (["cat"], ["B-"]),
}


@pytest.mark.parametrize("said", FAULTS)
def test_faulty_sentence_is_named_or_left_out(said: str, read: Any, refused: Any, tmp_path: Path) -> None:
    dataset = save_jsonl(tmp_path / "d.jsonl", [*ROWS[:11], FAULTS[said], *ROWS[11:]])
    (mistake,) = refused(dataset=dataset)
    assert "row 11 " in mistake.reason and said in mistake.reason
    facts = read(dataset=dataset, on_bad_example="skip")[2]
    assert sum(facts.skipped.values()) == 1 and sum(facts.sizes.values()) == len(ROWS)


def test_faulty_tag_of_a_conll_file_is_named_with_its_line(refused: Any, tmp_path: Path) -> None:
    path = save_conll(tmp_path / "d.conll", after="\nthe NN O\ncat NN NOUN\n")
    lines = path.read_text().splitlines()
    (mistake,) = refused(dataset={"path": "conll", "data_files": {"train": "d.conll"}})
    assert "'NOUN'" in mistake.reason and f"({path}, line {len(lines)})" in mistake.reason


def test_tag_that_labels_does_not_list(refused: Any, tmp_path: Path) -> None:
    labels = ["O", "B-ANI", "I-ANI", "B-FRU"]
    mistakes = refused(dataset=save_jsonl(tmp_path / "d.jsonl", ROWS), labels=labels)
    assert any("'I-FRU', which `labels` does not list" in m.reason for m in mistakes)


def test_tag_missing_from_train_and_tag_listed_twice(refused: Any, read: Any, tmp_path: Path) -> None:
    fruitless = [row for row in ROWS if "B-FRU" not in row[1]]
    save_conll(tmp_path / "a.conll", fruitless)
    save_conll(tmp_path / "b.conll")
    mistakes = refused(dataset={"path": "conll", "data_files": {"train": "a.conll", "test": "b.conll"}})
    assert [m.reason for m in mistakes] == [f"the label '{x}-FRU' is missing from train" for x in "BI"]
    labels = ["O", "B-ANI", "I-ANI", "B-FRU", "I-FRU", "O"]
    (mistake,) = refused(dataset=save_jsonl(tmp_path / "d.jsonl", ROWS), labels=labels)
    assert "'O' is listed twice" in mistake.reason
    assert read(dataset=save_jsonl(tmp_path / "d.jsonl", ROWS), labels=labels[:-1])[2].classes == labels[:-1]


def test_column_of_text_where_words_are_needed(refused: Any, tmp_path: Path) -> None:
    rows = [(" ".join(words), tags) for words, tags in ROWS]
    mistakes = refused(dataset=save_jsonl(tmp_path / "d.jsonl", rows))
    assert "has no list of words in 'tokens'" in mistakes[0].reason


def test_ids_of_a_class_label_are_named(read: Any, tmp_path: Path) -> None:
    """As CoNLL-2003 lies on the hub; `labels` gives them another order, or names plain numbers."""
    import datasets

    names = ["O", "B-FRU", "I-FRU", "B-ANI", "I-ANI"]
    ids = [[names.index(tag) for tag in tags] for _, tags in ROWS]
    words = [words for words, _ in ROWS]
    for labels, feature in ((None, datasets.ClassLabel(names=names)), (names, datasets.Value("int64"))):
        features = datasets.Features(
            {"tokens": datasets.Sequence(datasets.Value("string")), "tags": datasets.Sequence(feature)}
        )
        folder = tmp_path / type(feature).__name__
        datasets.Dataset.from_dict({"tokens": words, "tags": ids}, features).save_to_disk(str(folder))
        task, splits, facts = read(dataset={"path": str(folder)}, **({"labels": labels} if labels else {}))
        assert facts.classes == names
        found = zip(splits["test"]["tokens"][:], task.references(splits["test"], facts), strict=True)
        assert all(row in ROWS for row in found)


@pytest.mark.parametrize("ids", [False, True])
def test_label_noise_gives_entities_another_type(ids: bool, read: Any, tmp_path: Path) -> None:
    """Whole entities, in train only; the words and the extents stay."""
    import datasets

    names = ["O", "B-FRU", "I-FRU", "B-ANI", "I-ANI"]
    dataset = save_jsonl(tmp_path / "d.jsonl", ROWS)
    if ids:
        tags = datasets.Sequence(datasets.ClassLabel(names=names))
        features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": tags})
        columns = {
            "tokens": [w for w, _ in ROWS],
            "tags": [[names.index(t) for t in tags] for _, tags in ROWS],
        }
        datasets.Dataset.from_dict(columns, features).save_to_disk(str(tmp_path / "saved"))
        dataset = {"path": str(tmp_path / "saved")}
    _, plain, facts = read(dataset=dataset)
    task, noisy, _ = read(dataset=dataset, label_noise=0.4)
    before, after = (task.references(split["train"], facts) for split in (plain, noisy))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == round(0.4 * len(before))
    bare = [[[tag[:2] for tag in tags] for tags in rows] for rows in (before, after)]
    assert bare[0] == bare[1]
    assert all(len({tag[2:] for tag in tags if tag != "O"}) == 1 for tags in after)
    assert plain["test"].to_list() == noisy["test"].to_list()


# -- from a sweep file to a report -----------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_conll_file_becomes_a_task_from_yaml_alone(
    family: str, sweep: Any, models: Any, tmp_path: Path
) -> None:
    """Encoders and decoders take its inputs: FLOPs are counted by running the model on them."""
    save_conll(tmp_path / "d.conll")
    task = {
        "name": "mine",
        "kind": "token-classification",
        "dataset": {"path": "conll", "data_files": {"train": "d.conll"}},
    }
    prepared = prepare(
        spec.load(sweep(tasks=[task], backbones=[{"name": "tiny", "path": str(models(family))}]))
    )
    facts = prepared.models["mine", "tiny"]
    assert facts.model_type == family and len(facts.rungs) == 4 and facts.flops[-1] > 0


def test_conll_sweep_from_file_to_report(sweep: Any, tmp_path: Path) -> None:
    """A small real model learns the entities of a small real file; predictions are kept word by word."""
    import pandas as pd

    save_conll(tmp_path / "d.conll")
    task = {
        "name": "mine",
        "kind": "token-classification",
        "dataset": {"path": "conll", "data_files": {"train": "d.conll"}},
        "test_size": 20,
        "margin": 0.3,
    }
    path = sweep(
        tasks=[task],
        training={"epochs": 15, "batch_size": 4, "max_length": 16},
        optimizer={"learning_rate": 3e-3},
        strategies={"full": {"freeze": 0}},
        seeds={"tune": 1, "confirm": 1},
    )
    assert main(["run", str(path), "--results", str(tmp_path / "results"), "--local"]) == 0
    folder = tmp_path / "results" / "small"
    (record,) = [
        r
        for r in map(json.loads, (p.read_text() for p in folder.glob("trials/*")))
        if r["phase"] == "confirm"
    ]
    assert record["kind"] == "token-classification" and tuple(record["metrics"]["test"]) == METRICS
    assert record["metrics"]["test"]["span_f1"] > 0.5
    rows = pd.read_parquet(folder / "predictions" / f"{record['trial_id']}.parquet")
    said, true = ([list(row) for row in rows[name]] for name in ("prediction", "reference"))
    assert scorer.score(METRICS, said, true, {}) == pytest.approx(record["metrics"]["test"])
    assert yaml.safe_load((folder / "sweep.yaml").read_text())["tasks"][0]["dataset"]["path"] == "conll"


# -- metrics ---------------------------------------------------------------------------------------

TRUE = [["B-PER", "I-PER", "O", "B-LOC"], ["O"], ["B-ORG", "I-ORG", "I-ORG"], ["B-LOC", "B-LOC"]]
# right; type wrong; nothing there; one word short; two entities made one
SAID = [["B-PER", "I-PER", "O", "B-ORG"], ["B-PER"], ["B-ORG", "I-ORG", "O"], ["B-LOC", "I-LOC"]]


def test_scores_by_hand() -> None:
    """One of five entities is found, and five were said: an entity counts whole or not at all."""
    found, said, true = 1, 5, 5
    precision, recall = found / said, found / true
    hand = {
        "span_f1": 2 * precision * recall / (precision + recall),
        "span_precision": precision,
        "span_recall": recall,
        "tag_accuracy": 6 / 10,
    }
    assert scorer.score(METRICS, SAID, TRUE, {"classes": 7}) == pytest.approx(hand)


def test_scores_equal_seqeval_example_by_example_and_at_once() -> None:
    import seqeval.metrics as sq

    theirs = (sq.f1_score, sq.precision_score, sq.recall_score, sq.accuracy_score)
    for name, function in zip(METRICS, theirs, strict=True):
        metric = scorer.load(name)
        assert metric.higher_is_better is True
        for said, true in zip(SAID, TRUE, strict=True):
            metric.add(prediction=said, reference=true)
        assert metric.compute() == {name: pytest.approx(function(TRUE, SAID))}


@pytest.mark.filterwarnings("error")
def test_perfect_constant_and_empty() -> None:
    """Where nothing is said or nothing is there, precision and recall are 0, without a warning."""
    task = TokenClassification()
    assert task.score([{"prediction": p} for p in task.perfect(TRUE)], TRUE, FACTS) == dict.fromkeys(
        METRICS, 1
    )
    outside = task.constant(TRUE, TRUE)
    assert [len(tags) for tags in outside] == [len(tags) for tags in TRUE]
    scores = task.score([{"prediction": p} for p in outside], TRUE, FACTS)
    assert [scores[name] for name in METRICS] == [0, 0, 0, 0.2]
    assert scorer.score(["span_f1"], [["O"], ["O", "O"]], [["O"], ["O", "O"]], {}) == {"span_f1": 0}


# -- the shipped sentences -------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["news", "chat"])
def test_held_out_names_are_held_out(style: str) -> None:
    """Names of validation and test occur in train not even as a part of another name, and are half of what is
    asked for; no sentence stands twice."""
    splits = build(NamedEntities, {"style": style}, "task").load("task")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 1200, "validation": 300, "test": 300,
    }  # fmt: skip
    spoken = {name: {w.lower() for words in split["tokens"] for w in words} for name, split in splits.items()}
    for role, other in (("validation", "test"), ("test", "validation")):
        own = {word.lower() for names in (FIRST, SURNAMES, PLACES, FIRMS) for word in names[role].split()}
        assert own <= spoken[role], "each of them is used"
        assert not own & (spoken["train"] | spoken[other])
        entities = [
            any(
                word.lower() in own
                for word, tag in zip(row["tokens"], row["tags"], strict=True)
                if tag != "O"
            )
            for row in splits[role]
        ]
        assert sum(entities) > len(entities) / 2
    texts = [" ".join(words) for split in splits.values() for words in split["tokens"]]
    assert len(set(texts)) == len(texts)


def test_ambiguous_words_are_persons_and_places_in_every_split() -> None:
    splits = NamedEntities().load("task")
    for split in splits.values():
        types = Counter(
            (word, tag[2:])
            for row in split
            for word, tag in zip(row["tokens"], row["tags"], strict=True)
            if word in AMBIGUOUS
        )
        assert sum((word, "PER") in types and (word, "LOC") in types for word in AMBIGUOUS) >= 5


def test_styles_share_names_and_no_sentence() -> None:
    """What is learned from one can serve on the other, and is not the same."""
    news, chat = (build(NamedEntities, {"style": s}, "task").load("task")["train"] for s in ("news", "chat"))
    named = [
        {w.lower() for r in split for w, t in zip(r["tokens"], r["tags"], strict=True) if t != "O"}
        for split in (news, chat)
    ]
    assert len(named[0] & named[1]) > 0.9 * min(map(len, named))
    texts = [{" ".join(words).lower() for words in split["tokens"]} for split in (news, chat)]
    assert not texts[0] & texts[1]
    plain, other = NamedEntities(), build(NamedEntities, {"style": "chat"}, "task")
    assert plain.identity() == other.identity(), "the difference is in the content"
