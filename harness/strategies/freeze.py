from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import field_validator
from typing_extensions import Self

from harness.stage import Stage
from harness.strategies.base import Preset, Valued

# A rate for a head on frozen features: an order above full fine-tuning's, as linear probes use it.
_PROBE_RATE = 1e-3
# What the recipes of BERT have in common beside rate and decay.
_BERT = {"batch_size": 16, "warmup": 0.1, "schedule": "linear", "clip": 1.0}


class Freeze(Valued):
    """Freeze the ladder from the input up to a depth; the rest and the head train.

    `freeze: k` freezes the first k rungs (rung 0 = embeddings or stem), a fraction f in [0, 1] freezes
    that part of the ladder (rounded half up), `all` leaves only the head. Frozen rungs run in eval mode,
    without gradient: their dropout is off and their running statistics stay.
    """

    name: ClassVar[str] = "freeze"
    source: ClassVar[str] = (
        "Lee, Tang & Lin 2019, arXiv 1911.03090 (depth); Yosinski et al. 2014, arXiv 1411.1792"
    )
    presets: ClassVar[Mapping[str, Preset]] = {
        "full": Preset(
            {"freeze": 0}, "Devlin et al. 2019, arXiv 1810.04805; Mosbach et al. 2021, arXiv 2006.04884"
        ),
        "mosbach": Preset(
            {
                "freeze": 0,
                "optimizer": {"name": "adamw", "learning_rate": 2e-5, "epsilon": 1e-6},
                "training": {**_BERT, "epochs": 20},
            },
            "Mosbach, Andriushchenko & Klakow 2021, arXiv 2006.04884, and the settings in their code",
        ),
        "bert-original": Preset(
            {
                "freeze": 0,
                "optimizer": {
                    "name": "adamw",
                    "learning_rate": 2e-5,
                    "epsilon": 1e-6,
                    "bias_correction": False,
                },
                "training": {**_BERT, "epochs": 3},
            },
            "Devlin et al. 2019, arXiv 1810.04805: BERTAdam, as Mosbach et al. 2021 take it for a baseline",
        ),
        "head-only": Preset(
            {"freeze": "all", "optimizer": {"name": "adamw", "learning_rate": _PROBE_RATE}},
            "linear probe: Kumar et al. 2022, arXiv 2202.10054",
        ),
        "top-quarter": Preset(
            {"freeze": 0.75}, "Lee, Tang & Lin 2019, arXiv 1911.03090: 90 % of the quality"
        ),
    }

    bundles: ClassVar[bool] = True

    depth: int | float | str = 0

    @field_validator("depth", mode="before")
    @classmethod
    def _depth_or_all(cls, value: Any) -> Any:
        if isinstance(value, bool) or not (isinstance(value, (int, float)) or value == "all"):
            raise ValueError(f"takes a number of rungs, a fraction of the ladder or 'all', not {value!r}")
        return value

    def reason_against(self, rungs: int) -> str:
        if isinstance(self.depth, str):
            return ""
        if isinstance(self.depth, float) and not 0 <= self.depth <= 1:
            return f"a fraction of the ladder lies in [0, 1], unlike {self.depth}; a depth is a whole number"
        if self.depth < 0:
            return f"a depth is not negative ({self.depth})"
        if isinstance(self.depth, int) and self.depth > rungs:
            return f"freezes {self.depth} rungs, and the ladder has {rungs}; 'all' freezes every rung"
        return ""

    def rungs_frozen(self, rungs: int) -> int:
        if isinstance(self.depth, str):
            return rungs
        if isinstance(self.depth, float):
            return int(self.depth * rungs + 0.5)
        return self.depth

    def canonical(self, rungs: int) -> Self | None:
        frozen = self.rungs_frozen(rungs)
        return self.model_copy(update={"depth": "all" if frozen == rungs else frozen}) if frozen else None

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        frozen = self.rungs_frozen(rungs)
        return tuple(replace(stage, frozen=max(stage.frozen, frozen)) for stage in stages)
