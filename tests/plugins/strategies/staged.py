"""A strategy part whose stages freeze what it is told, one epoch each."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.stage import Stage
from harness.strategies.base import Part


class Staged(Part):
    """Stages of an epoch each that freeze so many rungs."""

    name: ClassVar[str] = "staged"
    source: ClassVar[str] = "for tests"

    depths: tuple[int, ...] = (0,)

    @classmethod
    def settings(cls, value: Any) -> Any:
        return {"depths": value}

    def value(self) -> Any:
        return list(self.depths)

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        return tuple(Stage(1, depth) for depth in self.depths)
