"""Spaces: the values a hyper-parameter may take, and how they sit in a tree of settings.

In a sweep file a space stands where a value would stand: `learning_rate: {grid: [2e-5, 5e-5]}`. An option of
a list that is a mapping may hold spaces of its own, which are there only where that option is chosen.
`each` is not a space: it makes separate strategies (or tasks) to compare.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeGuard

from harness.errors import InputError, Mistakes, bad

Path: TypeAlias = tuple[str, ...]
Tree: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """One axis.

    Attributes:
        how: grid, choice, uniform, loguniform or int.
        values: the values of a grid or a choice; the two (inclusive) bounds of a range. Where an option
            holds spaces, every option that is a mapping goes by a label: so it is chosen, recorded and shown.
        labelled: those options by their labels, spaces included.
        at: where it stands in the tree, once what it hangs on is filled in.
        when: the axis that it hangs on, and the label that must be chosen there; None if it is always there.
    """

    how: str
    values: tuple[Any, ...]
    labelled: Mapping[str, Tree] = field(default_factory=dict)
    at: Path = ()
    when: tuple[Path, str] | None = None

    @property
    def size(self) -> int | None:
        """Number of values; None for a continuous range."""
        if self.how in ("uniform", "loguniform"):
            return None
        return self.values[1] - self.values[0] + 1 if self.how == "int" else len(self.values)

    def options(self) -> list[Any]:
        """Every value of a finite space, in the order of the file."""
        if self.how == "int":
            return list(range(self.values[0], self.values[1] + 1))
        return list(self.values)

    def active(self, values: Mapping[Path, Any]) -> bool:
        """Whether it is there where the axes before it have these values."""
        return self.when is None or bool(values.get(self.when[0]) == self.when[1])

    def meaning(self, value: Any) -> Any:
        """What a value stands for in the tree: the option that a label names, else the value itself."""
        return self.labelled.get(value, value) if isinstance(value, str) else value

    def index(self, value: Any) -> int:
        """Which of a list's values it is: 1 and 1.0 are two."""
        return next(i for i, v in enumerate(self.values) if type(v) is type(value) and v == value)

    def sample(self, rng: random.Random) -> Any:
        if self.how in LISTS:
            return rng.choice(self.values)
        low, high = self.values
        if self.how == "int":
            return rng.randint(low, high)
        if self.how == "uniform":
            return rng.uniform(low, high)
        drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
        return min(max(drawn, low), high)  # exp(log(x)) may miss x by a rounding

    def nearest(self, default: Any) -> Any:
        """The member of the space that is nearest to the published default (on a log scale where
        all are positive); the first one where nearness has no meaning."""
        if self.how in ("uniform", "loguniform", "int"):
            low, high = self.values
            inside = min(max(default, low), high) if _is_number(default) else low
            return round(inside) if self.how == "int" else float(inside)
        near = [(value, self._nearest_below(value, default)) for value in self.values]
        # 1 and 1.0 are equal, but as freeze depths one rung and the whole ladder
        same = [(value, found) for value, found in near if found == default]
        if same:
            return next((value for value, found in same if type(found) is type(default)), same[0][0])
        numbers = [(value, found) for value, found in near if _is_number(found)]
        if not numbers or not _is_number(default):
            return self.values[0]
        log = default > 0 and all(found > 0 for _, found in numbers)
        scale = math.log if log else float
        return min(numbers, key=lambda pair: abs(scale(pair[1]) - scale(default)))[0]

    def _nearest_below(self, value: Any, default: Any) -> Any:
        """The value, or of an option that is itself a space its nearest one."""
        inner = parse(self.meaning(value), "")
        return value if inner is None else inner.nearest(default)

    def probes(self) -> list[Any]:
        """The values to validate: all of a list, the ends of a range."""
        return list(self.values)

    def as_dict(self) -> dict[str, list[Any]]:
        """As a sweep file writes it."""
        return {self.how: [self.meaning(value) for value in self.values]}


