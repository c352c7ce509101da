from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Moments, Setting, Strategy
from harness.running import recomputed
from harness.stage import Stage
from harness.strategies.averages import swapped
from harness.strategies.base import RATES, SCORED, Part, Preset
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Swa(Part):
    """Stochastic weight averaging: from the epoch `⌈start·E⌉` of E on, the weights at the end of every
    `cycle`-th epoch are averaged, all alike, `v ← (n·v + w)/(n + 1)`; v is what is scored and kept from its
    first snapshot on. Where stages follow each other, all this is about the last.

    From `start` on the rates stay: at `held` times each group's peak, or (null) where the schedule has
    brought them. Statistics of BatchNorm are computed anew for the average, by a pass over the training
    examples before each evaluation (its time is the trial's, its FLOPs are not counted).

    The paper starts after 75 % of a training from scratch, and at once from pretrained weights; `start` is
    0.5, so that three epochs have two snapshots. Its cyclical rates are not offered.
    """

    name: ClassVar[str] = "swa"
    source: ClassVar[str] = "Izmailov, Podoprikhin, Garipov, Vetrov & Wilson 2018, arXiv 1803.05407"
    claims: ClassVar[frozenset[str]] = frozenset({SCORED, RATES})
    presets: ClassVar[Mapping[str, Preset]] = {"swa": Preset({"swa": {"start": 0.5}}, source)}

    start: float = Field(default=0.5, ge=0, lt=1)
    cycle: int = Field(default=1, ge=1, le=100_000)
    held: float | None = Field(default=None, gt=0, le=100)

    @classmethod
    def settings(cls, value: Any) -> Any:
        return {"start": value} if isinstance(value, (int, float)) else value

    def conflict(self, recipe: Strategy) -> str:
        return "the optimiser already averages the weights" if recipe.optimizer.averages else ""

    def reason_within(self, recipe: Strategy, rungs: int) -> str:
        epochs = recipe.stages(rungs)[-1].epochs
        if (epochs - self.first(epochs)) // self.cycle < 1:
            return f"takes a single snapshot in {epochs} epochs, which is no average"
        return ""

    def first(self, epochs: int) -> int:
        """The epoch, from 1, at whose end the first snapshot is taken."""
        return max(1, math.ceil(self.start * epochs))

    def bind(self, setting: Setting) -> Moments:
        return _Average(self, setting)


class _Average(Moments):
    def __init__(self, part: Swa, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._parameters = dict(setting.tuned.model.named_parameters())
        self._epoch = setting.steps_per_epoch
        self._index, self._steps, self._count = -1, 0, 0
        self._average: dict[str, torch.Tensor] = {}
        self._held: list[float] | None = None  # shares of the peak rates

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        if index != self._index:
            self._index, self._steps, self._count, self._held = index, 0, 0, None
            self._average = {weight.name: weight.value.detach().clone() for weight in weights}
        self._stage, self._last = stage, index == len(self._setting.stages) - 1

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        if not self._last or self._steps < self._part.start * self._stage.epochs * self._epoch:
            return
        if self._held is None:
            held = self._part.held
            self._held = [g["lr"] / g["initial_lr"] if held is None else held for g in groups]
        for group, share in zip(groups, self._held, strict=True):
            group["lr"] = share * group["initial_lr"]

    def stepped(self) -> None:
        import torch

        self._steps += 1
        epoch, within = divmod(self._steps, self._epoch)
        since = epoch - self._part.first(self._stage.epochs)
        if not self._last or within or since < 0 or since % self._part.cycle:
            return
        self._count += 1
        with torch.no_grad():
            for name, average in self._average.items():
                average.lerp_(self._parameters[name], 1 / self._count)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        if not self._count:
            yield
            return
        averaged = {self._parameters[name]: average for name, average in self._average.items()}
        with swapped(averaged), recomputed(self._setting, self._stage):
            yield

    def state(self) -> Mapping[str, Any]:
        return {
            "index": self._index, "steps": self._steps, "count": self._count, "held": self._held,
            "average": self._average,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        self._index, self._steps = state["index"], state["steps"]
        self._count, self._held = state["count"], state["held"]
        average = state["average"]
        self._average = {name: value.to(self._parameters[name].device) for name, value in average.items()}
