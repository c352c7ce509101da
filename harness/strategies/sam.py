from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Batch, Forward, Moments, Setting, Strategy, copied
from harness.stage import Stage
from harness.strategies.base import PERTURBED, Preset, Valued
from harness.weights import Weight

if TYPE_CHECKING:
    import torch

# No gradient is divided by less.
_TINY = 1e-12


class Sam(Valued):
    """Sharpness-aware minimisation: the gradient is taken at `w + ρ·g/‖g‖₂`, where g is the gradient at w on
    the same examples, and the norm goes over all weights that train. Twice the work in each step.

    Both passes have the same dropout, and statistics of BatchNorm count the first only once. Examples that
    pass through the model at a time have a g of their own (the paper's m-sharpness): with
    `training.accumulation: 1` that is the batch. The curve's training loss is that at the second point; a
    regulariser acts at w.

    ρ is 0.05 in the paper, which tunes it over 0.01 … 0.5; Bahri et al. 2022 take 0.15 for language models.
    """

    name: ClassVar[str] = "sam"
    source: ClassVar[str] = (
        "Foret, Kleiner, Mobahi & Neyshabur 2021, arXiv 2010.01412; "
        "for language: Bahri, Mobahi & Tay 2022, arXiv 2110.08529"
    )
    claims: ClassVar[frozenset[str]] = frozenset({PERTURBED})
    presets: ClassVar[Mapping[str, Preset]] = {"sam": Preset({"sam": 0.05}, source)}

    rho: float = Field(default=0.05, ge=0, le=1e3)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.rho > 0 else None

    def conflict(self, recipe: Strategy) -> str:
        if recipe.training.precision == "fp16":
            return "climbs along a gradient that is not scaled into the range of fp16: take bf16 or fp32"
        return ""

    def extra(self) -> float:
        return 1.0

    def bind(self, setting: Setting) -> Moments:
        return _Climb(self.rho, setting)


class _Climb(Moments):
    """Attributes: `_before` has the values of the weights while they are elsewhere."""

    outer = True

    def __init__(self, rho: float, setting: Setting) -> None:
        self._rho, self._setting = rho, setting
        self._weights: list[torch.nn.Parameter] = []
        self._before: list[torch.Tensor] = []

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._weights = [weight.value for weight in weights]

    @contextmanager
    def computing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._return()

    def forward(self, inner: Forward, batch: Batch) -> Any:
        self._return()  # from where the piece before this one was
        self._climb(self._gradients(inner, copied(batch)))
        return inner(batch)

    def _gradients(self, inner: Forward, batch: Batch) -> Sequence[torch.Tensor | None]:
        """At w, of a pass that leaves no trace."""
        import torch

        device = self._setting.device
        buffers = [(buffer, buffer.clone()) for buffer in self._setting.tuned.model.buffers()]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loss = inner(batch).loss
        with torch.autocast(device.type, enabled=False):
            found = torch.autograd.grad(loss, self._weights, allow_unused=True)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        return found

    def _climb(self, gradients: Sequence[torch.Tensor | None]) -> None:
        import torch

        moving = [(w, g) for w, g in zip(self._weights, gradients, strict=True) if g is not None]
        size = torch.stack(torch._foreach_norm([g for _, g in moving])).norm()
        with torch.no_grad():
            self._before = [weight.clone() for weight in self._weights]
            scale = self._rho / size.clamp(min=_TINY)
            for weight, gradient in moving:
                weight.add_(gradient * scale)
        torch.clear_autocast_cache()  # or the second pass would have the weights of the first

    def _return(self) -> None:
        import torch

        with torch.no_grad():
            for weight, value in zip(self._weights, self._before, strict=False):
                weight.copy_(value)
        self._before = []
