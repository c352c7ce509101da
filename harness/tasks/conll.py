"""Reads files with a word per line and a blank line after each sentence, as CoNLL-2003 is distributed
(Tjong Kim Sang & De Meulder 2003)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Mistakes, nearest

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = "conll"
FILE, LINE = PLACE = ("file", "line")
_SETTINGS = ("path", "data_files", "token", "tag")
# Stands between the documents of the original files.
_DOCUMENT = "-DOCSTART-"
# Mistakes of a file that are named one by one.
_SHOWN = 5
_GAP = re.compile(r"[ \t]+")  # not every white space: a word may hold one that does not break


def check(dataset: Mapping[str, Any], place: str, mistakes: Mistakes) -> None:
    """Adds settings that there are not, and columns that are no numbers."""
    for key, value in dataset.items():
        if key not in _SETTINGS:
            mistakes.add(
                f"{place}.{key}", f"the format {FORMAT} has no such setting", nearest(key, _SETTINGS)
            )
        elif key in ("token", "tag") and (not isinstance(value, int) or isinstance(value, bool)):
            reason = f"takes the number of a column, not {value!r}"
            mistakes.add(f"{place}.{key}", reason, "0 is the first, -1 the last")


def load(dataset: Mapping[str, Any]) -> dict[str, Dataset]:
    """The splits, with the columns `tokens`, `tags`, `file` and `line` (that of the first word, from 1).

    Args:
        dataset: `data_files` as `datasets.load_dataset` takes them; `token` and `tag` number the columns,
            from 0 or, negative, from the end of the line.

    Raises: InputError naming file and line of lines with too few columns, and files that are no text.
    """
    from datasets import Dataset, Features, Sequence, Value

    words = Sequence(Value("string"))
    features = Features({"tokens": words, "tags": words, FILE: Value("string"), LINE: Value("int64")})
    files = dataset["data_files"]
    mistakes = Mistakes()
    splits = {}
    for split, named in (files if isinstance(files, Mapping) else {"train": files}).items():
        columns: dict[str, list[Any]] = {name: [] for name in features}
        for path in _files(named):
            for tokens, tags, line in sentences(
                path, dataset.get("token", 0), dataset.get("tag", -1), mistakes
            ):
                for name, value in zip(features, (tokens, tags, str(path), line), strict=True):
                    columns[name].append(value)
        splits[split] = Dataset.from_dict(columns, features)
    mistakes.raise_any()
    return splits


def _files(named: Any) -> list[Path]:
    found: list[Path] = []
    for name in named if isinstance(named, list) else [named]:
        found += map(Path, sorted(glob(name, recursive=True)) if "*" in name else [name])  # noqa: PTH207
    return found


def sentences(
    path: Path, token: int, tag: int, mistakes: Mistakes
) -> Iterator[tuple[list[str], list[str], int]]:
    """Words, tags and the number of the first line of every sentence of a file."""
    needed = max(column + 1 if column >= 0 else -column for column in (token, tag))
    needed = max(needed, 2)  # the word is not its own tag
    tokens: list[str] = []
    tags: list[str] = []
    start = shown = 0
    for number, columns in _lines(path, mistakes):
        if columns and len(columns) < needed and columns[0] != _DOCUMENT:
            shown += 1
            if shown <= _SHOWN:
                has = f"{len(columns)} column{'s' * (len(columns) > 1)}"
                mistakes.add("dataset", f"{path}, line {number} has {has}, and {needed} are needed")
        elif columns and columns[0] != _DOCUMENT:
            start = start if tokens else number
            tokens.append(columns[token])
            tags.append(columns[tag])
        elif tokens:
            yield tokens, tags, start
            tokens, tags = [], []
    if tokens:
        yield tokens, tags, start
    if shown > _SHOWN:
        mistakes.add("dataset", f"{shown - _SHOWN} more lines of {path} have too few columns")


def _lines(path: Path, mistakes: Mistakes) -> Iterator[tuple[int, list[str]]]:
    """The columns of every line; none for a blank one."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                stripped = line.strip(" \t\r\n")
                yield number, _GAP.split(stripped) if stripped else []
    except (OSError, UnicodeDecodeError) as error:
        mistakes.add("dataset", f"{path} cannot be read as text: {error}")
