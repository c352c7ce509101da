"""How fast the trials of a sweep end, and how long the rest takes at that.

Only the present run counts: what earlier runs did, and for how long nobody ran the sweep, says nothing of it.
Work is counted in seconds of trials' own time (`wall_s`), so that it does not matter how many run at once, or
together in a bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import fmean

from harness.records.reader import Reader

# The pace is that of so many trials that ended last.
RECENT = 200
# How trials end whose time says what others will take.
_TYPICAL = ("finished", "stopped", "diverged")


@dataclass(frozen=True)
class Pace:
    """Attributes:
    a_minute: trials that end in a minute.
    left: seconds until the plan is done, from and to.
    """

    a_minute: float
    left: tuple[float, float]


def pace(
    read: Reader,
    unsettled: Collection[str],
    running: Iterable[tuple[str, str]],
    since: float,
    start: float,
    now: float,
) -> Pace | None:
    """The pace of the run that is at work; None as long as no trial has ended in it.

    Args:
        unsettled: ids of the cells that get more trials.
        running: cell and phase of each trial at work.
        since: when the run began; `start`: when its first trial did; `now`: all in seconds since the epoch.
    """
    ends = sorted((ended for ended in read.ended.values() if ended.at >= since), key=lambda ended: ended.at)
    recent = ends[-RECENT:]
    if len(recent) < len(ends):
        start = ends[-RECENT - 1].at
    # of a trial that an earlier run began, what this run did
    work = sum(min(ended.wall_s, max(0.0, ended.at - start)) for ended in recent)
    if work <= 0:
        return None
    elapsed = max(recent[-1].at - start, 1e-3)
    costs = _costs(read)
    at_work = [_cost(costs, *trial) for trial in running]
    low, high = _owed(read, unsettled, since, costs)
    # What runs has done some of its work, which the rate does not see: little, once many trials have ended.
    slow, fast = work / elapsed, work / elapsed * (1 + len(at_work) / len(recent))
    idle = max(0.0, now - recent[-1].at)
    low -= min(idle * slow, sum(cost[0] for cost in at_work))
    high -= min(idle * slow, sum(cost[1] for cost in at_work))
    return Pace(60 * len(recent) / elapsed, (max(0.0, low) / fast, max(0.0, high) / slow))


def _owed(
    read: Reader, unsettled: Collection[str], since: float, costs: dict[tuple[str, str], float]
) -> tuple[float, float]:
    """Seconds of trials' own time that the plan still owes, from and to."""
    confirm = int(read.plan["seeds"]["confirm"])
    counted: set[str] = set()

    def owed(ids: Iterable[str]) -> int:
        """How many of these have not ended; each is counted once, however many cells share it."""
        new = {
            trial_id
            for trial_id in ids
            if (ended := read.ended.get(trial_id)) is None
            or (ended.status == "failed" and ended.at < since)  # is tried again
        } - counted
        counted.update(new)
        return len(new)

    low = high = 0.0
    for planned in read.plan["cells"]:
        cell = str(planned["id"])
        if cell not in unsettled:
            continue
        listed = read.cells[cell]
        known, unknown = read.to_come(planned)
        tune = owed(trial_id for trial_id, _ in listed.tune) + owed(known) + unknown
        last = owed(listed.confirm) + max(0, confirm - len(listed.confirm))
        for count, phase in ((tune, "tune"), (last, "confirm")):
            cost = _cost(costs, cell, phase)
            low, high = low + count * cost[0], high + count * cost[1]
    return low, high


def _costs(read: Reader) -> dict[tuple[str, str], float]:
    """Mean seconds of the trials that ended, by cell and phase."""
    means = {}
    for cell, listed in read.cells.items():
        for phase, ids in (("tune", [trial_id for trial_id, _ in listed.tune]), ("confirm", listed.confirm)):
            ended = [read.ended[trial_id] for trial_id in ids if trial_id in read.ended]
            if walls := [trial.wall_s for trial in ended if trial.status in _TYPICAL]:
                means[cell, phase] = fmean(walls)
    return means


def _cost(costs: dict[tuple[str, str], float], cell: str, phase: str) -> tuple[float, float]:
    """What a trial takes, from and to: where none of its cell has ended, as in the cheapest cell, and as in
    the dearest."""
    for known in ((cell, phase), (cell, "tune")):
        if known in costs:
            return costs[known], costs[known]
    return min(costs.values(), default=0.0), max(costs.values(), default=0.0)
