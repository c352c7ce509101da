from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Batch, Forward, Moments, Setting
from harness.strategies import losses as of_models
from harness.strategies.base import Preset, Valued


class LabelSmoothing(Valued):
    """Label smoothing: cross-entropy against `(1 − ε)·onehot(y) + ε/K` over K classes instead of `onehot(y)`.

    ε is 0.1 throughout the papers. In training only: the validation loss is the plain one. For every task
    whose models minimise a cross-entropy over classes, per example, word or pixel.
    """

    name: ClassVar[str] = "label-smoothing"
    source: ClassVar[str] = (
        "Szegedy et al. 2016, arXiv 1512.00567, §7; Müller, Kornblith & Hinton 2019, arXiv 1906.02629"
    )
    presets: ClassVar[Mapping[str, Preset]] = {"label-smoothing": Preset({"label-smoothing": 0.1}, source)}

    epsilon: float = Field(default=0.1, ge=0, lt=1)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.epsilon > 0 else None

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        return of_models.unless(losses, of_models.CLASSES)

    def bind(self, setting: Setting) -> Moments:
        return _Smoothing(self.epsilon)


class _Smoothing(Moments):
    def __init__(self, epsilon: float) -> None:
        self._epsilon = epsilon

    def forward(self, inner: Forward, batch: Batch) -> Any:
        with self._smoothed():
            return inner(batch)

    @contextmanager
    def _smoothed(self) -> Iterator[None]:
        def smooth(cross_entropy: Any, *args: Any, **kwargs: Any) -> Any:
            return cross_entropy(*args, **{**kwargs, "label_smoothing": self._epsilon})

        with of_models.instead((of_models.CLASSES,), smooth):
            yield
