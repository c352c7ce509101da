from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.moments import Batch, Forward, Moments, Setting
from harness.stage import Stage
from harness.strategies import losses as of_models
from harness.strategies.base import Preset
from harness.strategies.features import features
from harness.strategies.source_head import OfSource, SourceHead, aligned
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class CoTuning(OfSource):
    """Co-tuning: `L + λ·CE(p(y_s | y), p_s(f(x)))`: on the features of the model under training the head of
    the source task must say what examples of the class y looked like to the source model.

    p(y_s | y) is the mean of the source model's calibrated predictions on training examples of class y (the
    paper's direct approach; the authors' code learns it backwards, through a logistic regression). It is
    calibrated on training examples of the source task, since trials do not hold its others. The source head
    stays as it is, where the authors train it along. For backbones with a `source:` of the same kind of task.
    λ (`strength`) is 2.3 in the authors' code.

    Attributes:
        samples: training examples, of either task, that this is learnt from.
    """

    name: ClassVar[str] = "co-tuning"
    source: ClassVar[str] = "You, Kou, Long & Wang 2020, NeurIPS 33: Co-Tuning for Transfer Learning"
    presets: ClassVar[Mapping[str, Preset]] = {"co-tuning": Preset({"co-tuning": {"strength": 2.3}}, source)}

    strength: float = Field(default=2.3, ge=0, le=1e6)
    samples: int = Field(default=10_000, ge=1, le=10**9)

    def extra(self) -> float:
        return 1 / 3

    def bind(self, setting: Setting) -> Moments:
        return _Together(self, setting)


class _Together(Moments):
    def __init__(self, part: CoTuning, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._head: SourceHead | None = None
        self._related: torch.Tensor | None = None

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._acts = any(weight.rung is not None for weight in weights)
        if self._acts and self._head is None:
            self._head = SourceHead(self._setting)
        if self._acts and self._related is None:
            assert self._head is not None
            self._head.calibrate(self._part.samples)
            self._related = self._learnt(self._head)
        if self._related is not None:
            self._related = self._related.to(self._setting.device)

    def forward(self, inner: Forward, batch: Batch) -> Any:
        if not self._acts:
            return inner(batch)
        assert self._head is not None and self._related is not None
        with features(self._setting.tuned.ladder) as found:
            outputs = inner(batch)
        said, labels = aligned(self._head.says(batch, found), batch["labels"])
        apart = -(self._related[labels] * said.log_softmax(-1)).sum(-1).mean()
        return of_models.with_loss(outputs, outputs.loss + self._part.strength * apart)

    def state(self) -> Mapping[str, Any]:
        return {"related": self._related}

    def load(self, state: Mapping[str, Any]) -> None:
        self._related = state["related"]

    def _learnt(self, head: SourceHead) -> torch.Tensor:
        """p(y_s | y), shape (classes, classes of the source); evenly spread for a class without examples."""
        import torch
        from torch.nn.functional import one_hot

        classes, total = self._setting.tuned.model.config.num_labels, torch.zeros(())
        with torch.no_grad():
            for batch in self._setting.sample(self._part.samples):
                said, labels = aligned(head.says(batch), batch["labels"])
                likely = (head.scale * said).softmax(-1)
                total = total.to(likely) + one_hot(labels, classes).to(likely).T @ likely
        count = total.sum(dim=1, keepdim=True)  # each prediction adds one
        return torch.where(count > 0, total / count.clamp(min=1e-9), 1 / total.shape[1])
