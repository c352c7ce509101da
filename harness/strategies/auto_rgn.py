from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting
from harness.stage import Stage
from harness.strategies.base import Preset, Valued
from harness.weights import Weight


class AutoRgn(Valued):
    """Rates by relative gradient norm: a rung trains at `learning_rate · r / max r`, r = ‖g‖ / ‖w‖ over all
    of its weights that train, where the maximum is that over the rungs.

    As in the authors' code r is measured anew in every epoch, as the mean over its first `batches` batches.
    There these pass before the epoch, for each tensor on its own, and Adam starts afresh after them; here
    they are those of the epoch's first steps, which already train at the mean so far, the rungs stand for
    the layers, and the head, which is new and whose r would dwarf the others, keeps its own rate. The paper
    tunes the rate over 1e-1 … 1e-5.
    """

    name: ClassVar[str] = "auto-rgn"
    source: ClassVar[str] = (
        "Lee, Chen, Tajwar, Kumar, Yao, Liang & Finn 2023, arXiv 2210.11466, §5; "
        "code: github.com/anniesch/surgical-finetuning"
    )
    only_rungs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"auto-rgn": Preset({"auto-rgn": 5}, source)}

    batches: int = Field(default=5, ge=1, le=1_000_000)

    def canonical(self, rungs: int) -> Self | None:
        return self if rungs > 1 else None

    def bind(self, setting: Setting) -> Moments:
        return _Rates(self.batches, setting.steps_per_epoch)


class _Rates(Moments):
    """Attributes: sums of the measured ratios by rung, over so many steps; `at` is the step of the epoch."""

    def __init__(self, batches: int, epoch: int) -> None:
        self._batches, self._epoch = batches, epoch
        self._stage, self._at, self._measured = -1, 0, 0
        self._sums: dict[int, float] = {}

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        if index != self._stage:  # not where an interrupted one goes on
            self._stage, self._at = index, 0

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        if self._at % self._epoch == 0:
            self._sums, self._measured = {}, 0
        if self._measured < self._batches:
            for rung, ratio in _ratios(groups).items():
                self._sums[rung] = self._sums.get(rung, 0.0) + ratio
            self._measured += 1
        self._at += 1
        largest = max(self._sums.values(), default=0.0)
        for group in groups:
            if group["rung"] is not None and largest > 0:
                group["lr"] *= self._sums[group["rung"]] / largest

    def state(self) -> Mapping[str, Any]:
        return {"stage": self._stage, "at": self._at, "measured": self._measured, "sums": self._sums}

    def load(self, state: Mapping[str, Any]) -> None:
        self._stage, self._at = state["stage"], state["at"]
        self._measured, self._sums = state["measured"], dict(state["sums"])


def _ratios(groups: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """‖g‖ / ‖w‖ of each rung that has weights other than zero."""
    import torch

    rungs = sorted({group["rung"] for group in groups if group["rung"] is not None})
    if not rungs:
        return {}
    found = []
    for rung in rungs:
        weights = [weight for group in groups if group["rung"] == rung for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        moving = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else weights[0].new_zeros(())
        resting = torch.stack(torch._foreach_norm([weight.detach() for weight in weights])).norm()
        found.append(torch.where(resting > 0, moving / resting, 0.0))
    return dict(zip(rungs, torch.stack(found).tolist(), strict=True))  # one wait for an accelerator
