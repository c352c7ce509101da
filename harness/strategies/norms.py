from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.strategies.base import WHICH, Preset, Switch
from harness.strategies.normalisation import normalises
from harness.weights import Weight


class Norms(Switch):
    """Train the weights of normalisations of the rungs that train, and the head: gain γ and shift β of
    `γ·x̂ + β`, all else fixed.

    Normalisations are what is called so by its class or one that this derives from: LayerNorm, BatchNorm,
    GroupNorm, and the RMSNorm of each family. Running statistics of BatchNorm follow the data in rungs that
    train, as always. Zhao et al. train the LayerNorms of language models, Frankle et al. the BatchNorms of
    ResNets that are otherwise random. So few weights bear rates far above those of full
    fine-tuning.
    """

    name: ClassVar[str] = "norms"
    source: ClassVar[str] = (
        "Zhao, Tu, Wei, Mei & Xie 2024, arXiv 2312.11420 (LayerNorm); "
        "Frankle, Schwab & Morcos 2021, arXiv 2003.00152 (BatchNorm)"
    )
    claims: ClassVar[frozenset[str]] = frozenset({WHICH})
    only_rungs: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "norms": Preset({"norms": True, "optimizer": {"name": "adamw", "learning_rate": 1e-3}}, source)
    }

    def trains(self, weight: Weight) -> bool:
        return weight.rung is None or normalises(weight)
