from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting
from harness.stage import Stage
from harness.strategies.base import GRADIENTS, Part, Preset
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class ChildTuningD(Part):
    """Child-Tuning, task-driven: of the weights in the blocks that train, only the share p with the largest
    Fisher information at θ⁰ gets gradients, the *child network*, which is chosen once before training.
    Stem, pooler and head, and what else lies outside the blocks, train whole.

    The information is the mean over batches of the squared gradient of the loss with the true labels, below
    the trial's new head. As in the authors' code each tensor's gradient is first clipped at `training.clip`;
    unlike there dropout is off. Theirs looks at all of train (`samples: null`), here at `samples` examples in
    the batches that pass through the model at a time; this takes as long as training on them, which the
    trial's time counts and its FLOPs do not. The mask falls on the clipped gradient, before the optimiser's
    moments; weight decay, which is decoupled, goes on everywhere. The paper tunes p over 0.1, 0.2 and 0.3.
    """

    name: ClassVar[str] = "child-tuning-d"
    source: ClassVar[str] = "Xu, Luo, Zhang, Tan, Chang, Huang & Huang 2021, arXiv 2109.05687, §2.3"
    claims: ClassVar[frozenset[str]] = frozenset({GRADIENTS})
    only_pretrained: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"child-tuning-d": Preset({"child-tuning-d": 0.3}, source)}

    p: float = Field(default=0.3, gt=0, le=1)
    samples: int | None = Field(default=1024, ge=1)

    @classmethod
    def settings(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"p": value}

    def canonical(self, rungs: int) -> Self | None:
        return self if self.p < 1 and rungs > 1 else None

    def bind(self, setting: Setting) -> Moments:
        return _Child(self._masks(setting))

    def _masks(self, setting: Setting) -> dict[str, torch.Tensor]:
        """By name, for every weight in the blocks that trains at some stage, which of it is in the child."""
        import torch

        tuned, parts = setting.tuned, setting.recipe.parts
        within = {id(w) for rung in tuned.ladder.rungs for block in rung.blocks for w in block.parameters()}
        trained = {w.name: w.value for stage in setting.stages for w in tuned.weights(stage, parts)}
        chosen = {name: weight for name, weight in trained.items() if id(weight) in within}
        if not chosen:
            return {}
        information = self._information(list(chosen.values()), setting)
        flat = torch.cat([values.flatten() for values in information])
        kept = max(1, round(self.p * len(flat)))
        least = flat.kthvalue(len(flat) - kept + 1).values
        return {name: values >= least for name, values in zip(chosen, information, strict=True)}

    def _information(self, weights: list[torch.nn.Parameter], setting: Setting) -> list[torch.Tensor]:
        """The mean over batches of squared gradients, at the weights that are in the model."""
        import sys

        import torch

        limit = setting.recipe.training.clip
        sums = [torch.zeros_like(weight) for weight in weights]
        for weight in weights:
            weight.requires_grad_(True)  # which weights train is settled anew as each stage begins
        setting.tuned.model.eval()
        for batch in setting.sample(self.samples or sys.maxsize):
            gradients = torch.autograd.grad(setting.tuned(batch).loss, weights, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    scale = 1.0 if limit is None else (limit / (gradient.norm() + 1e-6)).clamp(max=1)
                    total.add_((gradient * scale).square())
        return sums  # their number of batches changes no order


class _Child(Moments):
    def __init__(self, masks: dict[str, torch.Tensor]) -> None:
        self._masks = masks
        self._weights: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._weights = [(w.value, self._masks[w.name]) for w in weights if w.name in self._masks]

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        for weight, kept in self._weights:
            if weight.grad is not None:
                weight.grad.mul_(kept)
