"""Bands of the ladder that train one after the other."""

from __future__ import annotations

from dataclasses import replace

from harness.stage import Stage


def top_of(stage: Stage, rungs: int) -> int:
    """The first rung above the band that a stage trains."""
    return rungs if stage.upto is None else stage.upto


def head_alone(stage: Stage, rungs: int, epochs: int) -> Stage:
    """The stage with all rungs at rest."""
    return replace(stage, epochs=epochs, frozen=rungs, upto=None)


def edges(first: int, last: int, bands: int) -> list[int]:
    """Where bands of about equal size begin between two rungs, from the input, and at the end `last`; those
    at the top are the larger ones."""
    return [first + (last - first) * index // bands for index in range(bands + 1)]
