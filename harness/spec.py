"""The sweep file: from settings to a validated `Sweep`.

Precedence, weakest first: published defaults, the sweep's own sections, a task's sections, a strategy's.
All mistakes are collected and raised together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from types import NoneType
from typing import Any, ClassVar

from pydantic import Field

from harness import document, space
from harness.backbones.base import Backbone
from harness.document import Document
from harness.errors import InputError, Mistakes, bad, nearest
from harness.recipe import DEFAULT_OPTIMIZER, SECTIONS, configured, default_of, named, parse
from harness.registry import Plugin, build, find, plugins
from harness.search.base import Scheduler, Search, SearchSpace
from harness.space import Path, Tree
from harness.strategies.base import Part, Preset
from harness.tasks import sources
from harness.tasks.base import Task

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+@=,\[\]()-]{0,127}")
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Seeds(Plugin):
    """How many seeds tune and confirm; `confirm: 0` skips the confirm phase."""

    name: ClassVar[str] = "seeds"

    tune: int = Field(default=1, ge=1, le=1000)
    confirm: int = Field(default=5, ge=0, le=1000)


class Resources(Plugin):
    """What one trial gets. None of this decides a trial's result, but the number of CPU threads.

    Attributes:
        cpus, gpus: reserved per trial; fractions share a device.
        concurrent: trials at a time at most; null: as many as fit.
        checkpoint_seconds: a trial saves its state at the first evaluation after so many seconds.
        retries: how often a trial is started again after its worker was lost.
    """

    name: ClassVar[str] = "resources"

    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    concurrent: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=60, ge=0)
    retries: int = Field(default=2, ge=0, le=100)


@dataclass(frozen=True)
class TaskEntry:
    name: str
    task: Task
    settings: Tree  # sections for this task only
    place: str


@dataclass(frozen=True)
class BackboneEntry:
    name: str
    backbone: Backbone
    place: str


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


@dataclass(frozen=True)
class Sweep:
    name: str
    tasks: tuple[TaskEntry, ...]
    backbones: tuple[BackboneEntry, ...]
    strategies: tuple[StrategyEntry, ...]
    defaults: Tree
    baseline: str | None
    search: Search
    scheduler: Scheduler | None
    seeds: Seeds
    resources: Resources
    document: Document = field(repr=False)

    def tree(self, task: TaskEntry | None, strategy: StrategyEntry) -> Tree:
        """The full settings of a strategy on a task, spaces included."""
        return space.merge(strategy.preset, self.defaults, task.settings if task else {}, strategy.settings)


KEYS = (
    "name", "backbones", "tasks", "strategies", "baseline", "search", "seeds", "resources", *SECTIONS,
)  # fmt: skip


def load(path: FilePath, assignments: Sequence[str] = ()) -> Sweep:
    """Read and validate a sweep file.

    Raises: InputError with every mistake found, each with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise bad(str(path), reason) from error
    doc = document.assign(document.read(text, str(path)), assignments)
    try:
        return from_document(doc, [path.resolve().parent, FilePath.cwd()])
    except InputError as error:
        raise doc.located(error) from error


