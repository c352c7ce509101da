"""The sweep file: from settings to a validated `Sweep`.

Precedence, weakest first: published defaults, the sweep's own sections, a task's sections, a strategy's.
All mistakes are collected and raised together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from harness import axes, document, entries, space
from harness.axes import Axes, Values
from harness.document import Document
from harness.entries import BackboneEntry, SourceEntry, StrategyEntry, TaskEntry
from harness.errors import InputError, Mistake, Mistakes, bad, nearest
from harness.published import search_space
from harness.recipe import DEFAULT_OPTIMIZER, SECTIONS, configured, named, parse
from harness.registry import Plugin, build, find, plugins
from harness.search.base import Scheduler, Search
from harness.sections import Racing, Resources, Seeds
from harness.space import Path, Space, Tree
from harness.strategies.base import Part

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    racing: Racing | None
    document: Document = field(repr=False)

    @property
    def sources(self) -> tuple[tuple[BackboneEntry, SourceEntry], ...]:
        """The backbones that are trained on a source task first."""
        return tuple((entry, entry.source) for entry in self.backbones if entry.source is not None)

    @property
    def pairs(self) -> tuple[tuple[TaskEntry, BackboneEntry], ...]:
        """Which task is run on which backbone."""
        return tuple(
            (task, backbone)
            for task in self.tasks
            for backbone in self.backbones
            if task.backbones is None or backbone.name in task.backbones
        )

    def tree(self, task: TaskEntry | None, strategy: StrategyEntry) -> Tree:
        """The full settings of a strategy on a task, spaces included."""
        return space.merge(strategy.preset, self.defaults, task.settings if task else {}, strategy.settings)


MAX_CELLS = 100_000  # each is checked before anything runs
KEYS = (
    "name", "backbones", "tasks", "strategies", "baseline", "search", "racing", "seeds", "resources",
    *SECTIONS,
)  # fmt: skip


def load(path: FilePath, assignments: Sequence[str] = ()) -> Sweep:
    """Read and validate a sweep file.

    Raises: InputError with every mistake found, each with file and line.
    """
    try:
        here = FilePath.cwd()
    except OSError as error:
        raise bad(
            "the working folder", f"cannot be used: {error.strerror}", "cd to one that is there"
        ) from error
    folder = path.absolute().parent
    if document.unwritable(str(folder)):  # absolute paths are written into the results
        raise bad(str(path), "lies in a folder whose name is no text", "rename the folder")
    doc = document.assign(document.read(document.text_of(path), str(path)), assignments)
    try:
        return from_document(doc, [path.resolve().parent, here])
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
        defaults = entries.read_sections(content, "")
        section = defaults.get("optimizer") or {}
        if space.is_section(section):  # named, so that another one in a task or strategy replaces it whole
            defaults["optimizer"] = named(section, DEFAULT_OPTIMIZER)
    for found, key, read in (
        (tasks, "tasks", lambda n, i: entries.read_tasks(n, i, bases)),
        (backbones, "backbones", lambda n, i: entries.read_backbones(n, i, bases)),
        (strategies, "strategies", lambda n, i: entries.read_strategies(n, i, defaults)),
    ):
        with mistakes.collecting():
            entries.read_list(content.get(key), key, read, found, mistakes)
    search: Search | None = None
    scheduler: Scheduler | None = None
    seeds, resources = Seeds(), Resources()
    with mistakes.collecting():
        search, scheduler = _search(content.get("search"))
    with mistakes.collecting():
        seeds = build(Seeds, _given(content, "seeds"), "seeds")
    with mistakes.collecting():
        resources = build(Resources, _given(content, "resources"), "resources")
    racing: Racing | None = None
    with mistakes.collecting():
        racing = None if content.get("racing") is None else build(Racing, content["racing"], "racing")
    if racing is not None and seeds.confirm == 0:
        mistakes.add("racing", "cells race in the confirm phase, and there is none (seeds.confirm: 0)")
    baseline = None if content.get("baseline") is None else str(content["baseline"])
    names = [strategy.name for strategy in strategies]
    if baseline is not None and baseline not in names and strategies:
        mistakes.add("baseline", f"there is no strategy '{baseline}'", nearest(baseline, names))
    sweep = Sweep(
        str(name), tuple(tasks), tuple(backbones), tuple(strategies), defaults,
        baseline, search or find("search", Search, "grid", "search")(), scheduler, seeds, resources,
        racing, doc,
    )  # fmt: skip
    _check_pairs(sweep, mistakes)
    for _, source in sweep.sources:
        with mistakes.collecting():
            check_strategy(sweep, source.task, source.strategy)
            _check_source(sweep, source)
    if (cells := len(tasks) * len(backbones) * len(strategies)) > MAX_CELLS:
        mistakes.add("", f"is {cells} cells (task × backbone × strategy), and {MAX_CELLS} is the most")
        mistakes.raise_any()
    # Strategies are looked at even where every task is wrong; tasks without sections of their own are alike.
    plain = next((task for task in tasks if not task.settings), None)
    looked_at: list[TaskEntry | None] = [task for task in tasks if task.settings or task is plain]
    for task in looked_at or [None]:
        for strategy in strategies:
            with mistakes.collecting():
                check_strategy(sweep, task, strategy)
    _check_sources(sweep, mistakes)
    mistakes.raise_any()
    return sweep


def _check_sources(sweep: Sweep, mistakes: Mistakes) -> None:
    """Parts that need something of a backbone's source task must find it."""
    known = plugins("strategies", Part)
    trained: list[tuple[BackboneEntry, TaskEntry, StrategyEntry, SourceEntry | None]] = [
        (backbone, source.task, source.strategy, None) for backbone, source in sweep.sources
    ]
    for task, backbone in sweep.pairs:
        trained += [(backbone, task, strategy, backbone.source) for strategy in sweep.strategies]
    for backbone, task, strategy, source in trained:
        for name in sorted(known.keys() & {*strategy.preset, *strategy.settings}):
            reason = known[name].reason_against_source(task.task, source.task.task if source else None)
            if reason:
                place = f"{strategy.place}.{name}" if name in strategy.settings else strategy.place
                mistakes.add(place, f"{reason} (backbone '{backbone.name}')")


