"""Spaces: the values a hyper-parameter may take, and how they sit in a tree of settings.

In a sweep file a space stands where a value would stand: `learning_rate: {grid: [2e-5, 5e-5]}`.
`each` is not a space: it makes separate strategies (or tasks) to compare.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from harness.errors import InputError, Mistakes, bad

Path: TypeAlias = tuple[str, ...]
Tree: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """One axis.

    Attributes:
        how: grid, choice, uniform, loguniform or int.
        values: the values of a grid or a choice; the two (inclusive) bounds of a range.
    """

    how: str
    values: tuple[Any, ...]

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

    def sample(self, rng: random.Random) -> Any:
        if self.how in ("grid", "choice"):
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
        # 1 and 1.0 are equal, but as freeze depths one rung and the whole ladder
        same = [v for v in self.values if v == default]
        if same:
            return next((v for v in same if type(v) is type(default)), same[0])
        numbers = [v for v in self.values if _is_number(v)]
        if not numbers or not _is_number(default):
            return self.values[0]
        log = default > 0 and all(v > 0 for v in numbers)
        scale = math.log if log else float
        return min(numbers, key=lambda v: abs(scale(v) - scale(default)))

    def probes(self) -> list[Any]:
        """The values to validate: all of a list, the ends of a range."""
        return list(self.values)

    def as_dict(self) -> dict[str, list[Any]]:
        return {self.how: list(self.values)}


OMIT = object()
MAX_EACH = 10_000  # a few short lists multiply to more strategies than any machine can hold
HOWS = ("grid", "choice", "uniform", "loguniform", "int")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def parse(node: Any, place: str) -> Space | None:
    """The space that `node` writes, or None if it is an ordinary value.

    Raises: InputError if it is a space with an empty list, repeated values or senseless bounds.
    """
    if not isinstance(node, Mapping) or len(node) != 1:
        return None
    how, values = next(iter(node.items()))
    if how not in HOWS:
        return None
    if not isinstance(values, list):
        raise bad(f"{place}.{how}", f"takes a list, not {values!r}")
    if how in ("grid", "choice"):
        return Space(how, distinct(values, f"{place}.{how}"))
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
    return Space(how, (low, high))


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


def scan(tree: Tree, place: str = "") -> tuple[dict[Path, Space], dict[Path, InputError]]:
    """Every axis in the tree by its path, and what is wrong with every malformed one."""
    found: dict[Path, Space] = {}
    malformed: dict[Path, InputError] = {}
    for path, node in walk(tree):
        try:
            space = parse(node, ".".join((place, *path) if place else path))
        except InputError as error:
            malformed[path] = error
            continue
        if space is not None:
            found[path] = space
    return found, malformed


def spaces(tree: Tree, place: str = "") -> dict[Path, Space]:
    """Every axis in the tree, by its path.

    Raises: InputError with every malformed space.
    """
    found, malformed = scan(tree, place)
    if malformed:
        raise InputError(mistake for error in malformed.values() for mistake in error.mistakes)
    return found


def fill(tree: Tree, values: Mapping[Path, Any]) -> Tree:
    """A copy of the tree with the nodes at the given paths replaced; `OMIT` leaves one out."""

    def copy(node: Any, path: Path) -> Any:
        if path in values:
            return values[path]
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
    return isinstance(node, Mapping) and not (len(node) == 1 and next(iter(node)) in (*HOWS, "each"))


def _renames(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return "name" in after and after["name"] != before.get("name")


def each(tree: Tree, place: str) -> list[tuple[dict[Path, Any], Tree]]:
    """Expand `each:` nodes: one (chosen values, tree) per combination; one entry if there is none.

    Raises: InputError for an empty or repeating list, and for more combinations than anyone can mean.
    """
    mistakes = Mistakes()
    axes: dict[Path, tuple[Any, ...]] = {}
    for path, node in walk(tree):
        if isinstance(node, Mapping) and len(node) == 1 and "each" in node:
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
