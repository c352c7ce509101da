from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Moments, Setting
from harness.stage import Stage
from harness.strategies.averages import swapped
from harness.strategies.base import SCORED, Part, Preset
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Ema(Part):
    """Exponential moving average of the weights: after step t, `v ← β_t·v + (1 − β_t)·w` with
    `β_t = min(β, (1 + t)/(10 + t))`, so that the average forgets the start; v is what is scored and kept.

    Only weights are averaged, not statistics of BatchNorm. β is `decay`.
    """

    name: ClassVar[str] = "ema"
    source: ClassVar[str] = (
        "Polyak & Juditsky 1992, doi 10.1137/0330046; Morales-Brotons et al. 2024, arXiv 2411.18704; "
        "β_t: TensorFlow's ExponentialMovingAverage"
    )
    claims: ClassVar[frozenset[str]] = frozenset({SCORED})
    presets: ClassVar[Mapping[str, Preset]] = {"ema": Preset({"ema": 0.99}, source)}

    decay: float = Field(default=0.99, gt=0, lt=1)

    @classmethod
    def settings(cls, value: Any) -> Any:
        return {"decay": value}

    def value(self) -> Any:
        return self.decay

    def bind(self, setting: Setting) -> Moments:
        return _Average(self.decay)


class _Average(Moments):
    def __init__(self, decay: float) -> None:
        self._decay, self._steps = decay, 0
        self._average: dict[str, torch.Tensor] = {}
        self._weights: Sequence[Weight] = ()

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._weights = weights
        for weight in weights:
            before = self._average.get(weight.name, weight.value.detach())
            self._average[weight.name] = before.to(weight.value.device, copy=True)

    def stepped(self) -> None:
        import torch

        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for weight in self._weights:
                self._average[weight.name].lerp_(weight.value, 1 - decay)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        with swapped({weight.value: self._average[weight.name] for weight in self._weights}):
            yield

    def state(self) -> Mapping[str, Any]:
        return {"steps": self._steps, "average": self._average}

    def load(self, state: Mapping[str, Any]) -> None:
        self._steps, self._average = state["steps"], state["average"]