def _check_source(sweep: Sweep, source: SourceEntry) -> None:
    """Raises: InputError for a strategy that leaves no plain model, which others could start from."""
    tree = sweep.tree(source.task, source.strategy)
    found = space.spaces(tree)
    for part in parse(axes.settings(tree, found, next(axes.probes(found))), "").parts:
        if part.adds:
            reason = "puts modules into the model, and what is kept of a source task is the model without any"
            raise bad(origin(part.name, source.task, source.strategy), reason)


def _check_pairs(sweep: Sweep, mistakes: Mistakes) -> None:
    """Tasks that name backbones must name those that there are, and every backbone must be used."""
    known = [entry.name for entry in sweep.backbones]
    for task in sweep.tasks:
        for name in task.backbones or ():
            if name not in known:
                mistakes.add(
                    f"{task.place}.backbones", f"there is no backbone '{name}'", nearest(name, known)
                )
    used = {backbone.name for _, backbone in sweep.pairs}
    for entry in sweep.backbones:
        if not mistakes and entry.name not in used:  # not if a task that is wrong may be the one that does
            mistakes.add(entry.place, f"no task is run on the backbone '{entry.name}'")


def _given(content: Tree, key: str) -> Any:
    """A section, empty where the file leaves it out; `0` and `false` are not left out, they are wrong."""
    return {} if content.get(key) is None else content[key]


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


