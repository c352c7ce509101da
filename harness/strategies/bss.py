from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from harness.moments import Batch, Forward, Moments, Setting
from harness.strategies.base import Preset, Weighted
from harness.strategies.features import features, leaving, pooled
from harness.strategies.losses import with_loss


class BatchSpectralShrinkage(Weighted):
    """Batch spectral shrinkage: `L + η·Σ σ²` over the k smallest singular values σ of the batch's features,
    one row per example: directions of the pretrained features that carry little are shrunk, not transferred.

    Features are what enters the head; of sequences the mean over positions, of maps that over places. With
    `accumulation` each piece of a batch counts by itself. η (`strength`) is 0.001 and k is 1 in the paper.
    """

    name: ClassVar[str] = "bss"
    source: ClassVar[str] = (
        "Chen, Wang, Fu, Long & Wang 2019, NeurIPS 32: Catastrophic Forgetting Meets Negative Transfer"
    )
    only_rungs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"bss": Preset({"bss": {"strength": 1e-3, "k": 1}}, source)}

    strength: float = Field(default=1e-3, ge=0, le=1e6)
    k: int = Field(default=1, ge=1, le=10_000)

    def bind(self, setting: Setting) -> Moments:
        return _Shrinkage(self, setting)


class _Shrinkage(Moments):
    def __init__(self, part: BatchSpectralShrinkage, setting: Setting) -> None:
        self._part, self._setting = part, setting

    def forward(self, inner: Forward, batch: Batch) -> Any:
        import torch

        ladder = self._setting.tuned.ladder
        last = len(ladder.rungs) - 1
        with leaving(ladder, last) as seen, features(ladder) as found:
            outputs = inner(batch)
        if not found[0].requires_grad:  # the rungs rest in this stage
            return outputs
        valid = seen[last].valid if last in seen else None
        maps = [each.movedim(1, -1) if each.ndim == 4 else each for each in found]
        rows = torch.cat([pooled(each.float(), valid) for each in maps], dim=1)
        rows = rows.nan_to_num(0.0, 0.0, 0.0)  # of weights that diverge, which the loss tells
        with torch.autocast(rows.device.type, enabled=False):
            smallest = torch.linalg.svdvals(rows)[-self._part.k :]
        return with_loss(outputs, outputs.loss + self._part.strength * smallest.square().sum())
