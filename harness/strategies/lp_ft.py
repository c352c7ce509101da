from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from harness.moments import Strategy
from harness.stage import Stage
from harness.strategies.bands import head_alone
from harness.strategies.base import DIVIDES, WHEN, Part, Preset


class LpFt(Part):
    """Linear probing, then fine-tuning: the head alone for the first `probe` epochs, then everything.

    Both stages have the optimiser, its rates and a schedule of their own, and together `training.epochs`
    epochs, so that budgets stay equal. The paper runs a full probe first; its point is that the head fits the
    pretrained features before these move.
    """

    name: ClassVar[str] = "lp-ft"
    source: ClassVar[str] = "Kumar, Raghunathan, Jones, Ma & Liang 2022, arXiv 2202.10054"
    claims: ClassVar[frozenset[str]] = frozenset({WHEN})
    turn: ClassVar[int] = DIVIDES
    presets: ClassVar[Mapping[str, Preset]] = {"lp-ft": Preset({"lp-ft": {"probe": 1}}, source)}

    probe: int = Field(default=1, ge=1, le=100_000)

    @classmethod
    def settings(cls, value: Any) -> Any:
        return {"probe": value} if isinstance(value, int) else value

    def conflict(self, recipe: Strategy) -> str:
        if recipe.training.epochs <= self.probe:
            return f"of {recipe.training.epochs} epochs {self.probe} of probing leave none to fine-tune"
        return ""

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        (whole,) = stages
        return head_alone(whole, rungs, self.probe), replace(whole, epochs=whole.epochs - self.probe)
