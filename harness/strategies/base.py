"""What a part of a strategy is: which weights train, and when."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import Self

from harness.registry import Plugin


@dataclass(frozen=True)
class Stage:
    """A stretch of training during which the same weights train.

    Attributes:
        epochs: its length.
        frozen: rungs of the ladder, counted from the input, that stay as they are.
    """

    epochs: int
    frozen: int = 0


def untouched(frozen: Sequence[int]) -> list[int]:
    """For each stage, given how many rungs each freezes, the rungs that neither it nor one before it trains:
    they are as they were before training."""
    return list(itertools.accumulate(frozen, min))


@dataclass(frozen=True)
class Preset:
    """A ready strategy with published defaults, usable by name in a sweep file."""

    definition: Mapping[str, Any]
    source: str


class Part(Plugin):
    """One piece of a strategy. It owns the key `name` of the strategies in a sweep file.

    Parts apply in alphabetical order of their names; each one refines the stages that it is handed.
    """

    presets: ClassVar[Mapping[str, Preset]] = {}

    @classmethod
    def settings(cls, value: Any) -> Any:
        """Turn the short form that a sweep file may use into the part's fields."""
        return value

    def value(self) -> Any:
        """The inverse of `settings`: what a sweep file would say."""
        return self.model_dump()

    def reason_against(self, rungs: int) -> str:
        """Why this part cannot be used on a ladder of `rungs` rungs; empty if it can."""
        return ""

    def canonical(self, rungs: int) -> Self | None:
        """The simplest equal part on this ladder, None where it does nothing."""
        return self

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        """The stages, refined."""
        return stages
