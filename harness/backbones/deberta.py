from __future__ import annotations

from typing import ClassVar

from harness.backbones.family import Family


class DebertaV2(Family):
    """Every block reads the relative-position embeddings, so they belong to the stem: were they on the last
    rung, where they stand, a frozen prefix would still change."""

    name: ClassVar[str] = "deberta-v2"

    def moved(self, name: str) -> int | None:
        return 0 if name.startswith(("encoder.rel_embeddings", "encoder.LayerNorm")) else None


class Deberta(DebertaV2):
    name: ClassVar[str] = "deberta"