OMIT = object()
MAX_EACH = 10_000  # a few short lists multiply to more strategies than any machine can hold
LISTS = ("grid", "choice")
HOWS = (*LISTS, "uniform", "loguniform", "int")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def parse(node: Any, place: str) -> Space | None:
    """The space that `node` writes, or None if it is an ordinary value.

    Raises: InputError if it is a space with an empty list, repeated values, senseless bounds, or options that
        are malformed spaces themselves. Spaces further inside are not looked at.
    """
    if not _is_only(node, HOWS):
        return None
    how, values = next(iter(node.items()))
    if not isinstance(values, list):
        raise bad(f"{place}.{how}", f"takes a list, not {values!r}")
    if how in LISTS:
        return _listed(how, distinct(values, f"{place}.{how}"), f"{place}.{how}")
    mistakes = Mistakes()
    if len(values) != 2 or not all(map(_is_finite, values)):
        raise bad(f"{place}.{how}", f"takes two finite numbers [low, high], not {values!r}")
    low, high = values
    if low >= high:
        mistakes.add(f"{place}.{how}", f"the low end {low} is not below the high end {high}")
    if how == "loguniform" and low <= 0:
        mistakes.add(f"{place}.{how}", f"a logarithmic range starts above 0, not at {low}")
    if how == "int" and not all(isinstance(v, int) for v in values):
        mistakes.add(f"{place}.{how}", f"takes two whole numbers, not {values!r}")
    mistakes.raise_any()
    return Space(how, (low + 0, high + 0))  # -0.0 is 0.0: one configuration must not have two ids


def _listed(how: str, options: Sequence[Any], place: str) -> Space:
    mistakes = Mistakes()
    for index, option in enumerate(options):
        with mistakes.collecting():
            parse(option, f"{place}.{index}")
        if any(_is_only(node, ("each",)) for _, node in walk(option)):
            mistakes.add(
                f"{place}.{index}", "`each` makes strategies of its own, and cannot stand in a space"
            )
    mistakes.raise_any()
    if not any(map(holds_spaces, options)):
        return Space(how, tuple(options))
    labelled = _labelled(options)
    labels = iter(labelled)
    return Space(how, tuple(next(labels) if isinstance(o, Mapping) else o for o in options), labelled)


def _labelled(options: Sequence[Any]) -> dict[str, Tree]:
    """The options that are mappings, each by a label that no other option has: `l2-sp`, the plug-in, where
    that is enough to tell it apart."""
    names = [_name(option) if isinstance(option, Mapping) else option for option in options]
    taken = Counter(name for name in names if isinstance(name, str))
    found: dict[str, Tree] = {}
    for option, name in zip(options, names, strict=True):
        if isinstance(option, Mapping):
            label = name if name and taken[name] == 1 else _described(option)
            while label != name and label in taken:
                label += "'"
            taken[label] += 1
            found[label] = dict(option)
    return found


def _name(option: Mapping[str, Any]) -> str:
    return option["name"] if isinstance(option.get("name"), str) else ""


def _described(option: Mapping[str, Any]) -> str:
    """`l2-sp(mode=loss,strength)`: what it fixes and what it leaves to be tuned."""
    name = _name(option)
    settings = ",".join(
        key if key in HOWS or holds_spaces(value) else f"{key}={shown(value)}"
        for key, value in option.items()
        if not name or key != "name"
    )
    return f"{name}({settings})" if name or not settings else settings


def shown(value: Any) -> str:
    """A value as a part of a name: `(name=l2,strength=0.1)`."""
    if isinstance(value, Mapping):
        return f"({','.join(f'{key}={shown(child)}' for key, child in value.items())})"
    return f"({','.join(map(shown, value))})" if isinstance(value, list) else str(value)


def _is_only(node: Any, keys: Sequence[str]) -> TypeGuard[Mapping[str, Any]]:
    """A mapping of a single entry, with one of these keys."""
    return isinstance(node, Mapping) and len(node) == 1 and next(iter(node)) in keys


def is_space(node: Any) -> bool:
    return _is_only(node, HOWS)


def holds_spaces(node: Any) -> bool:
    """Whether it is a space or has one somewhere inside."""
    return any(is_space(inner) for _, inner in walk(node))


def distinct(values: Any, place: str) -> tuple[Any, ...]:
    """`values` as a tuple.

    Raises: InputError if it is no list, is empty or repeats a value.
    """
    if not isinstance(values, list):
        raise bad(place, f"takes a list, not {values!r}")
    if not values:
        raise bad(place, "is empty", "give at least one value")
    seen: list[Any] = []
    for value in values:
        if any(type(value) is type(other) and value == other for other in seen):
            raise bad(place, f"lists {value!r} twice")
        seen.append(value)
    return tuple(values)


