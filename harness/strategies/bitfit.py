from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.strategies.base import WHICH, Preset, Switch
from harness.weights import Weight


class BitFit(Switch):
    """Train the bias terms of the rungs that train, and the head: `y = W⁰x + b`, W⁰ fixed.

    Biases are the vectors that modules call `bias`, those of normalisations among them (0.1 % of BERT's
    weights). The paper tunes learning rates of 1e-4 to 1e-3, above those of full fine-tuning.
    """

    name: ClassVar[str] = "bitfit"
    source: ClassVar[str] = "Ben Zaken, Ravfogel & Goldberg 2022, arXiv 2106.10199"
    claims: ClassVar[frozenset[str]] = frozenset({WHICH})
    only_rungs: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "bitfit": Preset({"bitfit": True, "optimizer": {"name": "adamw", "learning_rate": 4e-4}}, source)
    }

    def trains(self, weight: Weight) -> bool:
        return weight.rung is None or weight.own_name == "bias"
