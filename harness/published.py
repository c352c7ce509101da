"""Where the tuning of a strategy begins: the published default on every axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import axes, space
from harness.entries import StrategyEntry
from harness.recipe import PLUGINS, default_of, plugin_of
from harness.search.base import SearchSpace
from harness.space import Path, Space, Tree


def search_space(tree: Tree, strategy: StrategyEntry) -> SearchSpace:
    """The axes of a strategy's settings, with the published default on each: that of the ready strategy it
    starts from, else that of the plug-in.

    Raises: InputError for malformed spaces.
    """
    found = space.spaces(tree, strategy.name)

    def default(path: Path, axis: Space) -> Any:
        around = axes.settings(tree, found, axes.needed(found, path))
        return _published(axis, around, strategy.preset)

    return SearchSpace(found, axes.configuration(found, default))


def _published(axis: Space, tree: Tree, preset: Mapping[str, Any]) -> Any:
    """The published default of an axis, moved into it, where its options have come to this tree."""
    section = axis.at[0]
    ready = plugin_of(section, preset.get(section))
    if axis.labelled and len(axis.at) == 1 and section in PLUGINS:
        options = ((value, axis.meaning(value)) for value in axis.values)
        named = (v for v, o in options if not space.is_space(o) and plugin_of(section, o) == ready)
        return next(named, axis.values[0])
    leaves = {path: node for path, node in space.walk(preset) if not isinstance(node, Mapping)}
    if axis.when is not None and plugin_of(section, tree[section]) != ready:
        leaves = {}  # what a ready strategy says of one plug-in is not said of another
    return axis.nearest(leaves.get(axis.at, default_of(tree, axis.at)))