def check_strategy(sweep: Sweep, task: TaskEntry | None, strategy: StrategyEntry) -> None:
    """Validate a strategy on a task with every value of its spaces, one axis at a time.

    Raises: InputError with every mistake, at the place of the setting that made it.
    """
    tree = sweep.tree(task, strategy)
    mistakes = Mistakes()
    malformed = space.malformed(tree)
    for error in malformed.values():
        mistakes.extend(placed(error.mistakes, {}, {}, task, strategy))
    tree = space.fill(tree, dict.fromkeys(malformed, space.OMIT))
    found: dict[Path, Space] = {}
    try:
        found = space.spaces(tree)
    except InputError:  # options that differed in what is left out
        mistakes.raise_any()
    for values in axes.probes(found):
        try:
            parse(axes.settings(tree, found, values), "")
        except InputError as error:
            mistakes.extend(placed(error.mistakes, found, values, task, strategy))
    if not mistakes and (reason := sweep.search.reason_against(search_space(tree, strategy))):
        mistakes.add(origin("", task, strategy), reason)
    mistakes.raise_any()


def placed(
    mistakes: Iterable[Mistake], found: Axes, values: Values, task: TaskEntry | None, strategy: StrategyEntry
) -> Iterator[Mistake]:
    """Mistakes in the settings of a configuration, at the places where these were written."""
    for mistake in mistakes:
        inner = mistake.place.strip(".")
        path = axes.written(found, values, tuple(inner.split(".")))
        yield replace(mistake, place=origin(".".join(path), task, strategy))


def origin(inner: str, task: TaskEntry | None, strategy: StrategyEntry) -> str:
    """Where a setting of the merged tree was written: strategy, task or sweep."""

    def holds(tree: Any) -> bool:
        for key in inner.split("."):
            if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
                tree = tree[int(key)]
                continue
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
    # only sections have defaults; all else is of the ready strategy that this one starts from
    return inner if inner.split(".")[0] in SECTIONS else strategy.place


def resolved(sweep: Sweep) -> Tree:
    """The sweep as a file that gives the same sweep from anywhere: names expanded, paths absolute."""

    def section(name: str, plugin: Plugin) -> Tree:
        return {name: plugin.name, **plugin.model_dump(mode="json")}

    def task(entry: TaskEntry) -> Tree:
        own = entry.task.model_dump(mode="json", exclude_defaults=True)
        kind = {"kind": entry.task.kind} if entry.task.name == entry.task.kind else {"use": entry.task.name}
        runs_on = {} if entry.backbones is None else {"backbones": list(entry.backbones)}
        return {"name": entry.name, **kind, **own, **entry.settings, **runs_on}

    def backbone(entry: BackboneEntry) -> Tree:
        own = entry.backbone.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        use = {} if own.get("path") else {"use": entry.backbone.name}
        return {"name": entry.name, **use, **own, **({} if entry.source is None else source(entry.source))}

    def source(entry: SourceEntry) -> Tree:
        return {
            "source": {
                "task": {**task(entry.task), "name": entry.label},
                "seed": entry.seed,
                **entry.strategy.settings,
            }
        }

    defaults = dict(sweep.defaults)
    if "optimizer" not in sweep.document.content:
        defaults.pop("optimizer", None)  # the reader adds it last: the order of axes decides what is drawn
    search = section("algorithm", sweep.search)
    if sweep.scheduler is not None:
        search["scheduler"] = section("name", sweep.scheduler)
    return {
        "name": sweep.name,
        "backbones": [backbone(entry) for entry in sweep.backbones],
        "tasks": [task(entry) for entry in sweep.tasks],
        **defaults,
        "strategies": {
            entry.name: {**({"use": entry.use} if entry.use else {}), **entry.settings}
            for entry in sweep.strategies
        },
        **({"baseline": sweep.baseline} if sweep.baseline is not None else {}),
        "search": search,
        **({"racing": sweep.racing.model_dump()} if sweep.racing is not None else {}),
        "seeds": sweep.seeds.model_dump(),
        "resources": sweep.resources.model_dump(),
    }
