from __future__ import annotations

from typing import ClassVar

from harness.backbones.family import Family


class DebertaV2(Family):
    """Every block reads the relative-position embeddings, so they belong to the stem: were they on the last
    rung, where they stand, a frozen prefix would still change. The convolution of the large models stands
    behind the blocks too, and runs after the first one."""

    name: ClassVar[str] = "deberta-v2"

    def moved(self, name: str) -> int | None:
        if name.startswith(("encoder.rel_embeddings", "encoder.LayerNorm")):
            return 0
        return 1 if name.startswith("encoder.conv") else None


class Deberta(DebertaV2):
    name: ClassVar[str] = "deberta"
