"""What becomes of a bundle whose worker was lost: on what terms it is tried again, or what its trials are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from harness.errors import RunEndsError
from harness.plan import Trial
from harness.records.record import Brief, Status
from harness.sections import Resources
from harness.training.job import at_a_time
from harness.training.workspace import Terms

# Spot nodes come and go; a trial that takes every node down with it is to end nevertheless.
_NODES = 20
# So many lost workers before any said anything: none ever will.
_FRUITLESS = 4
# So many workers on nodes that do not see the results: whoever starts these nodes will go on.
_BLIND = 8
# What a worker says there.
NOT_SEEN = "this node does not see the results"


class NoWorkerError(RunEndsError):
    """Workers are lost again and again before they train anything: not the trials are at fault."""


Again = tuple[list[Trial], Terms]
"""A bundle, and on what terms it is tried."""


class Cause(Enum):
    """Why a worker was lost."""

    MEMORY = "it ran out of memory"
    NODE = "its node was lost"
    BLIND = "its node does not see the results"
    HANG = "it hung"
    DEATH = "it died"


# What Ray says of each, for which it has no other sign. A worker that cannot be reached any more is one whose
# node Ray does not know to be lost yet.
_SAID = {
    Cause.BLIND: (NOT_SEEN,),
    Cause.MEMORY: ("OutOfMemoryError", "low on memory"),
    Cause.NODE: (
        "node has died",
        "node died",
        "node was terminated",
        "node is dead",
        "may or may not have been executed",
        "preempt",
    ),
}


def cause(reason: str, hung: bool) -> Cause:
    """From what Ray says of an actor's end."""
    if hung:
        return Cause.HANG
    found = (why for why, words in _SAID.items() if any(said in reason for said in words))
    return next(found, Cause.DEATH)


class Losses:
    """Counts them, trial by trial, and decides."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._counted: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        self._fruitless = 0
        self._blind = 0

    def heard(self) -> None:
        """A worker has trained something."""
        self._fruitless = -1
        self._blind = 0

    def lost(self, trials: Sequence[Trial], terms: Terms, why: Cause, reason: str) -> list[Again] | Status:
        """On what terms the trials are tried again, or how they have ended.

        Raises: NoWorkerError if no worker comes up, or too many where they cannot work.
        """
        if why is Cause.BLIND:
            self._blind += 1
            if self._blind >= _BLIND:
                raise NoWorkerError(f"{self._blind} workers came up where they cannot work: {reason}")
            return [(list(trials), terms)]
        if why is Cause.NODE:
            self._nodes.update(trial.trial_id for trial in trials)
            if max(self._nodes[trial.trial_id] for trial in trials) <= _NODES:
                return [(list(trials), terms)]
            return "failed"
        if self._fruitless >= 0 and why is Cause.DEATH:
            self._fruitless += 1
            if self._fruitless >= _FRUITLESS:
                raise NoWorkerError(
                    f"{self._fruitless} workers were lost before they trained anything: {reason}"
                )
        self._counted.update(trial.trial_id for trial in trials)
        count = max(self._counted[trial.trial_id] for trial in trials)
        terms = replace(terms, lost=terms.lost + 1)
        if len(trials) > 1:  # nobody knows which of them it was
            return [([trial], terms) for trial in trials]
        if why is Cause.MEMORY or (why is Cause.DEATH and count > 1):  # Linux kills what is too large, too
            smaller = self.smaller(trials[0], terms)
            if why is Cause.MEMORY and smaller is None:
                return "infeasible"
            terms = smaller or terms
        if why is not Cause.MEMORY and count > self._resources.retries:
            return "failed"
        return [(list(trials), terms)]

    def smaller(self, trial: Trial, terms: Terms) -> Terms | None:
        """Fewer examples at a time, then more resources; None if neither is left."""
        settings = trial.recipe["training"]
        if at_a_time(settings["batch_size"], settings["accumulation"], terms.halvings) > 1:
            return replace(terms, halvings=terms.halvings + 1)
        return self.larger(terms)

    def larger(self, terms: Terms) -> Terms | None:
        """More resources, if they are allowed."""
        times = min(2 * terms.times, self._resources.growth)
        return replace(terms, halvings=0, times=times) if times > terms.times else None


def outgrown(record: Brief, resources: Resources) -> bool:
    """Whether a trial that was out of memory may get more than it had."""
    had = record.get("resources")
    return (
        record["status"] == "infeasible"
        and had is not None
        and resources.reserved(resources.growth)[0] > had["cpus"]
    )
