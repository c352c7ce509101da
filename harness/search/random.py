from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import ClassVar

from harness.axes import configuration
from harness.search.base import Asker, Listed, Search, SearchSpace, Values, key


class Random(Search):
    """The published default first, then independent draws; a configuration is never drawn twice."""

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "Bergstra & Bengio 2012, JMLR 13"

    def reason_against(self, space: SearchSpace) -> str:
        return "" if self.trials or not space.axes else "random search needs `trials`, its budget per cell"

    def configurations(self, space: SearchSpace, cell: str) -> list[Values]:
        rng = random.Random(f"{self.seed}:{cell}")
        found = {key(space.default): space.default}
        while len(found) < self.budget(space):
            drawn = configuration(space.axes, lambda _, axis: axis.sample(rng))
            found.setdefault(key(drawn), drawn)
        return list(found.values())

    def open(
        self,
        space: SearchSpace,
        cell: str,
        higher_is_better: bool,
        folder: FilePath,
        known: Sequence[Values] = (),
    ) -> Asker:
        return Listed(self.configurations(space, cell))
