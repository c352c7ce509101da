from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Batch, Forward, Moments, Setting, Strategy
from harness.stage import Stage
from harness.strategies import losses as of_models
from harness.strategies.base import INPUTS, Preset, Valued
from harness.strategies.features import entering
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Mixup(Valued):
    """mixup: each example is mixed with another one of its batch, `λ·x_i + (1 − λ)·x_j` with λ ~ Beta(α, α)
    drawn per batch, and learns `λ·L(y_i) + (1 − λ)·L(y_j)`.

    What is mixed is what enters the first block that is not frozen (the head, where only that trains), as in
    text, whose words cannot be mixed; the sources mix pixels, embeddings or what enters the head. Of padded
    sequences positions beyond an example's own length count as zeros, and attention masks are joined. A model
    that reads its answer off an example's own last positions (GPT-2) sees no more of a longer partner.

    α is 0.1 to 0.4 for ImageNet in the paper, which finds larger values to underfit.
    """

    name: ClassVar[str] = "mixup"
    source: ClassVar[str] = (
        "Zhang, Cissé, Dauphin & Lopez-Paz 2018, arXiv 1710.09412; text: Guo, Mao & Zhang 2019, arXiv "
        "1905.08941; Sun et al. 2020, arXiv 2010.02394; inner layers: Verma et al. 2019, arXiv 1806.05236"
    )
    claims: ClassVar[frozenset[str]] = frozenset({INPUTS})
    presets: ClassVar[Mapping[str, Preset]] = {"mixup": Preset({"mixup": 0.2}, source)}

    alpha: float = Field(default=0.2, ge=0, le=100)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.alpha > 0 else None

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        return of_models.unless(losses, of_models.CLASSES, of_models.NUMBERS, of_models.MARKS)

    def conflict(self, recipe: Strategy) -> str:
        others = [part.name for part in recipe.parts if part.by_example]
        return f"mixes examples, and '{others[0]}' looks at each one by itself" if others else ""

    def bind(self, setting: Setting) -> Moments:
        return _Mixing(self.alpha, setting)


class _Mixing(Moments):
    def __init__(self, alpha: float, setting: Setting) -> None:
        self._alpha, self._setting = alpha, setting

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._frozen = stage.frozen

    def forward(self, inner: Forward, batch: Batch) -> Any:
        import torch

        examples = len(batch["labels"])
        share = float(torch.distributions.Beta(self._alpha, self._alpha).sample())
        partner = torch.randperm(examples).to(self._setting.device)

        def mix(hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
            own = hidden if valid is None else hidden * valid[..., None]
            return share * own + (1 - share) * own[partner]

        def join(mask: torch.Tensor) -> torch.Tensor:
            return torch.maximum(mask, mask[partner])

        def loss(function: Any, input: torch.Tensor, target: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            others = target.reshape(examples, -1)[partner].reshape(target.shape)  # words stand in one row
            ours, theirs = (function(input, y, *args, **kwargs) for y in (target, others))
            return share * ours + (1 - share) * theirs

        names = (of_models.CLASSES, of_models.NUMBERS, of_models.MARKS)
        with entering(self._setting.tuned.ladder, self._frozen, mix, join), of_models.instead(names, loss):
            return inner(batch)
