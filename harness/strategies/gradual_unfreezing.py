from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from harness.moments import Strategy
from harness.stage import Stage
from harness.strategies.bands import edges, head_alone, top_of
from harness.strategies.base import DIVIDES, WHEN, Preset, Valued

_SOURCE = "Howard & Ruder 2018, arXiv 1801.06146, §3.3"


class GradualUnfreezing(Valued):
    """Train the head first, then one more rung from the top every `epochs` epochs, at last everything that
    the strategy does not freeze for good.

    All stages together have `training.epochs` epochs, so that budgets stay equal, and the last has what is
    left; with fewer epochs than rungs, several rungs thaw at a time. (The paper thaws four groups of an LSTM,
    an epoch each, and then trains until convergence.) Each stage has the optimiser and its schedule anew. The
    ready strategy `ulmfit` adds the paper's discriminative rates (2.6 to a rung), slanted triangles and
    Adam's moments (0.7, 0.99); its rate of 0.01 is that of an LSTM and not taken over.
    """

    name: ClassVar[str] = "gradual-unfreezing"
    source: ClassVar[str] = _SOURCE
    claims: ClassVar[frozenset[str]] = frozenset({WHEN})
    only_rungs: ClassVar[bool] = True
    turn: ClassVar[int] = DIVIDES
    presets: ClassVar[Mapping[str, Preset]] = {
        "gradual-unfreezing": Preset({"gradual-unfreezing": 1}, _SOURCE),
        "ulmfit": Preset(
            {
                "gradual-unfreezing": 1,
                "layer-decay": 1 / 2.6,
                "optimizer": {"name": "adamw", "beta1": 0.7, "beta2": 0.99},
                "training": {"schedule": "linear", "warmup": 0.1, "floor": 1 / 32},
            },
            "Howard & Ruder 2018, arXiv 1801.06146, §3.2, §3.3",
        ),
    }

    epochs: int = Field(default=1, ge=1, le=100_000)

    def conflict(self, recipe: Strategy) -> str:
        if recipe.training.epochs < 2 * self.epochs:
            return f"{recipe.training.epochs} epochs are no two stages of {self.epochs}"
        return ""

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        (whole,) = stages
        top = top_of(whole, rungs)
        thaws = min(top - whole.frozen, whole.epochs // self.epochs - 1)
        if thaws < 1:
            return stages
        _, *middle, _ = [top + whole.frozen - edge for edge in edges(whole.frozen, top, thaws)]
        left = whole.epochs - thaws * self.epochs
        return (
            head_alone(whole, rungs, self.epochs),
            *(replace(whole, epochs=self.epochs, frozen=depth) for depth in middle),
            replace(whole, epochs=left),
        )
