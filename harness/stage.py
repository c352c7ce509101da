"""Stages: what trains when."""

from __future__ import annotations

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
        restart: before it, all weights are put back to what they were before the first stage.
        changed: the first rung that something has changed before training; None if all rungs are then as they
            were pretrained.
    """

    epochs: int
    frozen: int = 0
    upto: int | None = None
    head: bool = True
    sparse: bool = False
    restart: bool = False
    changed: int | None = None

    def trains(self, rung: int | None) -> bool:
        """Whether weights of a rung train; None is the head."""
        if rung is None:
            return self.head
        return self.frozen <= rung and (self.upto is None or rung < self.upto)

    def only_head(self, rungs: int) -> bool:
        """Whether nothing but the head trains, on a ladder of `rungs` rungs."""
        return self.head and self.frozen == rungs


def untouched(stages: Sequence[Stage]) -> list[int]:
    """For each stage, the rungs from the input that are as they were pretrained: neither it nor one before
    it, since the last restart, trains them."""
    found: list[int] = []
    for stage in stages:
        depth = stage.frozen if stage.changed is None else min(stage.frozen, stage.changed)
        found.append(depth if stage.restart or not found else min(depth, found[-1]))
    return found


def first_run(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages before the first restart; each run is like the first."""
    end = next((index for index, stage in enumerate(stages) if stage.restart), len(stages))
    return tuple(stages[:end])