def from_document(doc: Document, bases: list[FilePath]) -> Sweep:
    """Validate the content of a sweep file; local paths are looked for below `bases`.

    Raises: InputError with every mistake found.
    """
    content = doc.content
    mistakes = Mistakes()
    for key in content:
        if key not in KEYS:
            mistakes.add(str(key), f"there is no setting '{key}'", nearest(key, KEYS))
    name = content.get("name")
    if not isinstance(name, str) or not _SLUG.fullmatch(name):
        mistakes.add("name", f"takes letters, digits, '.', '_' and '-', not {name!r}")
    tasks: list[TaskEntry] = []
    backbones: list[BackboneEntry] = []
    strategies: list[StrategyEntry] = []
    defaults: Tree = {}
    with mistakes.collecting():
        defaults = _sections(content, "")
        section = defaults.get("optimizer") or {}
        if space.is_section(section):  # named, so that another one in a task or strategy replaces it whole
            defaults["optimizer"] = named(section, DEFAULT_OPTIMIZER)
    for entries, key, read in (
        (tasks, "tasks", lambda n, i: _tasks(n, i, bases)),
        (backbones, "backbones", lambda n, i: _backbone(n, i, bases)),
        (strategies, "strategies", lambda n, i: _strategies(n, i, defaults)),
    ):
        with mistakes.collecting():
            _read_list(content.get(key), key, read, entries, mistakes)
    search: Search | None = None
    scheduler: Scheduler | None = None
    seeds, resources = Seeds(), Resources()
    with mistakes.collecting():
        search, scheduler = _search(content.get("search"))
    with mistakes.collecting():
        seeds = build(Seeds, _given(content, "seeds"), "seeds")
    with mistakes.collecting():
        resources = build(Resources, _given(content, "resources"), "resources")
    baseline = None if content.get("baseline") is None else str(content["baseline"])
    names = [strategy.name for strategy in strategies]
    if baseline is not None and baseline not in names and strategies:
        mistakes.add("baseline", f"there is no strategy '{baseline}'", nearest(baseline, names))
    sweep = Sweep(
        str(name), tuple(tasks), tuple(backbones), tuple(strategies), defaults,
        baseline, search or find("search", Search, "grid", "search")(), scheduler, seeds, resources, doc,
    )  # fmt: skip
    looked_at: list[TaskEntry | None] = [*tasks]
    for task in looked_at or [None]:  # strategies are looked at even where every task is wrong
        for strategy in strategies:
            with mistakes.collecting():
                check_strategy(sweep, task, strategy)
    mistakes.raise_any()
    return sweep


def _given(content: Tree, key: str) -> Any:
    """A section, empty where the file leaves it out; `0` and `false` are not left out, they are wrong."""
    return {} if content.get(key) is None else content[key]


def _renamed(value: Any, name: str) -> Any:
    """An entry of a mapping, with the name under which it stands; alone, the name says which one is meant."""
    if value is None:
        return name
    if isinstance(value, str):
        value = {"use": value}
    return {**value, "name": name} if isinstance(value, Mapping) else value


