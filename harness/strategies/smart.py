from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from harness.moments import Batch, Forward, Moments, Setting, copied
from harness.stage import Stage
from harness.strategies import losses as of_models
from harness.strategies.averages import swapped
from harness.strategies.base import INPUTS, Part, Preset
from harness.strategies.features import Change, entering, resting
from harness.weights import Weight

if TYPE_CHECKING:
    import torch

# No gradient is divided by less.
_TINY = 1e-12
# The share of training in which the teacher follows at the first of its two rates.
_EARLY = 0.1


class Smart(Part):
    """SMART: `L + λ·max ℓ(f(x + δ), f(x)) + μ·ℓ(f(x), f̃(x))` with ‖δ‖ ≤ ε, ℓ the symmetric divergence
    `KL(p‖q) + KL(q‖p)` (for numbers the squared difference), averaged over what the loss counts.

    The largest δ is sought from N(0, σ²) in `steps` steps, `δ ← Π(δ + η·g/‖g‖)` with the gradient g of ℓ;
    norm and projection Π are taken at each position, `inf` or `l2`. f̃ has the average of the weights so far,
    `w̃ ← β·w̃ + (1 − β)·w` (a Bregman proximal point method with momentum), and runs without dropout; μ
    (`proximal`) of 0 leaves it out. Defaults are the paper's: ε = σ = 1e-5, η (`step`) = 1e-3, one step,
    μ = 1, λ (`strength`) of 1, 3 or 5, β = 0.99 in the first tenth of training and 0.999 after.

    δ is added to what enters the first block that is not frozen (the head, where only that trains), where the
    paper takes the embeddings of words. g is divided by its norm as in the authors' code, and projected as in
    the paper. Under bf16 and fp16 much of δ is lost to rounding.
    """

    name: ClassVar[str] = "smart"
    source: ClassVar[str] = "Jiang et al. 2020, arXiv 1911.03437"
    claims: ClassVar[frozenset[str]] = frozenset({INPUTS})
    presets: ClassVar[Mapping[str, Preset]] = {
        "smart": Preset({"smart": {"strength": 1.0, "proximal": 1.0}}, source),
        "smart-adversarial": Preset({"smart": {"strength": 1.0, "proximal": 0.0}}, source),
    }

    strength: float = Field(default=1.0, ge=0, le=1e6)
    epsilon: float = Field(default=1e-5, gt=0, le=1e3)
    sigma: float = Field(default=1e-5, ge=0, le=1e3)
    step: float = Field(default=1e-3, gt=0, le=1e3)
    steps: int = Field(default=1, ge=1, le=100)
    norm: Literal["inf", "l2"] = "inf"
    proximal: float = Field(default=1.0, ge=0, le=1e6)
    beta_early: float = Field(default=0.99, ge=0, lt=1)
    beta: float = Field(default=0.999, ge=0, lt=1)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.strength > 0 or self.proximal > 0 else None

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        return of_models.unless(losses, of_models.CLASSES, of_models.NUMBERS)

    def extra(self) -> float:
        adversarial = 2 / 3 * self.steps + 1 if self.strength > 0 else 0.0
        return adversarial + (1 / 3 if self.proximal > 0 else 0.0)

    def bind(self, setting: Setting) -> Moments:
        return _Smooth(self, setting)


class _Smooth(Moments):
    def __init__(self, part: Smart, setting: Setting) -> None:
        self._part, self._setting, self._steps = part, setting, 0
        self._average: dict[str, torch.Tensor] = {}
        self._weights: Sequence[Weight] = ()

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._frozen, self._weights = stage.frozen, weights
        for weight in weights if self._part.proximal > 0 else ():
            before = self._average.get(weight.name, weight.value.detach())
            self._average[weight.name] = before.to(weight.value.device, copy=True)

    def forward(self, inner: Forward, batch: Batch) -> Any:
        part = self._part
        teacher = self._teacher(copied(batch)) if part.proximal > 0 else None
        with of_models.said() as clean:
            outputs = inner(copied(batch))
        loss = outputs.loss
        if part.strength > 0:
            loss = loss + part.strength * self._adversarial(batch, clean[0])
        if teacher is not None:
            loss = loss + part.proximal * of_models.divergence(clean[0], teacher)
        return of_models.with_loss(outputs, loss)

    def stepped(self) -> None:
        import torch

        self._steps += 1
        early = self._steps <= _EARLY * self._setting.steps
        with torch.no_grad():
            for weight in self._weights if self._average else ():
                rate = 1 - (self._part.beta_early if early else self._part.beta)
                self._average[weight.name].lerp_(weight.value, rate)

    def state(self) -> Mapping[str, Any]:
        return {"steps": self._steps, "average": self._average}

    def load(self, state: Mapping[str, Any]) -> None:
        self._steps, self._average = state["steps"], state["average"]

    def _teacher(self, batch: Batch) -> of_models.Said:
        """What the averaged weights say; before any other pass, whose graph holds on to the weights."""
        import torch

        tuned = self._setting.tuned
        values: dict[torch.Tensor, torch.Tensor] = {w.value: self._average[w.name] for w in self._weights}
        with torch.no_grad(), swapped(values), resting(tuned.model), of_models.said() as found:
            tuned(batch)
        return found[0]

    def _adversarial(self, batch: Batch, clean: of_models.Said) -> torch.Tensor:
        """How far the worst neighbour's outputs are from the clean ones."""
        import torch

        fixed, part = of_models.Said(clean.values.detach(), clean.counted), self._part
        deltas: list[torch.Tensor] = []
        for count in range(part.steps + 1):
            last = count == part.steps
            shifted = self._shifted(deltas, moving=not last)
            with of_models.said() as found, entering(self._setting.tuned.ladder, self._frozen, shifted):
                self._setting.tuned(batch if last else copied(batch))
            if not last:
                gradients = torch.autograd.grad(of_models.divergence(fixed, found[0]), deltas)
                for delta, gradient in zip(deltas, gradients, strict=True):
                    step = part.step * gradient / self._size(gradient)
                    delta.data = self._projected(delta.detach() + step)
        return of_models.divergence(clean, found[0])

    def _shifted(self, deltas: list[torch.Tensor], moving: bool) -> Change:
        """Adds a perturbation to each tensor that comes by, drawn where there is none yet."""
        import torch

        count = itertools.count()

        def shift(hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
            index = next(count)
            if index == len(deltas):
                deltas.append(self._part.sigma * torch.randn_like(hidden))
            deltas[index].requires_grad_(moving)
            return hidden.detach() + deltas[index]

        return shift

    def _size(self, vectors: torch.Tensor) -> torch.Tensor:
        """The norm at each position, shape (…, 1)."""
        import torch

        order = float("inf") if self._part.norm == "inf" else 2
        size: torch.Tensor = torch.linalg.vector_norm(vectors, order, dim=-1, keepdim=True)
        return size.clamp(min=_TINY)

    def _projected(self, delta: torch.Tensor) -> torch.Tensor:
        """The nearest vectors of norm ε at most."""
        limit = self._part.epsilon
        if self._part.norm == "inf":
            return delta.clamp(-limit, limit)
        return delta * (limit / self._size(delta)).clamp(max=1)
