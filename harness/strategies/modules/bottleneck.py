"""A bottleneck after a block."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from harness.errors import bad

NAME = "bottleneck"
# Whose outputs have their features in the second dimension.
_CHANNELS = (nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


class Bottleneck(nn.Module):
    """`h + W₂·ReLU(W₁h + b₁) + b₂` over the features of h, which are its last dimension or, behind
    convolutions, its second. W₂ = 0 and b = 0 at the start, when it does nothing."""

    def __init__(self, width: int, inner: int, second: bool, owner: str) -> None:
        """Args: `second`: where both could be, the features are the second dimension; `owner` names it in
        errors."""
        super().__init__()
        self.width, self.second, self.owner = width, second, owner
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        axes = [axis for axis in ((1, -1) if self.second else (-1, 1)) if hidden.shape[axis] == self.width]
        if not axes:
            shape = tuple(hidden.shape)
            raise bad(
                "adapter", f"what leaves {self.owner} is of shape {shape}, without {self.width} features"
            )
        moved = hidden.movedim(axes[0], -1)
        change: torch.Tensor = self.up(functional.relu(self.down(moved)))
        return hidden + change.movedim(-1, axes[0]).to(hidden.dtype)

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
    last = rung.last
    name, weight = list(last.named_parameters())[-1]
    module = last.get_submodule(name.rpartition(".")[0])
    # of the last weights of a block, in the order in which they are defined, a bias tells the width, too
    width = weight.shape[-1] if isinstance(module, Conv1D) else weight.shape[0]
    made = Bottleneck(
        width, max(1, int(width / reduction)), isinstance(module, _CHANNELS), f"rung {rung.name}"
    )
    # a sequence would run what it holds
    holder = next(each for each in rung.blocks[0].modules() if not isinstance(each, nn.Sequential))
    holder.add_module(NAME, made.to(weight.device))
    last.register_forward_hook(made.after)
