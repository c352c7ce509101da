from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting
from harness.strategies.base import GRADIENTS, Preset, Valued


class ChildTuningF(Valued):
    """Child-Tuning, task-free: in each step every gradient counts with probability p, `g ← g·m/p`,
    m ~ Bernoulli(p) for each weight, head included.

    The mask falls on the clipped gradient, before the optimiser's moments; weight decay, which is decoupled,
    goes on everywhere. The paper tunes p over 0.2, 0.3 and 0.4.
    """

    name: ClassVar[str] = "child-tuning-f"
    source: ClassVar[str] = "Xu, Luo, Zhang, Tan, Chang, Huang & Huang 2021, arXiv 2109.05687, §2.2"
    claims: ClassVar[frozenset[str]] = frozenset({GRADIENTS})
    presets: ClassVar[Mapping[str, Preset]] = {"child-tuning-f": Preset({"child-tuning-f": 0.3}, source)}

    p: float = Field(default=0.3, gt=0, le=1)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.p < 1 else None

    def bind(self, setting: Setting) -> Moments:
        return _Masks(self.p)


class _Masks(Moments):
    def __init__(self, p: float) -> None:
        self._p = p

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        import torch

        for group in groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    kept = torch.empty_like(weight.grad).bernoulli_(self._p)
                    weight.grad.mul_(kept.div_(self._p))
