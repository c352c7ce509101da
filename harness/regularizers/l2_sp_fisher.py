from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Setting
from harness.regularizers.base import Penalty, Quadratic, Regularizer
from harness.regularizers.fisher import diagonal
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class L2SPFisher(Regularizer):
    """L2 towards the starting point θ⁰ = w⁰, each weight as firmly as it matters to the source task:
    `λ·R(θ) = (α/2)·Σᵢ Fᵢ·(wᵢ − wᵢ⁰)² + (β/2)·‖head‖²`.

    α is `strength`, β is `head_strength`. F is the diagonal of the Fisher information at θ⁰, the mean over
    `samples` examples of `(∂ log p(y|x)/∂w)²`: of the backbone's source task, with its head, where the
    backbone has one (`source:`), else of training examples of the task itself, below a new head. y is drawn
    from the model's own predictions where it predicts classes, which in the mean is the paper's sum over the
    classes; for boxes, masks, transcripts and numbers it is the true one (the empirical Fisher information).

    The paper tunes α as for L2-SP (10⁻³…10², the default is 0.1), with β = 0.01; here β defaults to 0, as the
    head has the optimiser's `weight_decay`. It does not say how many examples it takes. The pass over them is
    made once for all trials of a process that share task, backbone and seed, and is in no trial's cost.
    """

    name: ClassVar[str] = "l2-sp-fisher"
    source: ClassVar[str] = "Li, Grandvalet & Davoine 2018, arXiv 1802.01483, eq. 5"

    strength: float = Field(default=1e-1, ge=0, le=1e9)
    head_strength: float = Field(default=0.0, ge=0, le=1e9)
    samples: int = Field(default=256, ge=1, le=1_000_000)

    def canonical(self, no_start: bool) -> Regularizer | None:
        if no_start or self.strength == 0:
            if self.head_strength == 0:
                return None
            samples = type(self).model_fields["samples"].default
            return self.model_copy(update={"strength": 0.0, "samples": samples})
        return self

    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Penalty:
        head = Quadratic([(w.value, None, self.head_strength) for w in weights if w.reference is None])
        if self.strength == 0:
            return Informed(0.0, (), head)
        if setting is None:
            raise ValueError(f"{self.name} measures what matters in a trial, and has none")
        found = zip(weights, diagonal(weights, setting, self.samples), strict=True)
        terms = [(w.value, w.reference, f) for w, f in found if w.reference is not None and f is not None]
        return Informed(self.strength, terms, head)


@dataclass(frozen=True)
class Informed(Penalty):
    """`(α/2)·Σ Σᵢ fᵢ·(wᵢ − rᵢ)²`, and what the head is pulled by.

    Attributes:
        terms: (weight, reference r, f of its shape) per tensor.
    """

    strength: float
    terms: Sequence[tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]]
    head: Quadratic

    def value(self) -> torch.Tensor:
        total = self.head.value()
        for weight, reference, f in self.terms:
            total = total + (self.strength / 2) * (f * (weight - reference).square()).sum()
        return total

    def backward(self, scale: float = 1.0) -> torch.Tensor:
        import torch

        total = self.head.backward(scale)
        with torch.no_grad():  # in closed form, as in `Quadratic`
            for weight, reference, f in self.terms:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                difference = weight - reference
                pull = f * difference
                weight.grad.add_(pull, alpha=scale * self.strength)
                total = total + (self.strength / 2) * (pull * difference).sum()
        return total

    def shrink(self, rates: Mapping[Any, float]) -> None:
        import torch

        self.head.shrink(rates)
        with torch.no_grad():
            for weight, reference, f in self.terms:
                weight.sub_(f * (weight - reference), alpha=rates[weight] * self.strength)
