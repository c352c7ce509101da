"""The text of a sweep file: YAML as people mean it, lines, `--set`; hostile text ends in a clear message."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness import document, spec
from harness.document import Document
from harness.errors import InputError


def value(text: str) -> Any:
    return document.read(f"x: {text}\n", "f.yaml").content["x"]


def refused(text: str, *assignments: str) -> str:
    with pytest.raises(InputError) as caught:
        document.assign(document.read(text, "f.yaml"), assignments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2e-5", 2e-5), ("1e3", 1000.0), ("1E3", 1000.0), ("010", 10), ("08", 8), (".5", 0.5), ("5.", 5.0),
        ("-3", -3), ("+3", 3), ("-2.5e+3", -2500.0), ("1.0", 1.0), (".inf", math.inf), ("-.inf", -math.inf),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("y", "y"), ("NO", "NO"),
        ("1_000", "1_000"), ("0x10", "0x10"), ("0o7", "0o7"), ("12:30:45", "12:30:45"),
        ("2024-01-31", "2024-01-31"), ("'1e3'", "1e3"), ('"true"', "true"), ("1e", "1e"), ("e5", "e5"),
        ("!!str 5", "5"), ("!!int '5'", 5), ("!!float 5", 5.0), ("=", "="),
    ],
)  # fmt: skip
def test_plain_values_are_what_they_look_like(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(value(".nan"))


def test_a_key_is_a_name_whatever_it_looks_like() -> None:
    text = "1: a\n2e-5: b\non: c\ntrue: d\n~: e\n2024-01-31: f\n"
    assert list(document.read(text, "f").content) == ["1", "2e-5", "on", "true", "~", "2024-01-31"]


def test_merge_keys_take_settings_over() -> None:
    text = "base: &b {epochs: 3, batch_size: 8}\ntraining: {<<: *b, epochs: 5}\n"
    assert document.read(text, "f").content["training"] == {"epochs": 5, "batch_size": 8}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: stands here a second time"),
        ("a:\n  b: 1\n  b: 1\n", "f.yaml:3: a.b: stands here a second time"),
        ("a: [{b: 1,\n b: 1}]\n", "f.yaml:2: a.0.b: stands here a second time"),
        ("a: 1\n'a': 1\n", "f.yaml:2: a: stands here a second time"),
        ("? [1, 2]\n: 3\n", "f.yaml:1: a key is a plain name"),
        ("a:\n\t- 1\n", "f.yaml:2: is not YAML"),
        ("a: 1\nb: [1, 2\nc: 3\n", "is not YAML"),
        ("a: 'open\n", "is not YAML"),
        ("a: *nowhere\n", "is not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        ("a: b: c\n", "f.yaml:1: is not YAML"),
        ("a: \0\n", "is not YAML"),
        ("a: !!python/object:os.system x\n", "is not YAML"),
        ("a: !mine 3\n", "f.yaml:1: is not YAML"),
        ("a: !!bool maybe\n", "f.yaml:1: is not YAML: 'maybe' is no bool"),
        ("a: !!int [1]\n", "f.yaml:1: is not YAML"),
        ("a: !!float ''\n", "f.yaml:1: is not YAML: '' is no float"),
        ("a: !!timestamp soon\n", "f.yaml:1: is not YAML"),
        ("a: !!binary '/'\n", "f.yaml:1: is not YAML"),
        ("a: !!set {b, c}\n", "f.yaml:1: is not YAML"),
        ("b: 1\na: " + "9" * 5000 + "\n", "f.yaml:2: is not YAML"),
        ("a: {<<: 3}\n", "is not YAML"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", "f.yaml: nests settings more than 50 deep"),
        ("a: " + "{a: " * 4000, "f.yaml: nests settings more than 50 deep"),
        ("a: &a [*a]\n", "f.yaml: nests settings more than 50 deep"),
        ("a: &a {b: *a}\n", "f.yaml: nests settings more than 50 deep"),
        ("", "f.yaml: holds no settings"),
        ("# nothing\n", "f.yaml: holds no settings"),
        ("- a\n- b\n", "f.yaml: holds no settings"),
        ("just words\n", "f.yaml: holds no settings"),
        ("3", "f.yaml: holds no settings"),
    ],
)  # fmt: skip
def test_bad_text_is_refused_with_its_line(text: str, words: str) -> None:
    assert words in refused(text)


def test_every_repeated_key_is_told_at_once() -> None:
    assert refused("a: 1\na: 1\nb: {c: 1, c: 2}\n").count("second time") == 2


@pytest.mark.parametrize("kind", ["[{}]", "{{x: {}, y: {}}}"])
def test_an_alias_bomb_is_refused_before_it_is_built(kind: str) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 20):
        inner = ", ".join([f"*a{level - 1}"] * 10) if kind == "[{}]" else f"*a{level - 1}"
        lines.append(f"a{level}: &a{level} {kind.format(inner, inner)}")
    assert "once its aliases are followed" in refused("\n".join(lines) + "\n")


# -- lines ---------------------------------------------------------------------------------------

TEXT = """\
name: small
tasks:
  - bbc-topics
  - name: mine
    dataset:
      path: csv
