"""The entries of a sweep file: one task, backbone or strategy each, with `each:` expanded.

Every reader takes what stands in the file and its place, and raises InputError with all its mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from types import NoneType
from typing import Any

from harness import space
from harness.backbones.base import Backbone
from harness.errors import Mistakes, bad, nearest
from harness.recipe import SECTIONS, named
from harness.records.paths import slug
from harness.registry import build, plugins
from harness.space import Path, Tree
from harness.strategies.base import Part, Preset
from harness.tasks import sources
from harness.tasks.base import Task

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+@=,\[\]()-]{0,127}")
_CHARACTERS = "letters, digits, spaces and ._+@=,[]()-, 128 at most"


@dataclass(frozen=True)
class TaskEntry:
    """One task: `settings` are sections for it alone, `backbones` those that it is run on (None: all)."""

    name: str
    task: Task
    settings: Tree
    place: str
    backbones: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BackboneEntry:
    name: str
    backbone: Backbone
    place: str
    source: SourceEntry | None = None


@dataclass(frozen=True)
class SourceEntry:
    """What a backbone is trained on before the sweep: a task, how, and with which seed. `label` is what the
    file calls the task, whose own name also says whose source it is."""

    label: str
    task: TaskEntry
    strategy: StrategyEntry
    seed: int


@dataclass(frozen=True)
class StrategyEntry:
    """One strategy of a sweep: its own settings, spaces included, where they stand, and the ready strategy
    that it starts from."""

    name: str
    settings: Tree
    place: str
    use: str | None = None

    @property
    def preset(self) -> Mapping[str, Any]:
        """Published defaults: weaker than anything that the file says."""
        return presets()[self.use].definition if self.use is not None else {}


def _renamed(value: Any, name: str) -> Any:
    """An entry of a mapping, with the name under which it stands; alone, the name says which one is meant."""
    if value is None:
        return name
    if isinstance(value, str):
        value = {"use": value}
    return {**value, "name": name} if isinstance(value, Mapping) else value


def read_list(
    node: Any, key: str, read: Callable[[Any, str], list[Any]], entries: list[Any], mistakes: Mistakes
) -> None:
    if isinstance(node, Mapping):
        items = [(_renamed(value, name), f"{key}.{name}") for name, value in node.items()]
    elif isinstance(node, list):
        items = [(value, f"{key}.{index}") for index, value in enumerate(node)]
    elif node is None:
        raise bad(key, "is missing", "give at least one")
    else:
        raise bad(key, f"takes a list or a mapping, not {node!r}")
    if not items:
        raise bad(key, "is empty", "give at least one")
    for value, place in items:
        with mistakes.collecting():
            entries.extend(read(value, place))
    seen: set[str] = set()
    for entry in entries:
        if not _NAME.fullmatch(entry.name):
            mistakes.add(entry.place, f"'{entry.name}' is no name", _CHARACTERS)
        if entry.name in seen:
            mistakes.add(entry.place, f"the name '{entry.name}' stands twice in {key}")
        seen.add(entry.name)
    if key != "strategies":  # whose folders are told apart by their trials' ids
        _check_folders(seen, key, mistakes)


def _check_folders(names: set[str], key: str, mistakes: Mistakes) -> None:
    """Tasks and backbones have folders of their own, on file systems too that do not tell `A` from `a`."""
    folders: dict[str, str] = {}
    for name in sorted(names):
        other = folders.setdefault(slug(name).casefold(), name)
        if other != name:
            mistakes.add(key, f"'{other}' and '{name}' would have one folder", "let letters or digits differ")


def read_sections(content: Tree, place: str) -> Tree:
    """The sections of a sweep, a task or a strategy, each plug-in in its long form. What a task's section
    leaves out, the name of the optimiser included, is the sweep's."""
    defaults = {key: content[key] for key in SECTIONS if key in content}
    for key, value in defaults.items():
        if value is not None and not isinstance(value, (dict, str)):
            raise bad(f"{place}{key}", f"takes settings as `name: value`, not {value!r}")
    return _long(defaults)


