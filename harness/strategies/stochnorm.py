from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting
from harness.stage import Stage
from harness.strategies.base import Preset, Valued
from harness.strategies.losses import instead
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class StochasticNormalization(Valued):
    """Stochastic normalisation: in training each channel of a BatchNorm is normalised by its moving
    statistics with probability p, and by the batch's otherwise, drawn anew for every pass; the moving
    statistics, which are the pretrained ones at first, follow the batches as always.

    In the rungs that train; p is 0.5 in the paper (0 is plain BatchNorm).
    """

    name: ClassVar[str] = "stochnorm"
    source: ClassVar[str] = "Kou, You, Long & Wang 2020, NeurIPS 33: Stochastic Normalization"
    only_rungs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"stochnorm": Preset({"stochnorm": 0.5}, source)}

    p: float = Field(default=0.5, ge=0, le=1)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.p > 0 else None

    def reason_against_model(self, model: Any, ladder: Any) -> str:
        return "" if any(_normalising(ladder, range(len(ladder.rungs)))) else "the model has no BatchNorm"

    def bind(self, setting: Setting) -> Moments:
        return _Mixing(self.p, setting)


def _normalising(ladder: Any, rungs: Sequence[int]) -> Iterator[Any]:
    """The BatchNorms of these rungs that keep statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm  # what all of torch's and timm's derive from

    for module in (module for rung in rungs for module in ladder.rungs[rung].modules):
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            yield module


class _Mixing(Moments):
    def __init__(self, p: float, setting: Setting) -> None:
        self._p, self._setting = p, setting

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        ladder = self._setting.tuned.ladder
        rungs = [rung for rung in range(len(ladder.rungs)) if stage.trains(rung)]
        self._means = {id(module.running_mean) for module in _normalising(ladder, rungs)}

    @contextmanager
    def computing(self) -> Iterator[None]:
        with instead(("batch_norm",), self._normalised):
            yield

    def _normalised(
        self, batch_norm: Any, input: torch.Tensor, mean: torch.Tensor | None, variance: torch.Tensor | None,
        weight: Any = None, bias: Any = None, training: bool = False, momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:  # fmt: skip
        """In place of torch.nn.functional.batch_norm, whose arguments these are."""
        import torch

        by_batch: torch.Tensor = batch_norm(input, mean, variance, weight, bias, training, momentum, eps)
        if not training or mean is None or variance is None or id(mean) not in self._means:
            return by_batch
        # copies: the next pass changes them before the gradient of this one is taken
        moving = mean.clone(), variance.clone()
        by_moving = batch_norm(input, *moving, weight, bias, False, momentum, eps)
        chosen = torch.bernoulli(torch.full((len(mean),), self._p)).bool().to(input.device)
        return torch.where(chosen.view(1, -1, *[1] * (input.ndim - 2)), by_moving, by_batch)
