"""Sections of a sweep file that have settings and nothing to choose: seeds, resources, racing."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from harness.registry import Plugin


class Seeds(Plugin):
    """How many seeds tune and confirm; `confirm: 0` skips the confirm phase."""

    name: ClassVar[str] = "seeds"

    tune: int = Field(default=1, ge=1, le=1000)
    confirm: int = Field(default=5, ge=0, le=1000)


class Resources(Plugin):
    """What one trial gets. None of this decides a trial's result, but the number of CPU threads.

    Attributes:
        cpus, gpus: reserved per trial; fractions share a device.
        concurrent: trials at a time at most; null: as many as fit.
        checkpoint_seconds: a trial saves its state after so many seconds.
        retries: how often a trial is started again after its worker was lost. A worker that is lost with its
            whole node does not count.
        silence_seconds: a worker whose training does not come round for so long hangs; it is ended, and lost.
        growth: so many times the resources of a trial may be reserved for it after it has run out of memory
            with one example at a time (a share of a GPU grows to the whole).
        share: whether trials share work: what frozen rungs give is computed once and kept, and trials that
            train the head alone run together.
        store_gb: what a machine may keep of that, in GB.
        checkpoint_gb: what the checkpoints of running and interrupted trials may take, in GB.
        bundle: trials that run together at most.
    """

    name: ClassVar[str] = "resources"

    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    concurrent: int | None = Field(default=None, ge=1)
    checkpoint_seconds: float = Field(default=60, ge=0)
    retries: int = Field(default=2, ge=0, le=100)
    silence_seconds: float = Field(default=1800, ge=1)
    growth: int = Field(default=1, ge=1, le=64)
    share: bool = True
    store_gb: float = Field(default=20, ge=0)
    checkpoint_gb: float = Field(default=100, ge=0)
    bundle: int = Field(default=64, ge=1)

    def reserved(self, times: int = 1) -> tuple[float, float]:
        """CPUs and GPUs of a trial that gets so many times its resources."""
        return reserved(self.cpus, self.gpus, times)

    def at_once(self, cores: int, devices: int = 0) -> int:
        """How many trials a machine of so many cores and GPUs holds at a time; one at least."""
        fits = [cores / self.cpus, *([devices / self.gpus] if self.gpus > 0 else [])]
        return max(1, int(min(*fits, self.concurrent or math.inf)))


def reserved(cpus: float, gpus: float, times: int) -> tuple[float, float]:
    """So many times the resources; what shares a GPU gets one at most."""
    return cpus * times, min(gpus * times, max(1.0, gpus))


class Racing(Plugin):
    """Racing across the cells of a task; a sweep without this section has none.

    Attributes:
        level: chance that a cell which would end in the tie set is raced out.
    """

    name: ClassVar[str] = "racing"

    level: float = Field(default=0.01, gt=0, lt=0.5)
