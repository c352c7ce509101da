from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from harness.moments import Batch, Forward, Moments, Setting
from harness.stage import Stage
from harness.strategies import losses as of_models
from harness.strategies.base import Preset
from harness.strategies.features import features
from harness.strategies.source_head import OfSource, SourceHead
from harness.weights import Weight


class LearningWithoutForgetting(OfSource):
    """Learning without forgetting: `L + λ·CE(softmax(z⁰/T), softmax(z/T))`: on the new task's examples the
    head of the source task must go on saying what it said before, z⁰ with the source model's features and z
    with those under training; averaged over examples (words, pixels).

    The source head stays as it is, where the paper trains it along. For backbones with a `source:` of the
    same kind of task. λ (`strength`) is 1 and T is 2 in the paper.
    """

    name: ClassVar[str] = "lwf"
    source: ClassVar[str] = "Li & Hoiem 2016, arXiv 1606.09282"
    presets: ClassVar[Mapping[str, Preset]] = {"lwf": Preset({"lwf": {"strength": 1.0}}, source)}

    strength: float = Field(default=1.0, ge=0, le=1e6)
    temperature: float = Field(default=2.0, gt=0, le=1e3)

    def extra(self) -> float:
        return 2 / 3

    def bind(self, setting: Setting) -> Moments:
        return _Remembering(self, setting)


class _Remembering(Moments):
    def __init__(self, part: LearningWithoutForgetting, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._head: SourceHead | None = None

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._acts = any(weight.rung is not None for weight in weights)
        if self._acts and self._head is None:
            self._head = SourceHead(self._setting)

    def forward(self, inner: Forward, batch: Batch) -> Any:
        import torch

        if not self._acts:
            return inner(batch)
        assert self._head is not None
        with torch.no_grad():
            before = self._head.says(batch)
        with features(self._setting.tuned.ladder) as found:
            outputs = inner(batch)
        now = self._head.says(batch, found)
        degree = self._part.temperature
        apart = -((before / degree).softmax(-1) * (now / degree).log_softmax(-1)).sum(-1)
        counted = torch.ones_like(apart)
        if batch["labels"].shape == apart.shape:  # of texts without padding and words' later pieces
            counted = batch["labels"] >= 0
        apart = (apart * counted).sum() / counted.sum().clamp(min=1)
        return of_models.with_loss(outputs, outputs.loss + self._part.strength * apart)