def _long(tree: Tree) -> Tree:
    """The same settings, `optimizer: sgd` written `optimizer: {name: sgd}`, so that they merge."""
    return {key: named(node) if key in ("optimizer", "regularizer") else node for key, node in tree.items()}


def _entry(node: Any, place: str) -> Tree:
    if isinstance(node, str):
        return {"use": node}
    if not isinstance(node, dict):
        raise bad(place, f"takes a name or settings, not {node!r}")
    for key in (*space.HOWS, "each"):
        if key in node:
            raise bad(f"{place}.{key}", f"`{key}` stands in place of one setting's value, not of them all")
    if not isinstance(node.get("use"), (str, NoneType)):
        raise bad(f"{place}.use", f"takes a name, not {node['use']!r}")
    name = node.get("name")
    return dict(node) if name is None else {**node, "name": str(name)}


def _label(chosen: Mapping[Path, Any]) -> str:
    """`depth=3,regularizer=(name=l2,strength=0.1)`: what tells one of `each` from the others."""
    return ",".join(f"{path[-1]}={space.shown(value)}" for path, value in chosen.items())


def read_tasks(node: Any, place: str, bases: list[FilePath]) -> list[TaskEntry]:
    node = _entry(node, place)
    found = []
    mistakes = Mistakes()
    for chosen, tree in space.each(node, place):
        with mistakes.collecting():
            found.append(_task(tree, place, bases, _label(chosen)))
    mistakes.raise_any()
    return found


def _task(node: Tree, place: str, bases: list[FilePath], label: str) -> TaskEntry:
    known = plugins("tasks", Task)
    name = node.pop("name", None)
    use = node.pop("use", None)
    kind = node.pop("kind", None)
    kinds = [n for n, task in known.items() if task.kind == n]
    shipped = [n for n in known if n not in kinds]
    if use is None and kind is None and name in shipped:
        use = name
    if use is not None:
        if use not in shipped:
            raise bad(place, f"there is no shipped task '{use}'", nearest(use, shipped))
        model = known[use]
        if kind not in (None, model.kind):
            raise bad(f"{place}.kind", f"'{use}' is a task of kind {model.kind}")
    elif kind in kinds:
        model = known[str(kind)]
    elif kind is None:
        hint = nearest(name, shipped) if name else f"shipped tasks: {', '.join(shipped)}"
        raise bad(place, "names neither a shipped task (`use:`) nor a `kind:` of its own", hint)
    else:
        raise bad(f"{place}.kind", f"there is no kind '{kind}'", nearest(kind, kinds))
    settings = read_sections({key: node.pop(key) for key in SECTIONS if key in node}, f"{place}.")
    backbones = node.pop("backbones", None)
    if backbones is not None and not (isinstance(backbones, list) and backbones):
        raise bad(f"{place}.backbones", f"takes a list of names, not {backbones!r}")
    mistakes = Mistakes()
    if isinstance(node.get("dataset"), dict):
        with mistakes.collecting():
            node["dataset"] = sources.locate(node["dataset"], bases, f"{place}.dataset")
    elif use is None:
        mistakes.add(
            f"{place}.dataset", "is missing", "what datasets.load_dataset takes, e.g. {path: csv, …}"
        )
    task: Task | None = None
    with mistakes.collecting():
        task = build(model, node, place)
    mistakes.raise_any()
    assert task is not None
    base = str(name or use)
    runs_on = None if backbones is None else tuple(map(str, backbones))
    return TaskEntry(f"{base}[{label}]" if label else base, task, settings, place, runs_on)


def read_backbones(node: Any, place: str, bases: list[FilePath]) -> list[BackboneEntry]:
    tree = _entry(node, place)
    source = tree.pop("source", None)
    entry = _backbone(tree, place, bases)
    if source is None:
        return [entry]
    return [replace(entry, source=_source(source, f"{place}.source", bases, entry.name))]