def walk(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every node of nested mappings, parents first, as (path, node)."""
    yield path, tree
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from walk(value, (*path, str(key)))


def malformed(tree: Any, place: str = "") -> dict[Path, InputError]:
    """What is wrong with every malformed space, by its path in the tree, options included: `fill` goes there,
    too."""
    found: dict[Path, InputError] = {}
    for path, node in walk(tree):
        here = ".".join((place, *path) if place else path)
        try:
            parse(node, here)
        except InputError as error:
            found[path] = error
        for way, option in _options(node):
            inner = malformed(option, ".".join((here, *way)))
            found |= {(*path, *way, *rest): error for rest, error in inner.items()}
    return found


def _options(node: Any) -> Iterator[tuple[Path, Any]]:
    """The options of a list of them, each with the path to it."""
    if _is_only(node, LISTS):
        how, options = next(iter(node.items()))
        for index, option in enumerate(options if isinstance(options, list) else ()):
            yield (how, str(index)), option


def spaces(tree: Any, place: str = "") -> dict[Path, Space]:
    """Every axis in the tree by a path of its own, each after the one that it hangs on.

    `regularizer.strength` is the strength that one option of `regularizer` has; where several options have
    one, they are told apart as `regularizer[l2].strength` and `regularizer[l2-sp].strength`.

    Raises: InputError with every malformed space.
    """
    if errors := malformed(tree, place):
        raise InputError(mistake for error in errors.values() for mistake in error.mistakes)
    found: dict[Path, Space] = {}
    for path, node in walk(tree):
        if (axis := parse(node, "")) is not None:
            own = path or (axis.how,)  # an option that is a space itself
            found[own] = replace(axis, at=path)
            found.update(_inner(own, found[own]))
    return found


def _inner(own: Path, axis: Space) -> Iterator[tuple[Path, Space]]:
    """The axes inside an axis's options."""
    inner = {label: spaces(option) for label, option in axis.labelled.items()}
    often = Counter(path for axes in inner.values() for path in axes)
    for label, axes in inner.items():
        apart = (*own[:-1], f"{own[-1]}[{label}]")
        named = {path: (*(own if often[path] == 1 else apart), *path) for path in axes}
        for path, child in axes.items():
            when = (own, label) if child.when is None else (named[child.when[0]], child.when[1])
            yield named[path], replace(child, at=(*axis.at, *child.at), when=when)


def fill(tree: Tree, values: Mapping[Path, Any]) -> Tree:
    """A copy of the tree with the nodes at the given paths replaced; `OMIT` leaves a setting out."""

    def copy(node: Any, path: Path) -> Any:
        if path in values:
            return values[path]
        if options := list(_options(node)):
            return {next(iter(node)): [copy(option, (*path, *way)) for way, option in options]}
        if isinstance(node, Mapping):
            children = {key: copy(child, (*path, str(key))) for key, child in node.items()}
            return {key: child for key, child in children.items() if child is not OMIT}
        return node

    filled: Tree = copy(tree, ())
    return filled


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Deep merge, later trees winning.

    A section that names another plug-in (`name: sgd` over `name: adamw`) replaces the earlier one
    whole: settings meant for one optimiser must not leak into another. A space is one value.
    """
    merged: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            before = merged.get(key)
            if is_section(before) and is_section(value) and not _renames(before, value):
                merged[key] = merge(before, value)
            else:
                merged[key] = value
    return merged


def is_section(node: Any) -> TypeGuard[Mapping[str, Any]]:
    """Settings, rather than a value or a space, which stands for one."""
    return isinstance(node, Mapping) and not _is_only(node, (*HOWS, "each"))


def _renames(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return "name" in after and after["name"] != before.get("name")


def each(tree: Tree, place: str) -> list[tuple[dict[Path, Any], Tree]]:
    """Expand `each:` nodes: one (chosen values, tree) per combination; one entry if there is none.

    Raises: InputError for an empty or repeating list, and for more combinations than anyone can mean.
    """
    mistakes = Mistakes()
    axes: dict[Path, tuple[Any, ...]] = {}
    for path, node in walk(tree):
        if _is_only(node, ("each",)):
            with mistakes.collecting():
                axes[path] = distinct(node["each"], ".".join((place, *path, "each")))
    mistakes.raise_any()
    if (count := math.prod(map(len, axes.values()))) > MAX_EACH:
        raise bad(place, f"`each` makes {count} combinations, and {MAX_EACH} is the most")
    return [
        (chosen, fill(tree, chosen))
        for values in itertools.product(*axes.values())
        for chosen in [dict(zip(axes, values, strict=True))]
    ]
