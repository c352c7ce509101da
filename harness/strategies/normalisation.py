"""Which weights belong to a normalisation."""

from __future__ import annotations

from harness.weights import Weight


def normalises(weight: Weight) -> bool:
    """Whether a weight is a gain or a shift of LayerNorm, BatchNorm, GroupNorm, an RMSNorm, …: a vector of a
    module that is called so, or derives from what is."""
    if weight.value.ndim > 1 or weight.module is None:
        return False
    return any("norm" in kind.__name__.lower() for kind in type(weight.module).__mro__)