def _read_list(
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
            mistakes.add(entry.place, f"'{entry.name}' is no name", "letters, digits, spaces and ._+@=,[]()-")
        if entry.name in seen:
            mistakes.add(entry.place, f"the name '{entry.name}' stands twice in {key}")
        seen.add(entry.name)


def _sections(content: Tree, place: str) -> Tree:
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

    def shown(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"({','.join(f'{key}={shown(child)}' for key, child in value.items())})"
        return f"({','.join(map(shown, value))})" if isinstance(value, list) else str(value)

    return ",".join(f"{path[-1]}={shown(value)}" for path, value in chosen.items())


def _tasks(node: Any, place: str, bases: list[FilePath]) -> list[TaskEntry]:
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
    settings = _sections({key: node.pop(key) for key in SECTIONS if key in node}, f"{place}.")
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
    return TaskEntry(f"{base}[{label}]" if label else base, task, settings, place)


def _backbone(node: Any, place: str, bases: list[FilePath]) -> list[BackboneEntry]:
    known = plugins("backbones", Backbone)
    tree = _entry(node, place)
    use = tree.pop("use", None)
    name = tree.pop("name", None)
    if use is None and "path" not in tree and name in known:
        use = name
    if use is not None and use in known and use != Backbone.name:
        return [BackboneEntry(str(name or use), build(known[use], tree, place), place)]
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
    return [BackboneEntry(label, build(Backbone, tree, place), place)]


def read_backbone(node: Any, place: str) -> BackboneEntry:
    """The backbone that a name, an id, a folder or settings stand for.

    Raises: InputError if there is none.
    """
    return _backbone(node, place, [FilePath.cwd()])[0]


def presets() -> dict[str, Preset]:
    """Ready strategies by name, from every part."""
    return {
        name: preset for part in plugins("strategies", Part).values() for name, preset in part.presets.items()
    }


def _strategies(node: Any, place: str, defaults: Tree) -> list[StrategyEntry]:
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


def _search(node: Any) -> tuple[Search, Scheduler | None]:
    tree = {"algorithm": node} if isinstance(node, str) else node
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise bad("search", f"takes settings as `name: value`, not {node!r}")
    mistakes = Mistakes()
    search: Any = None
    scheduler: Scheduler | None = None
    own = {key: value for key, value in tree.items() if key not in ("algorithm", "scheduler")}
    with mistakes.collecting():
        model = find("search", Search, tree.get("algorithm", "grid"), "search.algorithm")
        search = build(model, own, "search")
    with mistakes.collecting():
        section = named(tree.get("scheduler"))
        if section is not None:
            scheduler = configured("search", Scheduler, section, "search.scheduler")
    mistakes.raise_any()
    return search, scheduler


def search_space(tree: Tree, strategy: StrategyEntry) -> SearchSpace:
    """The axes of a strategy's settings, with the published default on each: that of the ready strategy it
    starts from, else that of the plug-in.

    Raises: InputError for malformed spaces.
    """
    axes = space.spaces(tree, strategy.name)
    published = {path: node for path, node in space.walk(strategy.preset) if not isinstance(node, Mapping)}
    return SearchSpace(
        axes, {p: axis.nearest(published.get(p, default_of(tree, p))) for p, axis in axes.items()}
    )


def check_strategy(sweep: Sweep, task: TaskEntry | None, strategy: StrategyEntry) -> None:
    """Validate a strategy on a task with every value of its spaces, one axis at a time.

    Raises: InputError with every mistake, at the place of the setting that made it.
    """
    tree = sweep.tree(task, strategy)
    mistakes = Mistakes()
    axes, malformed = space.scan(tree)
    for error in malformed.values():
        mistakes.extend(error.mistakes)
    tree = space.fill(tree, dict.fromkeys(malformed, space.OMIT))
    first = {path: axis.probes()[0] for path, axis in axes.items()}
    with mistakes.collecting():
        parse(space.fill(tree, first), "")
    for path, axis in axes.items():
        for probe in axis.probes()[1:]:
            with mistakes.collecting():
                parse(space.fill(tree, {**first, path: probe}), "")
    if not mistakes and (reason := sweep.search.reason_against(search_space(tree, strategy))):
        mistakes.add("", reason)
    found = Mistakes()
    for mistake in mistakes:
        inner = mistake.place.strip(".")
        found.add(origin(inner, task, strategy), mistake.reason, mistake.hint)
    found.raise_any()


def origin(inner: str, task: TaskEntry | None, strategy: StrategyEntry) -> str:
    """Where a setting of the merged tree was written: strategy, task or sweep."""

    def holds(tree: Any) -> bool:
        for key in inner.split("."):
            if not isinstance(tree, Mapping) or key not in tree:
                return tree is not None and not isinstance(tree, Mapping) and key in space.HOWS
            tree = tree[key]
        return True

    if not inner:
        return strategy.place
    if holds(strategy.settings):
        return f"{strategy.place}.{inner}"
    if task is not None and holds(task.settings):
        return f"{task.place}.{inner}"
    return inner


def resolved(sweep: Sweep) -> Tree:
    """The sweep as a file that gives the same sweep from anywhere: names expanded, paths absolute."""

    def section(name: str, plugin: Plugin) -> Tree:
        return {name: plugin.name, **plugin.model_dump(mode="json")}

    def task(entry: TaskEntry) -> Tree:
        own = entry.task.model_dump(mode="json", exclude_defaults=True)
        kind = {"kind": entry.task.kind} if entry.task.name == entry.task.kind else {"use": entry.task.name}
        return {"name": entry.name, **kind, **own, **entry.settings}

    def backbone(entry: BackboneEntry) -> Tree:
        own = entry.backbone.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return {"name": entry.name, **({} if own.get("path") else {"use": entry.backbone.name}), **own}

    search = section("algorithm", sweep.search)
    if sweep.scheduler is not None:
        search["scheduler"] = section("name", sweep.scheduler)
    return {
        "name": sweep.name,
        "backbones": [backbone(entry) for entry in sweep.backbones],
        "tasks": [task(entry) for entry in sweep.tasks],
        **sweep.defaults,
        "strategies": {
            entry.name: {**({"use": entry.use} if entry.use else {}), **entry.settings}
            for entry in sweep.strategies
        },
        **({"baseline": sweep.baseline} if sweep.baseline is not None else {}),
        "search": search,
        "seeds": sweep.seeds.model_dump(),
        "resources": sweep.resources.model_dump(),
    }
