"""A bottleneck after a block."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from harness.errors import bad
from harness.strategies.features import Outlet, outlet

NAME = "bottleneck"


class Bottleneck(nn.Module):
    """`h + W₂·ReLU(W₁h + b₁) + b₂` over the channels of h. W₂ = 0 and b = 0 at the start, when it does
    nothing."""

    def __init__(self, outlet: Outlet, inner: int, owner: str) -> None:
        """Args: `owner` names what h leaves in errors."""
        super().__init__()
        self.outlet, self.owner = outlet, owner
        self.down, self.up = nn.Linear(outlet.width, inner), nn.Linear(inner, outlet.width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        axis = self.outlet.axis(hidden)
        if hidden.shape[axis] != self.outlet.width:
            reason = f"is of shape {tuple(hidden.shape)}, without {self.outlet.width} channels"
            raise bad("adapter", f"what leaves {self.owner} {reason}")
        moved = hidden.movedim(axis, -1)
        change: torch.Tensor = self.up(functional.relu(self.down(moved)))
        return hidden + change.movedim(-1, axis).to(hidden.dtype)

    def after(self, block: nn.Module, args: Any, output: Any) -> Any:
        """The hook of a block: the first of what it gives passes through."""
        if isinstance(output, torch.Tensor):
            return self(output)
        if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
            return type(output)((self(output[0]), *output[1:]))
        raise bad("adapter", f"{self.owner} gives a {type(output).__name__}, not a tensor")


def put_after(rung: Any, reduction: float) -> None:
    """What leaves the last of a rung's modules passes through a bottleneck of its width / `reduction`
    features, which the first of them holds: where families group modules by their weights, a rung begins with
    what has a matrix."""
    found = outlet(rung)
    made = Bottleneck(found, max(1, int(found.width / reduction)), f"rung {rung.name}")
    # a sequence would run what it holds
    holder = next(each for each in rung.blocks[0].modules() if not isinstance(each, nn.Sequential))
    holder.add_module(NAME, made.to(next(holder.parameters()).device))
    rung.last.register_forward_hook(made.after)
