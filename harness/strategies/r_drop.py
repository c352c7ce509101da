from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Batch, Forward, Moments, Setting, copied
from harness.strategies import losses as of_models
from harness.strategies.base import Preset, Valued


class RDrop(Valued):
    """R-Drop: every batch passes twice, with different dropout, and the two must agree:
    `½(L₁ + L₂) + α·½(KL(p₁‖p₂) + KL(p₂‖p₁))`, both averaged over what the loss counts (examples, words).

    The paper adds L₁ and L₂ up; with their mean, as in the authors' code, learning rates mean what they mean
    without it. α (`strength`) is 0.1, 0.5 or 1 for GLUE, 0.6 for ViT. Where numbers are predicted, the
    squared difference stands for the divergences.
    """

    name: ClassVar[str] = "r-drop"
    source: ClassVar[str] = "Liang et al. 2021, arXiv 2106.14448"
    by_example: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"r-drop": Preset({"r-drop": 1.0}, source)}

    strength: float = Field(default=1.0, ge=0, le=1e6)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.strength > 0 else None

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        return of_models.unless(losses, of_models.CLASSES, of_models.NUMBERS)

    def extra(self) -> float:
        return 1.0

    def bind(self, setting: Setting) -> Moments:
        return _Twice(self.strength)


class _Twice(Moments):
    def __init__(self, strength: float) -> None:
        self._strength = strength

    def forward(self, inner: Forward, batch: Batch) -> Any:
        with of_models.said() as first:
            outputs = inner(copied(batch))
        with of_models.said() as second:
            again = inner(batch)
        apart = of_models.divergence(first[0], second[0]) / 2
        return of_models.with_loss(outputs, (outputs.loss + again.loss) / 2 + self._strength * apart)
