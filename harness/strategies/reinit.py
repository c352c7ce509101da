from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Strategy, Tuned
from harness.stage import Stage
from harness.strategies.base import WHICH, Preset, Valued


class Reinit(Valued):
    """Draw the top `blocks` blocks anew, as the family initialises them, and what follows the last block (a
    pooler, a final norm).

    What is drawn anew has no θ⁰: no regulariser pulls it back. Its drift is measured from the pretrained
    values. The paper takes 5 of BERT-large's 24 blocks and tunes 1 to 6; 1 is safe on small models.
    """

    name: ClassVar[str] = "reinit"
    source: ClassVar[str] = "Zhang, Wu, Katiyar, Weinberger & Artzi 2021, arXiv 2006.05987, §5"
    presets: ClassVar[Mapping[str, Preset]] = {"reinit": Preset({"reinit": 1}, source)}

    blocks: int = Field(default=1, ge=0, le=100_000)

    def reason_against(self, rungs: int) -> str:
        if self.blocks > rungs - 1:
            return f"draws {self.blocks} blocks anew, and the model has {rungs - 1}"
        return ""

    def conflict(self, recipe: Strategy) -> str:
        for part in recipe.parts:
            if part.adds or WHICH in part.claims:
                return f"beside '{part.name}' most of what is drawn anew would stay at random"
        return ""

    def reason_within(self, recipe: Strategy, rungs: int) -> str:
        stages = recipe.stages(rungs)
        anew = range(rungs - self.blocks, rungs)
        resting = [rung for rung in anew if not any(stage.trains(rung) for stage in stages)]
        never = "blocks anew that never train and would stay at random"
        return f"draws {len(resting)} {never}" if resting else ""

    def canonical(self, rungs: int) -> Self | None:
        return self if self.blocks else None

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        first = rungs - self.blocks
        return tuple(
            replace(stage, changed=first if stage.changed is None else min(stage.changed, first))
            for stage in stages
        )

    def prepare(self, tuned: Tuned, frozen: int) -> None:
        for rung in tuned.ladder.rungs[len(tuned.ladder.rungs) - self.blocks :]:
            rung.redraw(tuned.model)
            tuned.anew.update(name for name, _ in rung.parameters)
