from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import field_validator
from typing_extensions import Self

from harness.stage import Stage
from harness.strategies.base import Preset, Valued


class Block(Valued):
    """Surgical fine-tuning: one rung of the ladder trains, and the head.

    `block: k` is the rung, counted as `freeze` counts: rung 0 is the embeddings or the stem, −1 the last
    one. A fraction f in [0, 1] is the rung at that share of the way from the first to the last (rounded
    half up). All other rungs rest in eval mode; gradients pass through those above.

    The paper's blocks are stages of a ResNet, of several residual blocks each, and its head already knows the
    classes, so that it rests while a block below it trains. Here the head is new. The earliest blocks are
    best where the inputs look different (corruptions), those in the middle where features do (other
    subgroups), the last where labels do. The paper tunes the rate over 1e-1 … 1e-5.
    """

    name: ClassVar[str] = "block"
    source: ClassVar[str] = "Lee, Chen, Tajwar, Kumar, Yao, Liang & Finn 2023, arXiv 2210.11466"
    presets: ClassVar[Mapping[str, Preset]] = {
        "surgical-first": Preset({"block": 1}, source),
        "surgical-middle": Preset({"block": 0.5}, source),
        "surgical-last": Preset({"block": -1}, source),
    }

    rung: int | float = 1

    @field_validator("rung", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"takes the number of a rung or a fraction of the ladder, not {value!r}")
        return value

    def reason_against(self, rungs: int) -> str:
        if isinstance(self.rung, float):
            if not 0 <= self.rung <= 1:
                return (
                    f"a fraction of the ladder lies in [0, 1], unlike {self.rung}; a rung is a whole number"
                )
        elif not -rungs <= self.rung < rungs:
            return f"there is no rung {self.rung}: the ladder has {rungs}, 0 to {rungs - 1} or −{rungs} to −1"
        return ""

    def _index(self, rungs: int) -> int:
        if isinstance(self.rung, float):
            return int(self.rung * (rungs - 1) + 0.5)
        return self.rung % rungs

    def canonical(self, rungs: int) -> Self | None:
        return self.model_copy(update={"rung": self._index(rungs)}) if rungs > 1 else None

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        index = self._index(rungs)
        return tuple(replace(stage, frozen=max(stage.frozen, index), upto=index + 1) for stage in stages)
