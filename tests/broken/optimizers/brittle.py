"""An optimiser that breaks where it is told to."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from harness.optimizers.base import Optimizer


class Brittle(Optimizer):
    """Plain gradient descent that raises in `hook`: `build` or `step`."""

    name: ClassVar[str] = "brittle-optimizer"

    hook: str

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.hook == "build":
            raise LookupError("broken in build")
        return _Brittle(groups)


class _Brittle(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise LookupError("broken in step")
