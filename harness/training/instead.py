"""Another forward pass in place of a module's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def stand_in(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Let `forward` run in place of the module's own, on this instance alone: its class, names, weights and
    attributes stay what they are. What is returned gives back what was there before."""
    own = vars(module).get("forward")
    module.forward = forward

    def give_back() -> None:
        if own is None:
            del module.forward
        else:
            module.forward = own

    return give_back
