from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from harness.moments import Moments, Setting, Strategy
from harness.stage import Stage
from harness.strategies.base import Part, Preset
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


# Beyond it an exponential is no float.
_LARGEST = 700.0


class RecAdam(Part):
    """RecAdam, recall and learn: Adam whose objective shifts from staying at θ⁰ = w⁰ to the task. With
    `λ(t) = 1/(1 + exp(−k·(t − t₀)))`, in step t the update that Adam gives a pretrained weight is multiplied
    by λ(t), then `w ← w − η·(1 − λ(t))·γ·(w − w⁰)`, then AdamW's decay follows, whole. The head, and what
    else was not pretrained, trains as without it.

    `t0` is the middle of the shift: a whole number counts steps, a fraction is a share of all steps. Steps
    are counted from the first in which pretrained weights train. The paper tunes k over 0.05 … 1 and t₀ over
    100 … 1,000 of its 7,800 and more steps, and fixes γ (`gamma`) at 5,000; here t₀ defaults to a share that
    lies among these, as a fixed number would be beyond the end of short trials. η·γ above 2 takes weights
    away from w⁰ instead of back. The authors' script starts from random weights unless it is told otherwise;
    here training starts from w⁰.
    """

    name: ClassVar[str] = "recadam"
    source: ClassVar[str] = (
        "Chen, Hou, Cui, Che, Liu & Yu 2020, arXiv 2004.12651; k, γ: github.com/Sanyuan-Chen/RecAdam"
    )
    only_pretrained: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "recadam": Preset(
            {
                "recadam": {"k": 0.1, "t0": 0.1, "gamma": 5000.0},
                "optimizer": {"name": "adamw", "weight_decay": 0.0},
            },
            source,
        )
    }

    k: float = Field(default=0.1, gt=0, le=1e3)
    t0: int | float = 0.1
    gamma: float = Field(default=5000.0, ge=0, le=1e9)

    @field_validator("t0")
    @classmethod
    def _steps_or_share(cls, value: int | float) -> int | float:
        if value < 0 or (isinstance(value, float) and value > 1):
            raise ValueError(f"takes a number of steps or a fraction of all steps, not {value!r}")
        return value

    def conflict(self, recipe: Strategy) -> str:
        name = recipe.optimizer.name
        if name not in ("adam", "adamw"):
            return f"shifts the objective of Adam, and the optimizer is {name}: take adam or adamw"
        return ""

    def bind(self, setting: Setting) -> Moments:
        middle = self.t0 if isinstance(self.t0, int) else self.t0 * setting.steps
        return _Shift(self.k, middle, self.gamma, decoupled=setting.recipe.optimizer.name == "adamw")


class _Shift(Moments):
    """Attributes: steps so far; of the step that is being made the groups, each with its rate and decay."""

    def __init__(self, k: float, middle: float, gamma: float, decoupled: bool) -> None:
        self._k, self._middle, self._gamma, self._decoupled = k, middle, gamma, decoupled
        self._steps = 0
        self._start: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._stepping: list[tuple[dict[str, Any], float, float]] = []

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._start = {w.value: w.reference for w in weights if w.reference is not None}

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        if self._start:
            self._steps += 1
        for group in groups:
            if not group["pretrained"]:
                continue
            self._stepping.append((group, group["lr"], group["weight_decay"]))
            group["lr"] *= self._share
            if self._decoupled:
                group["weight_decay"] = 0.0  # comes after the pull

    def stepped(self) -> None:
        import torch

        stepping, self._stepping = self._stepping, []
        with torch.no_grad():
            for group, rate, decay in stepping:
                group["weight_decay"] = decay
                weights = group["params"]
                ways = torch._foreach_sub(weights, [self._start[weight] for weight in weights])
                torch._foreach_add_(weights, ways, alpha=-rate * (1 - self._share) * self._gamma)
                if self._decoupled and decay > 0:
                    torch._foreach_mul_(weights, 1 - rate * decay)

    @property
    def _share(self) -> float:
        """λ(t): how much of the objective is the task's."""
        return 1 / (1 + math.exp(min(_LARGEST, -self._k * (self._steps - self._middle))))

    def state(self) -> Mapping[str, Any]:
        return {"steps": self._steps}

    def load(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]
