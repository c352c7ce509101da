"""Reads a sweep file's text: YAML as people mean it, the line of every setting, `--set`.

PyYAML follows YAML 1.1, where `2e-5` is a string, `on` a truth value and a repeated key silently wins.
Here numbers are YAML 1.2's, only `true` and `false` are truth values, and a repeated key is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from harness.errors import InputError, Mistake, Mistakes, bad, nearest

MAX_NODES = 100_000  # aliases can make a small file enormous


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _int(loader: Any, node: Any) -> int:
    return int(node.value)  # decimal: `010` is ten, not eight


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


@dataclass(frozen=True)
class Document:
    """A sweep file's content and the line (from 1) on which each dotted path stands."""

    content: dict[str, Any]
    lines: dict[str, int]
    origin: str

    def located(self, error: InputError) -> InputError:
        """The same mistakes, with file and line at their places."""
        return InputError(Mistake(self._with_line(m.place), m.reason, m.hint) for m in error.mistakes)

    def _with_line(self, place: str) -> str:
        path = place
        while path:
            if path in self.lines:
                return f"{self.origin}:{self.lines[path]}: {place}"
            path = path.rpartition(".")[0]
        return f"{self.origin}: {place}" if place else self.origin


def read(text: str, origin: str) -> Document:
    """Parse a sweep file.

    Raises: InputError for text that is not YAML, repeated keys, and anything but settings at the top.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        mistakes = Mistakes()
        lines: dict[str, int] = {}
        _scan(node, "", lines, mistakes, [0], origin)
        mistakes.raise_any()
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}:{mark.line + 1}" if mark else origin
        raise bad(place, f"is not YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError) as error:
        raise bad(origin, f"cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise bad(origin, "holds no settings", "a sweep file is a mapping, `name: …` and so on")
    return Document(content, lines, origin)


def _scan(
    node: Any, path: str, lines: dict[str, int], mistakes: Mistakes, count: list[int], origin: str
) -> None:
    count[0] += 1
    if count[0] > MAX_NODES:
        raise bad(origin, f"has more than {MAX_NODES} settings once its aliases are followed")
    if node is None:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            where = f"{path}.{name}" if path else name
            if not isinstance(key, yaml.ScalarNode):
                mistakes.add(f"{origin}:{key.start_mark.line + 1}", "a key is a plain name")
                continue
            if name in seen and name != "<<":
                mistakes.add(f"{origin}:{key.start_mark.line + 1}: {where}", "stands here a second time")
            seen.add(name)
            lines[where] = key.start_mark.line + 1
            _scan(value, where, lines, mistakes, count, origin)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _scan(value, f"{path}.{index}", lines, mistakes, count, origin)


def assign(document: Document, assignments: Sequence[str]) -> Document:
    """Apply `--set path=value` in order; values are YAML, list items are reached by number.

    Raises: InputError for an assignment without `=`, a path through a plain value, a number beyond a list.
    """
    mistakes = Mistakes()
    content: Any = document.content
    lines = dict(document.lines)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            mistakes.add(f"--set {assignment}", "takes path=value")
            continue
        try:
            value = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, ValueError) as error:
            mistakes.add(f"--set {path}", f"the value is not YAML: {error}")
            continue
        with mistakes.collecting():
            content = _replaced(content, path.split("."), value, path)
            lines = {k: v for k, v in lines.items() if k != path and not k.startswith(f"{path}.")}
    mistakes.raise_any()
    return Document(content, lines, document.origin)


def _replaced(node: Any, keys: list[str], value: Any, path: str) -> Any:
    """A copy of `node` with the value at `keys` replaced; nothing of the original changes (aliases share)."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(node, list):
        names = [item.get("name", item.get("use")) if isinstance(item, dict) else item for item in node]
        index = int(key) if key.isdigit() else names.index(key) if key in names else -1
        if not 0 <= index < len(node):
            raise bad(f"--set {path}", f"the list has no entry '{key}'", nearest(key, map(str, names)))
        return [_replaced(item, rest, value, path) if i == index else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if isinstance(node, str) and path.split(".")[0] in ("tasks", "backbones", "strategies"):
        node = {"use": node}  # `tasks.bbc-topics.train_size=64` on `tasks: [bbc-topics]`
    elif isinstance(node, str):
        node = {"name": node}  # `optimizer.learning_rate=1e-3` on `optimizer: sgd`
    if not isinstance(node, dict):
        raise bad(f"--set {path}", f"'{key}' is looked for in {node!r}, which holds no settings")
    return {**node, key: _replaced(node.get(key), rest, value, path)}