def _source(node: Any, place: str, bases: list[FilePath], backbone: str) -> SourceEntry:
    """What a backbone is to be trained on first: `task`, `seed`, and the settings of a strategy."""
    tree = {"task": node} if isinstance(node, str) else node
    if not isinstance(tree, dict) or "task" not in tree:
        raise bad(place, "takes a task, or settings with `task:` among them", f"not {node!r}")
    own = {key: value for key, value in tree.items() if key not in ("task", "seed")}
    seed = tree.get("seed", 0)
    mistakes = Mistakes()
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        mistakes.add(f"{place}.seed", f"takes a whole number, not {seed!r}")
    for path in space.spaces(own):
        mistakes.add(f"{place}.{'.'.join(path)}", "takes one value: a source is trained once, not tuned")
    tasks: list[TaskEntry] = []
    with mistakes.collecting():
        tasks = read_tasks(tree["task"], f"{place}.task", bases)
    for name in (task.name for task in tasks if not _NAME.fullmatch(task.name)):
        mistakes.add(f"{place}.task", f"'{name}' is no name", _CHARACTERS)
    if len(tasks) > 1:
        mistakes.add(f"{place}.task", "is several tasks: a backbone has one source")
    if any(task.backbones is not None for task in tasks):
        mistakes.add(f"{place}.task.backbones", "a source task is for the backbone that it belongs to")
    mistakes.raise_any()
    task = replace(tasks[0], name=f"{tasks[0].name} [source of {backbone}]")
    return SourceEntry(tasks[0].name, task, StrategyEntry("source", _long(own), place), seed)


def _backbone(tree: Tree, place: str, bases: list[FilePath]) -> BackboneEntry:
    known = plugins("backbones", Backbone)
    use = tree.pop("use", None)
    name = tree.pop("name", None)
    if use is None and "path" not in tree and name in known:
        use = name
    if use is not None and use in known and use != Backbone.name:
        return BackboneEntry(str(name or use), build(known[use], tree, place), place)
    path = tree.get("path", use)
    if not isinstance(path, str) or not path:
        raise bad(f"{place}.path", f"takes a Hugging Face id or a folder, not {path!r}")
    try:
        folders = [base / FilePath(path).expanduser() for base in bases]
        folder = next((folder for folder in folders if folder.is_dir()), None)
    except (OSError, RuntimeError, ValueError) as error:  # an unknown `~user`, a name too long for a file
        raise bad(f"{place}.path", f"cannot be looked up: {error}") from error
    if folder is not None:
        tree["path"] = str(folder.resolve())
    else:
        if path.startswith((".", "/", "~")) or path.count("/") > 1:
            raise bad(place, f"there is no folder '{path}'")
        if "/" not in path and (close := nearest(path, known)).startswith("did"):
            raise bad(place, f"there is no backbone '{path}'", close)
        tree["path"] = path
    label = str(name or FilePath(path).name)
    return BackboneEntry(label, build(Backbone, tree, place), place)


def read_backbone(node: Any, place: str) -> BackboneEntry:
    """The backbone that a name, an id, a folder or settings stand for.

    Raises: InputError if there is none.
    """
    return read_backbones(node, place, [FilePath.cwd()])[0]


def presets() -> dict[str, Preset]:
    """Ready strategies by name, from every part."""
    return {
        name: preset for part in plugins("strategies", Part).values() for name, preset in part.presets.items()
    }


def read_strategies(node: Any, place: str, defaults: Tree) -> list[StrategyEntry]:
    ready = presets()
    tree = _entry(node, place)
    name = tree.pop("name", None)
    use = tree.pop("use", None)
    if use is not None and use not in ready:
        raise bad(place, f"there is no ready strategy '{use}'", nearest(use, ready))
    if name is None and use is None:
        raise bad(place, "has no name", "write `strategies:` as a mapping, or give each one a `name:`")
    own = _long(tree)
    base = str(name or use)
    found = []
    for chosen, _ in space.each(space.merge(defaults, own), place):
        fixed: Tree = own
        for path, value in chosen.items():
            nested: Any = value
            for key in reversed(path):
                nested = {key: nested}
            fixed = space.merge(fixed, _long(nested))
        label = _label(chosen)
        found.append(StrategyEntry(f"{base}[{label}]" if label else base, fixed, place, use))
    return found
