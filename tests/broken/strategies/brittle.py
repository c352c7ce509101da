"""A part of a strategy that breaks where it is told to."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.strategies.base import Part, Stage


class Brittle(Part):
    """Raises in the hook that it is given: `reason_against`, `canonical` or `stages`."""

    name: ClassVar[str] = "brittle-part"

    hook: str

    @classmethod
    def settings(cls, value: Any) -> Any:
        return {"hook": value}

    def value(self) -> Any:
        return self.hook

    def fail(self, hook: str) -> None:
        if self.hook == hook:
            raise LookupError(f"broken in {hook}")

    def reason_against(self, rungs: int) -> str:
        self.fail("reason_against")
        return ""

    def canonical(self, rungs: int) -> Any:
        self.fail("canonical")
        return self

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        self.fail("stages")
        return stages
