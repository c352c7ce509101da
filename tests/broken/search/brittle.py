"""A search that breaks where it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from harness.search.base import Asker, Outcome, Search, SearchSpace, Values


class Brittle(Search):
    """Asks for the default again and again, and raises in `hook`: `open`, `budget`, `ask` or `tell`."""

    name: ClassVar[str] = "brittle-search"

    hook: str

    def budget(self, space: SearchSpace) -> int:
        self.fail("budget")
        return 2

    def open(
        self, space: SearchSpace, cell: str, higher_is_better: bool, folder: Path, known: Any = ()
    ) -> Asker:
        self.fail("open")
        return _Asker(self, space)

    def fail(self, hook: str) -> None:
        if self.hook == hook:
            raise LookupError(f"broken in {hook}")


class _Asker:
    def __init__(self, search: Brittle, space: SearchSpace) -> None:
        self.search, self.space, self.asked = search, space, 0

    def ask(self) -> Values | None:
        self.asked += 1
        if self.asked == 2:
            self.search.fail("ask")
        return self.space.default if self.asked <= 2 else None

    def tell(self, values: Values, outcome: Outcome) -> None:
        self.search.fail("tell")
