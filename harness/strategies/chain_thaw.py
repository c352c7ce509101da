from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from harness.moments import Strategy
from harness.stage import Stage
from harness.strategies.bands import edges, head_alone, top_of
from harness.strategies.base import DIVIDES, WHEN, Preset, Valued


class ChainThaw(Valued):
    """Train the head alone, then each rung alone from the input up (the head at rest), then everything.

    A stage has `epochs` epochs, the last what is left of `training.epochs`, so that budgets stay equal; where
    these do not last for a stage per rung, neighbouring rungs train together as one band. Each stage has the
    optimiser and its schedule anew. (The paper trains each stage until validation no longer improves and goes
    back to its best weights; here a stage begins with what the one before has come to.) The authors' code
    trains the head, alone, at 1e-3 and all later stages at a tenth of that; the ready strategy keeps the head
    at ten times the rate of the rungs, in the last stage too.
    """

    name: ClassVar[str] = "chain-thaw"
    source: ClassVar[str] = "Felbo et al. 2017, arXiv 1708.00524, §3.3"
    claims: ClassVar[frozenset[str]] = frozenset({WHEN})
    only_rungs: ClassVar[bool] = True
    turn: ClassVar[int] = DIVIDES
    presets: ClassVar[Mapping[str, Preset]] = {
        "chain-thaw": Preset({"chain-thaw": 1, "optimizer": {"head_multiplier": 10.0}}, source)
    }

    epochs: int = Field(default=1, ge=1, le=100_000)

    def conflict(self, recipe: Strategy) -> str:
        if recipe.training.epochs < 3 * self.epochs:
            return f"{recipe.training.epochs} epochs are no three stages of {self.epochs}"
        return ""

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        (whole,) = stages
        top = top_of(whole, rungs)
        bands = min(top - whole.frozen, whole.epochs // self.epochs - 2)
        if bands < 1:
            return stages
        alone = replace(whole, epochs=self.epochs, head=False)
        left = whole.epochs - (bands + 1) * self.epochs
        return (
            head_alone(whole, rungs, self.epochs),
            *(
                replace(alone, frozen=first, upto=None if end == rungs else end)
                for first, end in itertools.pairwise(edges(whole.frozen, top, bands))
            ),
            replace(whole, epochs=left),
        )
