"""Sweep files that nobody should write: what `test_hostile.py` feeds to the reader."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from harness import spec

HUGE = [10**18, -(10**18), 2**63, 10**400, 1e308, -1e308, 5e-324, 0, -1, -0.0, float("inf"), float("nan")]
ODD = [
    "", " ", ".", "..", "../../../tmp/x", "/etc/passwd", "~root/x", "~", "a/b", "a\\b", "CON", "nul",
    "x" * 300, "x" * 20_000, "\ud800", "a\0b", "a\nb", "\x1b[31mred", "\u202etxt", "\ufeffx", "Ａ", "名前",
    "é" * 200, "🧨", "=cmd|'/c calc'!A0", "@SUM(1)", "${HF_TOKEN}", "{{ 7*7 }}", "%s%n", "<script>", "$(id)",
    "`id`", "true", "null", "none", "all", "*", "**/*", "[a]*", "http://u:p@h/x", "file:///etc/passwd",
    "http://[", "s3://b/k", "pandas", "generator", "sql", "1e400", "-", "grid", "each", "use", "__class__",
    "model_config", "name",
]  # fmt: skip
WORDS = """
freeze use kind each grid choice uniform int loguniform scheduler algorithm trials asha optuna random
sgd adamw l2 l2-sp none full head-only bbc-topics text-classification object-detection minilm-l6 path
dataset data_files data_dir csv conll json split sep quoting inputs target metrics primary delta margin
splits train validation test train_size learning_rate strength momentum epochs warmup precision tune
confirm cpus gpus concurrent share bundle source seed task backbones revision level storage_options
token trust_remote_code name imagefolder columns labels
"""
PIECES = [
    "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "!!python/module:os",
    "!!binary x", "!!timestamp 2020-01-01", "!!set {a}", "!!omap [a: 1]", "!!float x", "!!int 0x",
    "!<tag:yaml.org,2002:str> x", "&a ", "*a", "&a [*a, *a]", "<<: *a", "<<: {<<: {}}", "? [1]\n: 2",
    "---\n", "...\n", "%YAML 9.9\n---\n", "%TAG ! tag:x,1:\n---\n", "{", "}", "[", "]", ":", "- ", "|\n",
    ">-\n", '"\\ud800"', '"\\0"', '"\\x', "'", "\t", "\r", "\x85", "\u2028", "\ufeff", "\0", "\x07", "#", "@",
    "`", "!", "9" * 5000, "[" * 100, "{a: " * 60,
]  # fmt: skip

TEXT = st.sampled_from(ODD) | st.sampled_from(WORDS.split()) | st.text(max_size=6)
LEAVES = TEXT | st.sampled_from(HUGE) | st.none() | st.booleans() | st.integers(-9, 99) | st.floats()
KEYS = st.sampled_from([*spec.KEYS, *WORDS.split()]) | st.sampled_from(ODD[:40])
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(lambda how, values: {how: values}, st.sampled_from([*spec.space.HOWS, "each"]), inner)
    ),
    max_leaves=12,
) | st.builds(lambda value: [value] * 300, LEAVES)


def valid(table: Path) -> dict[str, Any]:
    """A sweep that has one of everything."""
    return {
        "name": "x",
        "tasks": [
            "bbc-topics",
            {
                "name": "mine",
                "kind": "text-classification",
                "dataset": {"path": "csv", "data_files": {"train": str(table)}},
                "metrics": ["accuracy", "f1"],
                "training": {"epochs": 1},
                "train_size": 8,
            },
        ],
        "backbones": ["minilm-l6", {"use": "minilm-l6", "name": "b", "source": {"task": "bbc-topics"}}],
        "optimizer": {"name": "adamw", "learning_rate": {"loguniform": [1e-5, 1e-3]}},
        "training": {"epochs": 2, "batch_size": {"choice": [8, 16]}},
        "regularizer": {"name": "l2", "strength": {"grid": [0, 0.1]}},
        "strategies": {"full": {"freeze": 0}, "deep": {"freeze": {"each": [0.5, 3]}}, "head-only": None},
        "baseline": "full",
        "search": {"algorithm": "optuna", "trials": 4, "scheduler": "asha"},
        "racing": {"level": 0.01},
        "seeds": {"tune": 1, "confirm": 3},
        "resources": {"cpus": 1},
    }


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, child in pairs for place in _places(child, (*path, key)))]


@st.composite
def trees(draw: st.DrawFn, table: Path) -> Any:
    """The valid sweep with a few settings replaced, removed, renamed or moved."""
    tree: Any = valid(table)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(tree)))
        if not place:
            continue
        holder = tree
        for key in place[:-1]:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "rename", "wrap", "move"]))
        if change == "replace":
            holder[place[-1]] = draw(TREES)
        elif change == "remove":
            del holder[place[-1]]
        elif change == "wrap":
            holder[place[-1]] = {draw(KEYS): holder[place[-1]]}
        elif change == "move":
            source: Any = tree
            for key in draw(st.sampled_from(_places(tree))):
                source = source[key]
            holder[place[-1]] = copy.deepcopy(source)
        elif isinstance(holder, dict):
            holder[draw(KEYS)] = holder.pop(place[-1])
    return tree


@st.composite
def files(draw: st.DrawFn, table: Path) -> bytes:
    """The bytes of a sweep file: a tree, written out, and sometimes broken once more."""
    text = yaml.safe_dump(draw(trees(table)), sort_keys=False, allow_unicode=draw(st.booleans()))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, len(text)))
        change = draw(st.sampled_from(["insert", "insert", "cut", "repeat"]))
        if change == "insert":
            text = text[:at] + draw(st.sampled_from(PIECES)) + text[at:]
        else:
            to = min(len(text), at + draw(st.integers(1, 40)))
            text = text[:at] + (text[at:to] * 3 if change == "repeat" else "") + text[to:]
    content = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 30)) == 0:
        content = draw(st.sampled_from([b"\xff\xfe", b"\x00", b"\xc3\x28", b"\xed\xa0\x80"])) + content
    return content
