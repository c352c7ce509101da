from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from harness.moments import Batch, Forward, Moments, Setting, copied
from harness.stage import Stage
from harness.strategies import losses as of_models
from harness.strategies.base import INPUTS, Part, Preset
from harness.strategies.features import entering
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class R3F(Part):
    """R3F: what the model says must not change when noise is added to its input,
    `L + λ·(KL(p‖q) + KL(q‖p))` with p from x and q from x + z, averaged over what the loss counts.

    z is drawn per element from U(−σ, σ) or N(0, σ²). It is added to what enters the first block that is not
    frozen (the head, where only that trains), where the paper takes the embeddings of words; no gradient
    passes through that sum, as in the authors' code. λ (`strength`) is 0.1 to 5 and σ (`epsilon`) 1e-5 in the
    paper; under bf16 and fp16 much of such noise is lost to rounding. Where numbers are predicted, the
    squared difference stands for the divergences.
    """

    name: ClassVar[str] = "r3f"
    source: ClassVar[str] = "Aghajanyan et al. 2021, arXiv 2008.03156"
    claims: ClassVar[frozenset[str]] = frozenset({INPUTS})
    presets: ClassVar[Mapping[str, Preset]] = {"r3f": Preset({"r3f": {"strength": 1.0}}, source)}

    strength: float = Field(default=1.0, ge=0, le=1e6)
    epsilon: float = Field(default=1e-5, gt=0, le=1e3)
    noise: Literal["uniform", "normal"] = "uniform"

    def canonical(self, rungs: int) -> Self | None:
        return self if self.strength > 0 else None

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        return of_models.unless(losses, of_models.CLASSES, of_models.NUMBERS)

    def extra(self) -> float:
        return 1.0

    def bind(self, setting: Setting) -> Moments:
        return _Noised(self, setting)


class _Noised(Moments):
    def __init__(self, part: R3F, setting: Setting) -> None:
        self._part, self._setting = part, setting

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._frozen = stage.frozen

    def forward(self, inner: Forward, batch: Batch) -> Any:
        tuned = self._setting.tuned
        with of_models.said() as clean:
            outputs = inner(copied(batch))
        with of_models.said() as noised, entering(tuned.ladder, self._frozen, self._noise):
            tuned(batch)
        apart = of_models.divergence(clean[0], noised[0])
        return of_models.with_loss(outputs, outputs.loss + self._part.strength * apart)

    def _noise(self, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        import torch

        uniform = self._part.noise == "uniform"
        noise = torch.rand_like(hidden) * 2 - 1 if uniform else torch.randn_like(hidden)
        return hidden.detach() + self._part.epsilon * noise
