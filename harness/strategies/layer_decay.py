from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.strategies.base import Preset, Valued


class LayerwiseDecay(Valued):
    """Layer-wise learning-rate decay: a rung that lies k below the top of the ladder trains at
    `learning_rate · decay^k`; the head at its own rate.

    `decay` is 0.95 for BERT (Zhang et al. 2021, after Clark et al. 2020, who use 0.8 for small models);
    1/2.6 gives the *discriminative fine-tuning* of Howard & Ruder 2018.
    """

    name: ClassVar[str] = "layer-decay"
    source: ClassVar[str] = (
        "Howard & Ruder 2018, arXiv 1801.06146, §3.2; Clark et al. 2020, arXiv 2003.10555; "
        "Zhang et al. 2021, arXiv 2006.05987"
    )
    only_rungs: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "layer-decay": Preset({"layer-decay": 0.95}, "Zhang et al. 2021, arXiv 2006.05987"),
        "discriminative": Preset({"layer-decay": 1 / 2.6}, "Howard & Ruder 2018, arXiv 1801.06146, §3.2"),
    }

    decay: float = Field(default=0.95, gt=0, le=1)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.decay < 1 else None

    def rate(self, rung: int | None, rungs: int) -> float:
        return 1.0 if rung is None else self.decay ** (rungs - 1 - rung)
