from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting, Tuned
from harness.stage import Stage
from harness.strategies.averages import swapped
from harness.strategies.base import PERTURBED, Preset, Valued
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Mixout(Valued):
    """Mixout: in each step the weights that leave a neuron are, with probability p, its pretrained ones,
    `w̃ = (m·w⁰ + (1 − m)·w − p·w⁰)/(1 − p)`, m ~ Bernoulli(p), so that w̃ is w in the mean. The gradient is
    taken at w̃ and is that of w, `(1 − m)/(1 − p)` times it. Scores are those of w.

    It works on the matrices of linear layers and on the kernels of convolutions below the head, where m is
    drawn for each input of a layer and is the same for all its outputs, as in the authors' code. It stands in
    the place of dropout, which is off in these rungs (for families that keep it in `nn.Dropout`). m is drawn
    once per step. The authors' code leaves 1/(1 − p) out of the gradient, which Adam does not see but for
    clipping.

    p is 0.7, 0.8 or 0.9 in the paper; Zhang et al. 2021 (arXiv 2006.05987) try all tenths.
    """

    name: ClassVar[str] = "mixout"
    source: ClassVar[str] = "Lee, Cho & Kang 2020, arXiv 1909.11299; code: github.com/bloodwass/mixout"
    claims: ClassVar[frozenset[str]] = frozenset({PERTURBED})
    only_pretrained: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"mixout": Preset({"mixout": 0.7}, source)}

    p: float = Field(default=0.7, ge=0, lt=1)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.p > 0 else None

    def prepare(self, tuned: Tuned, frozen: int) -> None:
        import torch

        for rung in tuned.ladder.rungs[frozen:]:
            for module in rung.modules:
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0

    def bind(self, setting: Setting) -> Moments:
        return _Mix(self.p)


class _Mix(Moments):
    def __init__(self, p: float) -> None:
        self._p = p
        self._mixed: list[tuple[torch.nn.Parameter, torch.Tensor, int]] = []

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._mixed = [
            (weight.value, weight.reference, outputs)
            for weight in weights
            if weight.reference is not None and (outputs := _axis_of_outputs(weight)) is not None
        ]

    @contextmanager
    def computing(self) -> Iterator[None]:
        import torch

        scales = {weight: self._scale(weight, outputs) for weight, _, outputs in self._mixed}
        with torch.no_grad():
            mixed: dict[torch.Tensor, torch.Tensor] = {
                weight: torch.lerp(start, weight, scales[weight]) for weight, start, _ in self._mixed
            }
        with swapped(mixed):
            yield
        for weight, scale in scales.items():
            if weight.grad is not None:
                weight.grad.mul_(scale)

    def _scale(self, weight: torch.nn.Parameter, outputs: int) -> torch.Tensor:
        """`(1 − m)/(1 − p)`, of the weight's shape."""
        kept = weight.detach().select(outputs, 0).clone().bernoulli_(1 - self._p)
        return kept.div_(1 - self._p).unsqueeze(outputs).expand_as(weight)


def _axis_of_outputs(weight: Weight) -> int | None:
    """Along which axis of a matrix or kernel a layer's outputs lie; None for weights of other kinds."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if weight.own_name != "weight":
        return None
    if isinstance(weight.module, Conv1D):  # the linear layer of GPT-2, whose matrix is transposed
        return 1
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return 0 if isinstance(weight.module, layers) else None
