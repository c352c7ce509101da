from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting, Strategy
from harness.stage import Stage
from harness.strategies.averages import statistics, swapped
from harness.strategies.base import SCORED, Preset, Valued
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class WiseFt(Valued):
    """Weight-space ensemble: what is scored and kept is `(1 − α)·θ⁰ + α·θ` for the pretrained weights (and
    the running statistics of BatchNorm), and the head as it was trained. Training itself knows nothing of it.

    The paper recommends α = 0.5 where nothing is known, and tunes it over 0, 0.05, …, 1 (0.4 to 0.6 are near
    the best). Its zero-shot model interpolates the head, too; a head that is drawn anew has no start to
    interpolate with.
    """

    name: ClassVar[str] = "wise-ft"
    source: ClassVar[str] = "Wortsman et al. 2022, arXiv 2109.01903"
    claims: ClassVar[frozenset[str]] = frozenset({SCORED})
    only_rungs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {"wise-ft": Preset({"wise-ft": 0.5}, source)}

    alpha: float = Field(default=0.5, ge=0, le=1)

    def conflict(self, recipe: Strategy) -> str:
        added = next((part.name for part in recipe.parts if part.adds), None)
        return f"beside '{added}' no pretrained weight trains that could be interpolated" if added else ""

    def canonical(self, rungs: int) -> Self | None:
        return self if self.alpha < 1 else None

    def bind(self, setting: Setting) -> Moments:
        return _Interpolated(self.alpha, setting)


class _Interpolated(Moments):
    def __init__(self, alpha: float, setting: Setting) -> None:
        self._alpha = alpha
        model = setting.tuned.model
        self._parameters = dict(model.named_parameters())
        self._start = setting.tuned.reference
        self._names: set[str] = set()
        self._statistics: dict[torch.Tensor, torch.Tensor] = {}
        if own := statistics(model):
            before = statistics(setting.origin())
            self._statistics = {own[name]: before[name] for name in own.keys() & before.keys()}

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._names.update(weight.name for weight in weights if weight.reference is not None)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        import torch

        pairs: dict[torch.Tensor, torch.Tensor] = {self._parameters[n]: self._start[n] for n in self._names}
        pairs |= self._statistics
        with swapped({w: torch.lerp(start, w.detach(), self._alpha) for w, start in pairs.items()}):
            yield

    def state(self) -> Mapping[str, Any]:
        return {"names": sorted(self._names)}

    def load(self, state: Mapping[str, Any]) -> None:
        self._names = set(state["names"])
