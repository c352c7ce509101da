"""Reads a sweep file's text: YAML as people mean it, the line of every setting, `--set`.

PyYAML follows YAML 1.1, where `2e-5` is a string, `on` a truth value and a repeated key silently wins.
Here numbers are YAML 1.2's, only `true` and `false` are truth values, and a repeated key is a mistake.

A file may be anybody's: what it costs to read is bounded before anything is built from it, and nothing in it
can name a type of Python's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError, Mistake, Mistakes, bad, nearest
from harness.redaction import redact_addresses

MAX_BYTES = 1_000_000  # PyYAML reads a megabyte in a few seconds
MAX_NODES = 100_000  # aliases can make a small file enormous
MAX_DEPTH = 50
ENTRIES = ("tasks", "backbones", "strategies")  # lists whose entries are names or settings
_TAG = "tag:yaml.org,2002:"
# What YAML can spell (`"\\ud800"`, `"\\0"`) and no file's text or name can hold.
_UNWRITABLE = re.compile("[\ud800-\udfff\\0]")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    # Other types (dates, sets, bytes) are written with explicit tags only, and no setting takes them.
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "str", "seq", "map")
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # resolves `<<`
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = f"{_TAG}str"  # a key is a name: the strategy `1:` is called "1"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        node = super().represent_str(data)
        if any(character in data for character in "\x85\u2028\u2029"):
            node.style = '"'  # line ends that PyYAML folds to spaces in any other style
        return node


_Dumper.add_representer(str, _Dumper.represent_str)

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
    # Beside YAML 1.1's own: a dumped text is quoted if either version would take it for something else.
    _Dumper.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _plain(tag: str, make: Callable[[str], Any]) -> None:
    def construct(loader: _Loader, node: yaml.Node) -> Any:
        text = loader.construct_scalar(node)  # type: ignore[arg-type]  # refuses other nodes
        try:
            return make(str(text))
        except (ValueError, KeyError) as error:  # `!!int x`, or more digits than Python reads
            raise yaml.constructor.ConstructorError(
                None, None, f"{str(text)[:50]!r} is no {tag}", node.start_mark
            ) from error

    _Loader.add_constructor(f"{_TAG}{tag}", construct)


_plain("bool", lambda text: {"true": True, "false": False}[text.lower()])
_plain("int", int)  # decimal: `010` is ten, not eight
_plain("float", lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")))


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


def unwritable(text: str) -> str:
    """The first character in a text that no file can hold, as Python spells it; empty if there is none."""
    found = _UNWRITABLE.search(text)
    return "" if found is None else ascii(found[0])


@dataclass
class _Survey:
    """Walks the nodes of a text, aliases followed, before anything is built from them: notes the line of
    every dotted path and what is wrong."""

    origin: str
    lines: dict[str, int] = field(default_factory=dict)
    mistakes: Mistakes = field(default_factory=Mistakes)
    count: int = 0
    size: int = 0  # characters of all values

    def visit(self, node: yaml.Node, path: str = "", depth: int = 0) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise bad(self.origin, f"has more than {MAX_NODES} settings once its aliases are followed")
        if depth > MAX_DEPTH:
            raise bad(self.origin, f"nests settings more than {MAX_DEPTH} deep")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            self.size += len(node.value)
            if self.size > MAX_BYTES:
                raise bad(self.origin, f"is longer than {MAX_BYTES} characters once its aliases are followed")
            self._text(node, path)
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    self.mistakes.add(f"{self.origin}:{line}", "a key is a plain name")
                    continue
                where = f"{path}.{key.value}" if path else key.value
                self._text(key, path)
                if key.value in seen and key.value != "<<":
                    self.mistakes.add(f"{self.origin}:{line}: {where}", "stands here a second time")
                seen.add(key.value)
                self.lines[where] = line
                self.visit(value, where, depth + 1)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.visit(value, f"{path}.{index}" if path else str(index), depth + 1)

    def _text(self, node: yaml.ScalarNode, path: str) -> None:
        place = f"{self.origin}:{node.start_mark.line + 1}" + (f": {path}" if path else "")
        if found := unwritable(node.value):
            self.mistakes.add(place, f"holds the character {found}, which no file can hold")
        # A sweep file is copied beside its results, and both are shown around.
        if "://" in node.value and redact_addresses(node.value) != node.value:
            hint = "name them where the library looks for them: ~/.netrc, HF_TOKEN, AWS_… in the environment"
            self.mistakes.add(
                place, "holds an address with a password or signature, and a sweep file is no secret", hint
            )


def _parse(text: str, origin: str) -> tuple[Any, dict[str, int]]:
    """The value that a text writes, and the line of every dotted path in it.

    Raises: InputError for text that is not YAML, repeated keys, and aliases or depth beyond reason.
    """
    if len(text) > MAX_BYTES:
        raise bad(origin, f"is longer than {MAX_BYTES} characters", "no sweep file is")
    survey = _Survey(origin)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        survey.visit(node)
        survey.mistakes.raise_any()
        return loader.construct_document(node), survey.lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}:{mark.line + 1}" if mark else origin
        raise bad(place, f"is not YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise bad(origin, f"nests settings more than {MAX_DEPTH} deep") from error


def text_of(path: Path) -> str:
    """The text of a sweep file, which may be a pipe.

    Raises: InputError if it cannot be read or is no text, or longer than any sweep file.
    """
    try:
        with path.open("rb") as file:  # not `read_text`: `/dev/zero` has no end
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise bad(str(path), f"is longer than {MAX_BYTES} bytes", "no sweep file is")
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise bad(str(path), "does not exist") from error
    except (OSError, ValueError) as error:  # `ValueError`: no UTF-8, or a path that holds NUL
        raise bad(str(path), f"cannot be read: {error}") from error


def read(text: str, origin: str) -> Document:
    """Parse a sweep file.

    Raises: InputError for text that is not YAML, repeated keys, and anything but settings at the top.
    """
    content, lines = _parse(text, origin)
    if not isinstance(content, dict):
        raise bad(origin, "holds no settings", "a sweep file is a mapping, `name: …` and so on")
    return Document(content, lines, origin)


def dump(content: dict[str, Any]) -> str:
    """The text of a file that `read` reads back as `content`, as does any YAML 1.1 reader."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def assign(document: Document, assignments: Sequence[str]) -> Document:
    """Apply `--set path=value` in order; values are YAML, list items are reached by number.

    Raises: InputError for an assignment without `=`, a path through a plain value, a number beyond a list.
    """
    mistakes = Mistakes()
    content: Any = document.content
    lines = dict(document.lines)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.split(".")
        if not equals or "" in keys or len(keys) > MAX_DEPTH or unwritable(path):
            mistakes.add(f"--set {assignment}", "takes path=value")
            continue
        with mistakes.collecting():
            value, _ = _parse(text, f"--set {path}")
            content = _replaced(content, keys, value, path)
            lines = {k: v for k, v in lines.items() if k != path and not k.startswith(f"{path}.")}
    mistakes.raise_any()
    return Document(content, lines, document.origin)


