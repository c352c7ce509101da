from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Setting, Strategy
from harness.optimizers.base import Optimizer
from harness.running import recomputed
from harness.stage import Stage

if TYPE_CHECKING:
    import torch


class ScheduleFree(Optimizer):
    """AdamW whose average replaces the decay of the rate. The gradient g is taken at `y = (1 − β₁)·z + β₁·x`;
    `z ← z − η(g/(√v̂ + ε) + λ_wd·y)`, and `x ← (1 − c)·x + c·z` with `c = η²/Σ η²` over the steps so far.
    What is scored and kept is x, with BatchNorm's statistics computed anew for it.

    The authors find rates of 1 to 10 times AdamW's best; the default is twice that of `adamw`, as a rate that
    falls linearly to 0 is half its peak on average. The warm-up is `training.warmup`. By schedulefree
    (`AdamWScheduleFree`).
    """

    name: ClassVar[str] = "schedule-free"
    source: ClassVar[str] = "Defazio et al. 2024, arXiv 2405.15682"
    package: ClassVar[str] = "schedulefree"
    averages: ClassVar[bool] = True

    learning_rate: float = Field(default=4e-5, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    beta1: float = Field(default=0.9, gt=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)

    def conflict(self, recipe: Strategy) -> str:
        if recipe.training.schedule != "constant":
            return "takes the place of a schedule that falls: write `training: {schedule: constant}`"
        if recipe.regularizer is not None and recipe.regularizer.mode == "decoupled":
            return "moves weights that no decoupled step reaches: the regulariser needs `mode: loss`"
        return super().conflict(recipe)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(groups, betas=(self.beta1, self.beta2), eps=self.epsilon)
        optimizer.train()
        built: torch.optim.Optimizer = optimizer
        return built

    @contextmanager
    def scoring(self, optimizer: Any, setting: Setting, stage: Stage) -> Iterator[None]:
        trained = [
            (weight, weight.detach().clone()) for g in optimizer.param_groups for weight in g["params"]
        ]
        optimizer.eval()
        try:
            with recomputed(setting, stage):
                yield
        finally:
            optimizer.train()
            for weight, value in trained:  # to the bit: there and back is not the same number
                weight.data.copy_(value)

    def leave(self, optimizer: Any) -> None:
        optimizer.eval()
