"""Configurations of a tree's axes: which axes one has, how many there are, what one makes of the tree.

An axis that stands inside an option is there only where that option is chosen. Everything here goes through
the axes in their order, in which each comes after the one that it hangs on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, TypeAlias

from harness.space import Path, Space, Tree, fill

Axes: TypeAlias = Mapping[Path, Space]
Values: TypeAlias = dict[Path, Any]
"""A configuration: the value of every axis that is there, as the axis's `values` have it."""


def configuration(axes: Axes, choose: Callable[[Path, Space], Any]) -> Values:
    """The configuration that comes of choosing a value for one axis after the other, as it turns out to be
    there (define-by-run)."""
    values: Values = {}
    for path, axis in axes.items():
        if axis.active(values):
            values[path] = choose(path, axis)
    return values


def every(axes: Axes) -> list[Values]:
    """Every configuration of finite axes, the last axis changing fastest."""
    found: list[Values] = [{}]
    for path, axis in axes.items():
        options = axis.options()
        found = [
            longer
            for values in found
            for longer in ([{**values, path: o} for o in options] if axis.active(values) else [values])
        ]
    return found


def size(axes: Axes) -> int | None:
    """Number of configurations; None if some axis is continuous."""
    hanging: dict[tuple[Path, str] | None, list[tuple[Path, int]]] = {}
    for path, axis in axes.items():
        if (options := axis.size) is None:
            return None
        hanging.setdefault(axis.when, []).append((path, options))

    def below(condition: tuple[Path, str] | None) -> int:
        """Of the axes that hang on it. An option without axes of its own is one configuration."""
        return prod(
            options + sum(below((path, label)) - 1 for label in axes[path].labelled)
            for path, options in hanging.get(condition, ())
        )

    return below(None)


def needed(axes: Axes, path: Path) -> Values:
    """The choices without which an axis is not there."""
    condition = axes[path].when
    return {} if condition is None else {**needed(axes, condition[0]), condition[0]: condition[1]}


def probes(axes: Axes) -> Iterator[Values]:
    """Configurations which between them have every value that there is to validate, one axis at a time."""

    def around(fixed: Values) -> Values:
        return configuration(axes, lambda path, axis: fixed.get(path, axis.probes()[0]))

    yield around({})
    for path, axis in axes.items():
        for probe in axis.probes()[1:]:
            yield around({**needed(axes, path), path: probe})


def settings(tree: Tree, axes: Axes, values: Mapping[Path, Any]) -> Tree:
    """The tree of a configuration: nothing but the axes that it lacks is left of the spaces."""
    for path, axis in axes.items():
        if path in values:
            tree = fill(tree, {axis.at: axis.meaning(values[path])})
    return tree


def written(axes: Axes, values: Mapping[Path, Any], place: Path) -> Path:
    """Where in the tree with spaces a place of a configuration's settings is written: inside the option that
    it came with."""
    for path, axis in reversed(list(axes.items())):  # what is further inside comes later
        rest = place[len(axis.at) :]
        if path in values and place[: len(axis.at)] == axis.at:
            option = axis.meaning(values[path])
            inside = (axis.how, str(axis.index(values[path]))) if rest and isinstance(option, Mapping) else ()
            return (*_written(axes, path), *inside, *rest)
    return place


def _written(axes: Axes, path: Path) -> Path:
    """Where an axis is written."""
    axis = axes[path]
    if axis.when is None:
        return axis.at
    outer, label = axis.when
    way = (axes[outer].how, str(axes[outer].index(label)))
    return (*_written(axes, outer), *way, *axis.at[len(axes[outer].at) :])
