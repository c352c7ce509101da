"""What every regulariser plug-in is, and the quadratic penalty that most of them are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.moments import Setting, Strategy
from harness.registry import Plugin
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Penalty(ABC):
    """λ·R(θ) bound to the weights of one trial."""

    @abstractmethod
    def value(self) -> torch.Tensor:
        """The scalar λ·R(θ), differentiable."""

    def backward(self, scale: float = 1.0) -> torch.Tensor:
        """Add the gradient of scale·λ·R(θ) to the weights' gradients; returns λ·R(θ), detached."""
        value = self.value()
        (scale * value).backward()  # type: ignore[no-untyped-call]
        return value.detach()

    @abstractmethod
    def shrink(self, rates: Mapping[torch.nn.Parameter, float]) -> None:
        """One decoupled step, `w ← w − η·∂(λR)/∂w`, with each weight's own learning rate η."""


class Regularizer(Plugin):
    """Settings shared by all regularisers.

    Attributes:
        strength: λ; 0 means no regulariser at all.
        mode: `loss` adds λ·R(θ) to the loss, so that its gradient passes through clipping and the
            optimiser's moments; `decoupled` applies it in the step, as AdamW does with weight decay.
            Under adaptive optimisers these are two different methods.
    """

    strength: float = Field(ge=0, le=1e9)
    mode: Literal["loss", "decoupled"] = "loss"

    def conflict(self, recipe: Strategy) -> str:
        """Why it cannot be used beside the rest of a recipe; empty if it can."""
        return ""

    def canonical(self, no_start: bool) -> Regularizer | None:
        """The simplest equal regulariser, None where it does nothing.

        `no_start`: no weight that trains at any stage of the trial was pretrained.
        """
        return self if self.strength > 0 else None

    @abstractmethod
    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Penalty:
        """The penalty over the trainable weights of one stage of a trial."""


@dataclass(frozen=True)
class Quadratic(Penalty):
    """`Σ (cᵢ/2)·‖wᵢ − rᵢ‖²`, with r = 0 where there is no reference.

    Attributes:
        terms: (weight, reference or None, coefficient c) per tensor.
    """

    terms: Sequence[tuple[torch.nn.Parameter, torch.Tensor | None, float]]

    def value(self) -> torch.Tensor:
        import torch

        parts = [
            (c / 2) * (w if reference is None else w - reference).square().sum()
            for w, reference, c in self.terms
        ]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def backward(self, scale: float = 1.0) -> torch.Tensor:
        import torch

        # In closed form: through autograd it would take three more passes over all weights.
        values = []
        with torch.no_grad():
            for weights, differences, c in self._terms():
                gradients = []
                for weight in weights:
                    weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                    gradients.append(weight.grad)
                torch._foreach_add_(gradients, differences, alpha=scale * c)
                norms = torch.stack(torch._foreach_norm(differences))
                values.append(norms.square().sum() * (c / 2))
            return torch.stack(values).sum() if values else torch.zeros(())

    def _terms(self) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor], float]]:
        """(weights, w − r, c) for each coefficient, apart where there is no reference."""
        import torch

        groups: dict[tuple[float, bool], list[tuple[Any, Any]]] = {}
        for w, reference, c in self.terms:
            if c != 0:
                groups.setdefault((c, reference is None), []).append((w, reference))
        for (c, plain), pairs in groups.items():
            weights = [w for w, _ in pairs]
            yield weights, weights if plain else list(torch._foreach_sub(weights, [r for _, r in pairs])), c

    def shrink(self, rates: Mapping[Any, float]) -> None:
        import torch

        with torch.no_grad():
            for w, reference, c in self.terms:
                w.sub_(w if reference is None else w - reference, alpha=rates[w] * c)
