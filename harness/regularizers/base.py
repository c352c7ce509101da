"""What every regulariser plug-in is, and the quadratic penalty that most of them are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from harness.registry import Plugin

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weight:
    """One trainable tensor, as a regulariser sees it.

    Attributes:
        name: the parameter's name in the model.
        value: the parameter, any shape.
        reference: its pretrained value θ⁰, same shape; None for weights of the head.
    """

    name: str
    value: torch.nn.Parameter
    reference: torch.Tensor | None


class Penalty(Protocol):
    """λ·R(θ) bound to the weights of one trial."""

    def value(self) -> torch.Tensor:
        """The scalar λ·R(θ), differentiable."""

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

    def canonical(self, head_only: bool) -> Regularizer | None:
        """The simplest equal regulariser, None where it does nothing.

        `head_only`: nothing but the head trains at any stage of the trial.
        """
        return self if self.strength > 0 else None

    @abstractmethod
    def bind(self, weights: Sequence[Weight]) -> Penalty:
        """The penalty over the trainable weights of one stage."""


@dataclass(frozen=True)
class Quadratic:
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

    def shrink(self, rates: Mapping[Any, float]) -> None:
        import torch

        with torch.no_grad():
            for w, reference, c in self.terms:
                w.sub_(w if reference is None else w - reference, alpha=rates[w] * c)