def _replaced(node: Any, keys: list[str], value: Any, path: str) -> Any:
    """A copy of `node` with the value at `keys` replaced; nothing of the original changes (aliases share)."""
    if not keys:
        return value
    key, *rest = keys
    done = path.split(".")[: -len(keys)]  # the keys that led to `node`
    entry = len(done) == 2 and done[0] in ENTRIES
    if isinstance(node, list):
        names = [item.get("name", item.get("use")) if isinstance(item, dict) else item for item in node]
        numbered = key.isdecimal() and len(key) <= len(str(MAX_NODES))  # Python refuses to read 5000 digits
        index = int(key) if numbered else names.index(key) if key in names else -1
        if not 0 <= index < len(node):
            raise bad(f"--set {path}", f"the list has no entry '{key}'", nearest(key, map(str, names)))
        return [_replaced(item, rest, value, path) if i == index else item for i, item in enumerate(node)]
    if node is None:
        node = {}
    if isinstance(node, str):
        # `tasks.mrpc.train_size=64` on `tasks: [mrpc]`; `optimizer.momentum=0` on `optimizer: sgd`
        node = {"use" if entry else "name": node}
    if not isinstance(node, dict):
        raise bad(f"--set {path}", f"'{key}' is looked for in {node!r}, which holds no settings")
    child = node.get(key)
    if rest and child is None and key in node and len(done) == 1 and done[0] in ENTRIES:
        child = key  # `strategies: {head-only: }` is the ready strategy of that name
    return {**node, key: _replaced(child, rest, value, path)}
