"""Stages: what trains when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A stretch of training during which the same weights train: a band of the ladder, and the head.

    Attributes:
        epochs: its length.
        frozen: rungs of the ladder, counted from the input, that stay as they are.
        upto: the first rung above the band, which stays with all above it; None if the band ends the ladder.
        head: whether the head trains.
        sparse: only small parts of the band train; the gradients of its other weights are not computed.
    """

    epochs: int
    frozen: int = 0
    upto: int | None = None
    head: bool = True
    sparse: bool = False

    def trains(self, rung: int | None) -> bool:
        """Whether weights of a rung train; None is the head."""
        if rung is None:
            return self.head
        return self.frozen <= rung and (self.upto is None or rung < self.upto)

    def only_head(self, rungs: int) -> bool:
        """Whether nothing but the head trains, on a ladder of `rungs` rungs."""
        return self.head and self.frozen == rungs


def untouched(frozen: Sequence[int]) -> list[int]:
    """For each stage, given how many rungs each freezes, the rungs that neither it nor one before it trains:
    they are as they were before training."""
    return list(itertools.accumulate(frozen, min))
