"""Layer-wise adaptive rates, as timm's optimisers have them."""

from __future__ import annotations

from typing import Any

# What is no matrix (biases, gains, shifts) takes the plain step, as in the authors' code.
_ADAPTED_DIMENSIONS = 2


def adapted(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, told which of them have adaptive rates, whether or not their weights decay."""
    return [
        {**group, "always_adapt": all(weight.ndim >= _ADAPTED_DIMENSIONS for weight in group["params"])}
        for group in groups
    ]