strategies:
  full: {freeze: 0,
         optimizer: sgd}
"""


def test_every_setting_knows_its_line() -> None:
    lines = document.read(TEXT, "f").lines
    assert [lines[place] for place in ("name", "tasks.0", "tasks.1.dataset.path", "strategies.full")] == [
        1, 3, 6, 8,
    ]  # fmt: skip
    assert lines["strategies.full.optimizer"] == 9


def test_a_mistake_stands_at_the_line_of_the_nearest_setting_that_exists() -> None:
    from harness.errors import bad

    read = document.read(TEXT, "f.yaml")
    assert str(read.located(bad("tasks.1.dataset.data_files", "is missing"))).startswith("f.yaml:5: tasks.1.")
    assert str(read.located(bad("nowhere.at.all", "is missing"))) == "f.yaml: nowhere.at.all: is missing"
    assert str(read.located(bad("", "is wrong"))).startswith("f.yaml")


# -- --set ---------------------------------------------------------------------------------------


def changed(text: str, *assignments: str) -> dict[str, Any]:
    return document.assign(document.read(text, "f.yaml"), assignments).content


def test_set_replaces_a_nested_value_and_nothing_else() -> None:
    assert changed("a: {b: 1, c: 2}\nd: 3\n", "a.b=5") == {"a": {"b": 5, "c": 2}, "d": 3}


def test_set_adds_settings_and_whole_sections() -> None:
    assert changed("a: 1\n", "b.c.d=2", "e=") == {"a": 1, "b": {"c": {"d": 2}}, "e": None}


def test_set_takes_yaml_and_later_assignments_win() -> None:
    found = changed("a: 1\n", "a={grid: [2e-5, 1e-4]}", "b=on", "c==x", "b='2'")
    assert found == {"a": {"grid": [2e-5, 1e-4]}, "b": "2", "c": "=x"}


def test_set_reaches_list_items_by_number_and_by_name() -> None:
    text = "tasks: [{use: one}, {name: two, use: one}, three]\n"
    assert changed(text, "tasks.0.size=1", "tasks.two.size=2", "tasks.three.size=3", "tasks.one.delta=4") == {
        "tasks": [
            {"use": "one", "size": 1, "delta": 4},
            {"name": "two", "use": "one", "size": 2},
            {"use": "three", "size": 3},
        ]
    }
    assert changed(text, "tasks.2=four")["tasks"][2] == "four"


def test_set_turns_shorthands_into_settings() -> None:
    assert changed("optimizer: sgd\n", "optimizer.momentum=0") == {
        "optimizer": {"name": "sgd", "momentum": 0}
    }
    text = "strategies: {full: {optimizer: sgd, freeze: 0}, mine: head-only, top-quarter: }\n"
    found = changed(
        text,
        "strategies.full.optimizer.momentum=0",
        "strategies.mine.freeze=3",
        "strategies.top-quarter.training.epochs=1",
        "strategies.new.freeze=2",
    )
    assert found["strategies"] == {
        "full": {"optimizer": {"name": "sgd", "momentum": 0}, "freeze": 0},
        "mine": {"use": "head-only", "freeze": 3},
        "top-quarter": {"use": "top-quarter", "training": {"epochs": 1}},
        "new": {"freeze": 2},
    }


def test_set_does_not_reach_through_an_alias() -> None:
    assert changed("a: &x {v: 1}\nb: *x\n", "a.v=2") == {"a": {"v": 2}, "b": {"v": 1}}


def test_set_leaves_the_document_alone() -> None:
    read = document.read("a: {b: 1}\n", "f")
    document.assign(read, ["a.b=2"])
    assert read.content == {"a": {"b": 1}}


def test_a_setting_from_the_command_line_does_not_claim_a_line_of_its_own() -> None:
    read = document.assign(document.read("a:\n  b: {c: 1}\n", "f"), ["a.b={c: 2}"])
    assert "a.b.c" not in read.lines
    assert "a.b" not in read.lines


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("a", "--set a: takes path=value"),
        ("=3", "takes path=value"),
        ("a..b=3", "takes path=value"),
        (".=3", "takes path=value"),
        (".".join(["a"] * 5000) + "=1", "takes path=value"),
        ("a.x=1", "'x' is looked for in 1, which holds no settings"),
        ("list.9=1", "the list has no entry '9'"),
        ("list.-1=1", "the list has no entry '-1'"),
        ("list.²=1", "the list has no entry '²'"),
        ("list.oen=1", "did you mean 'one'?"),
        ("a=[1, 2", "--set a"),
        ("a={b: 1, b: 2}", "second time"),
        ("a=&x [*x]", "50 deep"),
        ("a=" + "[" * 3000, "50 deep"),
        ("a=!!bool maybe", "is no bool"),
    ],
)
def test_a_bad_assignment_is_refused(assignment: str, words: str) -> None:
    assert words in refused("a: 1\nlist: [one, two]\n", assignment)


def test_every_bad_assignment_is_told_at_once() -> None:
    assert len(refused("a: 1\n", "a.b=1", "c", "d=[").splitlines()) == 3


# -- dump ----------------------------------------------------------------------------------------

DECEPTIVE = "1e3 08 010 2e-5 .5 on yes true null ~ 1_000 12:30 2024-01-31 << = 0x1f .inf 1: -"
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=8), st.sampled_from([*DECEPTIVE.split(), "", " ", "\x85", "a\u2028b"])
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, PLAIN, max_size=4))
def test_what_is_dumped_reads_back_the_same_with_us_and_with_other_readers(content: dict[str, Any]) -> None:
    text = document.dump(content)
    assert document.read(text, "f").content == content
    assert yaml.safe_load(text) == content


# -- hostile text --------------------------------------------------------------------------------

VOCABULARY = """
freeze use kind each grid choice uniform int loguniform scheduler algorithm trials asha optuna random sgd
adamw l2-sp none full head-only bbc-topics text-classification minilm-l6 path dataset data_files csv
learning_rate strength epochs tune confirm cpus metrics primary splits inputs labels all
"""
WORDS = st.sampled_from([*spec.KEYS, *VOCABULARY.split()])
LEAVES = (
    WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS, inner, max_size=4)
        | st.dictionaries(st.integers() | st.none() | st.floats() | st.booleans(), inner, max_size=2)
    ),
    max_leaves=20,
)
SWEEPS = st.fixed_dictionaries(
    {"name": st.just("x") | LEAVES},
    optional=dict.fromkeys((key for key in spec.KEYS if key != "name"), TREES),
)  # fmt: skip
VALID = {
    "name": "x",
    "tasks": ["bbc-topics"],
    "backbones": ["minilm-l6"],
    "strategies": {"full": {"freeze": 0}, "head-only": None},
}
HOSTILE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survives(text: str) -> None:
    """Reading and checking a text gives a sweep or an `InputError` with a message, nothing else."""
    try:
        spec.from_document(document.read(text, "f.yaml"), [Path("/nonexistent")])
    except InputError as error:
        assert str(error).strip()
        assert "object at 0x" not in str(error)


@HOSTILE
@given(st.text())
def test_any_text_ends_in_a_message(text: str) -> None:
    survives(text)


@HOSTILE
@given(
    st.lists(
        st.sampled_from([*"{}[]:,-?&*!|>'\"%@#~ \n\t", "a", "x: ", "- ", "<<", "!!int ", "&a ", "*a", "1"])
    )
)
def test_any_yaml_like_text_ends_in_a_message(pieces: list[str]) -> None:
    survives("".join(pieces))


@HOSTILE
@given(SWEEPS)
def test_any_tree_of_settings_ends_in_a_message(tree: dict[str, Any]) -> None:
    survives(yaml.safe_dump(tree))


@HOSTILE
@given(st.sampled_from([*spec.KEYS]), TREES)
@example("strategies", {"a": {"grid": [1]}})
@example("strategies", {"a": {"each": [{"freeze": 0}, {"freeze": 1}]}})
@example("strategies", [{"use": ["full"]}])
@example("strategies", {"a": {1: 2, "freeze": 0}})
@example("tasks", [{"each": ["bbc-topics", "tweet-sentiment"]}])
@example("tasks", [{"use": {"a": 1}}])
@example("tasks", [{"name": ["x"], "kind": ["y"]}])
@example("backbones", [{"use": ["minilm-l6"]}])
@example("backbones", [{"name": {"a": 1}}])
@example("backbones", ["~nobody-of-this-name/model"])
@example("backbones", ["x" * 300])
@example("backbones", ["a\0b"])
@example("search", {"scheduler": ["asha"]})
@example("search", {"scheduler": 3})
@example("optimizer", {"each": ["sgd", "adamw"]})
@example("optimizer", {"grid": ["sgd", "adamw"]})
@example("optimizer", {"name": {"grid": ["sgd", "adamw"]}, "learning_rate": {"grid": [1, 2]}})
@example("training", {"epochs": {"uniform": [1, 10**400]}})
@example("training", {"epochs": {"int": [1, 10**30]}})
@example("regularizer", {"name": "l2-sp", "strength": {"grid": [float("nan"), float("inf")]}})
def test_any_setting_in_a_valid_sweep_ends_in_a_message(key: str, tree: Any) -> None:
    survives(yaml.safe_dump({**VALID, key: tree}))


def test_the_sweep_that_the_hostile_tests_break_is_itself_valid() -> None:
    content = yaml.safe_load(yaml.safe_dump(VALID))
    assert spec.from_document(Document(content, {}, "f"), []).name == "x"
