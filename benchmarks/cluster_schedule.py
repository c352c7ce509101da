"""How long a sweep takes on many workers: a simulation of the schedule, beside the planner's prediction.

    python benchmarks/cluster_schedule.py                          # the table of docs/scale.md
    python benchmarks/cluster_schedule.py --trials 20000 --seconds 60 --workers 200

What is simulated: a driver that hands out one trial after the other; workers that take them; cells whose
confirm trials wait for their tune trials; workers that are lost (spot), start again and carry on from the
last checkpoint; trials that take longer than others. What is not: the network, the storage, a scheduler that
stops trials early.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

# Measured (docs/performance.md): what the driver takes for a trial, in seconds.
HAND_OUT = 0.017


@dataclass(frozen=True)
class Cell:
    """Seconds of each of a cell's trials; `confirm` begins when all of `tune` has ended."""

    tune: Sequence[float]
    confirm: Sequence[float] = ()


@dataclass(frozen=True)
class Cluster:
    """Attributes:
    workers: trials at a time.
    hand_out: seconds of the driver for each trial.
    lifetime: mean seconds until a worker is lost; infinite where none is.
    restart: seconds until another one is there and has imported everything.
    checkpoint: seconds between two checkpoints of a trial.
    """

    workers: int
    hand_out: float = HAND_OUT
    lifetime: float = float("inf")
    restart: float = 300.0
    checkpoint: float = 60.0


@dataclass(frozen=True)
class Schedule:
    """Seconds: until each trial ends, in order; of work that counts; of work that was done and lost."""

    ends: tuple[float, ...]
    work: float
    lost: float
    losses: int

    @property
    def makespan(self) -> float:
        return self.ends[-1]

    def busy(self, workers: int) -> float:
        """The share of the workers' time that went into work that counts."""
        return self.work / (self.makespan * workers)


def simulate(cells: Sequence[Cell], cluster: Cluster, seed: int = 0) -> Schedule:
    """Run the schedule: cells in their order, whatever of them can begin; what a lost worker had, first."""
    rng = random.Random(seed)
    queues = [list(reversed(cell.tune)) for cell in cells]
    owed = [len(cell.tune) for cell in cells]  # tune trials that have not ended
    tuning = [True] * len(cells)
    again: list[tuple[int, float]] = []  # (cell, seconds left) of trials whose worker was lost
    first = 0  # cells before it have nothing to hand out any more
    free = [(0.0, worker) for worker in range(cluster.workers)]
    ends: list[tuple[float, int, int, int, float]] = []  # (when, order, worker, cell, seconds left)
    order = itertools.count()
    ended: list[float] = []
    driver = lost = 0.0
    losses = 0

    def take(now: float) -> tuple[int, float] | None:
        nonlocal first
        if again:
            return again.pop()
        while first < len(cells) and not queues[first] and not tuning[first]:
            first += 1
        for index in range(first, len(cells)):
            if queues[index]:
                return index, queues[index].pop()
        return None

    waiting: list[int] = []  # workers that found nothing to do
    while free or ends:
        # the next thing to happen: a worker that asks, or a trial that ends
        if free and (not ends or free[0][0] <= ends[0][0]):
            now, worker = heapq.heappop(free)
            found = take(now)
            if found is None:
                waiting.append(worker)
                continue
            cell, left = found
            driver = start = max(now, driver) + cluster.hand_out
            lives = rng.expovariate(1.0) * cluster.lifetime
            if lives < left:
                saved = lives - lives % cluster.checkpoint if cluster.checkpoint > 0 else lives
                lost, losses = lost + lives - saved, losses + 1
                heapq.heappush(ends, (start + lives, next(order), worker, cell, left - saved))
            else:
                heapq.heappush(ends, (start + left, next(order), worker, cell, 0.0))
            continue
        now, _, worker, cell, left = heapq.heappop(ends)
        if left > 0:
            again.append((cell, left))
            heapq.heappush(free, (now + cluster.restart, worker))
        else:
            ended.append(now)
            heapq.heappush(free, (now, worker))
            if tuning[cell]:
                owed[cell] -= 1
                if owed[cell] == 0:
                    tuning[cell] = False
                    queues[cell] = list(reversed(cells[cell].confirm))
        while waiting:
            heapq.heappush(free, (now, waiting.pop()))
    work = sum(sum(cell.tune) + sum(cell.confirm) for cell in cells)
    return Schedule(tuple(ended), work, lost, losses)


def predicted(cells: Sequence[Cell], workers: int) -> float:
    """What `harness plan` says: all work, evenly on all workers."""
    return sum(sum(cell.tune) + sum(cell.confirm) for cell in cells) / workers


def sweep(trials: int, seconds: float, cells: int = 100, confirm: int = 5, spread: float = 0.3) -> list[Cell]:
    """So many trials in all, of so many seconds on average; lengths are lognormal with that spread."""
    rng = random.Random(0)

    def lengths(count: int) -> list[float]:
        return [seconds * rng.lognormvariate(-(spread**2) / 2, spread) for _ in range(count)]

    return [Cell(lengths(trials // cells - confirm), lengths(confirm)) for _ in range(cells)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, nargs="*", default=[5, 20, 60, 600])
    parser.add_argument("--workers", type=int, nargs="*", default=[8, 100, 1000])
    parser.add_argument("--hand-out", type=float, default=HAND_OUT, help="seconds of the driver per trial")
    chosen = parser.parse_args()
    print("seconds workers | predicted h | driver h | with the driver h, busy | on spot (2 h) h, busy, lost")
    for seconds in chosen.seconds:
        cells = sweep(chosen.trials, seconds)
        for workers in chosen.workers:
            plain = simulate(cells, Cluster(workers, chosen.hand_out))
            spot = simulate(cells, Cluster(workers, chosen.hand_out, lifetime=7200))
            print(
                f"{seconds:7g} {workers:7d} | {predicted(cells, workers) / 3600:9.2f} |"
                f" {chosen.trials * chosen.hand_out / 3600:6.2f} |"
                f" {plain.makespan / 3600:8.2f} {plain.busy(workers):5.0%} |"
                f" {spot.makespan / 3600:8.2f} {spot.busy(workers):5.0%} {spot.lost / spot.work:5.1%}"
            )


if __name__ == "__main__":
    main()
