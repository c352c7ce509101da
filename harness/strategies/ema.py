from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Moments, Setting, Strategy
from harness.stage import Stage
from harness.strategies.averages import swapped
from harness.strategies.base import SCORED, Preset, Valued
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Ema(Valued):
    """Exponential moving average of the weights: after step t, `v ← β_t·v + (1 − β_t)·w` with
    `β_t = min(β, (1 + t)/(10 + t))`, so that the average forgets the start; v is what is scored and kept.

    Only weights are averaged, not statistics of BatchNorm. β is `decay`. Weights that rest in a later stage
    stay in the average, which comes to their value.
    """

    name: ClassVar[str] = "ema"
    source: ClassVar[str] = (
        "Polyak & Juditsky 1992, doi 10.1137/0330046; Morales-Brotons et al. 2024, arXiv 2411.18704; "
        "β_t: TensorFlow's ExponentialMovingAverage"
    )
    claims: ClassVar[frozenset[str]] = frozenset({SCORED})
    presets: ClassVar[Mapping[str, Preset]] = {"ema": Preset({"ema": 0.99}, source)}

    decay: float = Field(default=0.99, gt=0, lt=1)

    def conflict(self, recipe: Strategy) -> str:
        return "the optimiser already averages the weights" if recipe.optimizer.averages else ""

    def bind(self, setting: Setting) -> Moments:
        return _Average(self.decay, setting)


class _Average(Moments):
    def __init__(self, decay: float, setting: Setting) -> None:
        self._decay, self._steps = decay, 0
        self._parameters = dict(setting.tuned.model.named_parameters())
        self._average: dict[str, torch.Tensor] = {}

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        for weight in weights:
            if weight.name not in self._average:
                self._average[weight.name] = weight.value.detach().clone()

    def stepped(self) -> None:
        import torch

        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for name, average in self._average.items():
                average.lerp_(self._parameters[name], 1 - decay)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        with swapped({self._parameters[name]: average for name, average in self._average.items()}):
            yield

    def state(self) -> Mapping[str, Any]:
        return {"steps": self._steps, "average": self._average}

    def load(self, state: Mapping[str, Any]) -> None:
        self._steps, average = state["steps"], state["average"]
        self._average = {name: value.to(self._parameters[name].device) for name, value in average.items()}
