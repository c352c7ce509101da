"""What a model's forward pass takes of a batch."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any


def accepted(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a batch that a model's forward pass takes: not every detector reads a pixel mask, nor every
    encoder token types."""
    return {name: value for name, value in batch.items() if name in _parameters(type(model).forward)}


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
