from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import ClassVar

from harness.axes import every
from harness.search.base import Asker, Listed, Search, SearchSpace, Values, key

MAX_SIZE = 100_000


class Grid(Search):
    """Every combination, the published default (or what is nearest to it) first, then in file order.

    With `trials: n` a cell keeps its default and a random n − 1 of the rest, so that cells with grids of
    different sizes get the same budget.
    """

    name: ClassVar[str] = "grid"

    def reason_against(self, space: SearchSpace) -> str:
        if space.size is None:
            return "a grid cannot list a continuous range; use {grid: […]}, or search: random or optuna"
        if space.size > MAX_SIZE:
            return f"the grid has {space.size} configurations, more than {MAX_SIZE}; random search takes some"
        return ""

    def configurations(self, space: SearchSpace, cell: str) -> list[Values]:
        rest = [values for values in every(space.axes) if key(values) != key(space.default)]
        keep = self.budget(space) - 1
        if keep < len(rest):
            kept = set(random.Random(f"{self.seed}:{cell}").sample(range(len(rest)), keep))
            rest = [values for index, values in enumerate(rest) if index in kept]
        return [space.default, *rest]

    def open(
        self,
        space: SearchSpace,
        cell: str,
        higher_is_better: bool,
        folder: FilePath,
        known: Sequence[Values] = (),
    ) -> Asker:
        return Listed(self.configurations(space, cell))
