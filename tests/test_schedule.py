"""The simulation of the schedule: bounds that hold for any, and what planner and pace say beside it."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_campaign import planned
from test_live import begin, end, held, look, saved, started

from harness import console
from harness.outline import count, predicted
from harness.plan import FIRST_CONFIRM_SEED
from harness.records.paths import ResultPaths


@pytest.fixture(scope="module")
def schedule() -> Any:
    """`benchmarks/cluster_schedule.py`, which is no module of the package."""
    path = Path(__file__).parent.parent / "benchmarks" / "cluster_schedule.py"
    found = importlib.util.spec_from_file_location("cluster_schedule", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["cluster_schedule"] = module
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("workers", [1, 7, 100])
def test_a_schedule_takes_what_the_work_takes_and_not_much_more(schedule: Any, workers: int) -> None:
    cells = schedule.sweep(2000, 10.0, cells=20)
    longest = max(length for cell in cells for length in (*cell.tune, *cell.confirm))
    found = schedule.simulate(cells, schedule.Cluster(workers, hand_out=0.0))
    even = schedule.predicted(cells, workers)
    # list scheduling: idle only at the end, and once more where the last cells wait to confirm
    assert even <= found.makespan + 1e-6 and found.makespan <= even + 2 * longest
    assert (found.lost, found.losses) == (0, 0)
    assert found.busy(workers) == pytest.approx(even / found.makespan)


def test_a_driver_cannot_be_outrun(schedule: Any) -> None:
    """Where trials are shorter than workers × hand-out, more workers gain nothing."""
    cells = schedule.sweep(2000, 1.0, cells=20)
    for workers in (200, 1000):
        found = schedule.simulate(cells, schedule.Cluster(workers, hand_out=0.02))
        assert 2000 * 0.02 <= found.makespan <= 2000 * 0.02 + 10


@pytest.mark.parametrize("checkpoint", [0.0, 60.0, 600.0])
def test_losses_cost_half_a_checkpoint_each(schedule: Any, checkpoint: float) -> None:
    cells = schedule.sweep(4000, 1200.0, cells=20, spread=0.0)
    found = schedule.simulate(cells, schedule.Cluster(50, 0.0, 7200.0, restart=300, checkpoint=checkpoint))
    assert found.losses == pytest.approx(4000 * 1200 / 7200, rel=0.15)
    assert found.lost == pytest.approx(found.losses * checkpoint / 2, rel=0.15, abs=1)
    down = found.losses * 300
    taken = found.work + found.lost + down
    assert taken * 0.99 <= found.makespan * 50 <= taken + 50 * (2 * 1200 + 300)  # idle ends of the phases


@pytest.mark.parametrize("workers", [1, 3])
def test_the_plans_prediction_is_what_the_schedule_takes(schedule: Any, workers: int) -> None:
    """`harness plan` divides FLOPs by rate and workers; the schedule of those same trials takes that, and
    at most the two ends of phases more."""
    plan = planned(
        optimizer={"learning_rate": {"grid": [1e-5 * step for step in range(1, 21)]}},
        strategies={"full": {"freeze": 0}, "half": {"freeze": 0.5}},
        seeds={"tune": 2, "confirm": 3},
    )
    rate = predicted(plan)["flops"] / 7200  # so that it is two hours of work
    cells = []
    for cell in plan.cells:
        tune = [trial.flops / rate for trial in plan.planned() if trial.cell == cell.id]
        last = plan.trial(cell, cell.space.default, FIRST_CONFIRM_SEED, "confirm").flops / rate
        cells.append(schedule.Cell(tune, [last] * len(plan.confirm_seeds)))
    assert sum(len(cell.tune) + len(cell.confirm) for cell in cells) == sum(count(plan).values())
    screen = io.StringIO()
    console.show_plan(Console(file=screen, width=200), plan, {"fp32": rate}, workers)
    said = re.search(r"about ([\d.]+) (s|min|h)", screen.getvalue())
    assert said is not None, screen.getvalue()
    seconds = float(said[1]) * {"s": 1, "min": 60, "h": 3600}[said[2]]
    found = schedule.simulate(cells, schedule.Cluster(workers, hand_out=0.0))
    longest = max(length for cell in cells for length in (*cell.tune, *cell.confirm))
    assert schedule.predicted(cells, workers) == pytest.approx(7200 / workers)
    assert seconds == pytest.approx(7200 / workers, rel=0.05)
    assert seconds * 0.95 <= found.makespan <= seconds * 1.05 + 2 * longest


@pytest.mark.parametrize("workers", [1, 4])
def test_the_pace_of_half_a_sweep_predicts_the_other_half(
    schedule: Any, workers: int, tmp_path: Path
) -> None:
    """`harness status` in the middle of a simulated sweep, against when the simulation ends."""
    rates = [1e-5 * step for step in range(1, 41)]
    plan = planned(
        optimizer={"learning_rate": {"grid": rates}}, strategies={"full": {"freeze": 0}},
        seeds={"tune": 1, "confirm": 4},
    )  # fmt: skip
    cells = [schedule.Cell([30.0] * 40, [30.0] * 4)]
    found = schedule.simulate(cells, schedule.Cluster(workers, hand_out=0.5))
    middle = found.ends[19]
    paths, now = ResultPaths(tmp_path / "results"), time.time()
    running = started(plan, paths)
    for at in found.ends[:20]:
        trial = running.campaign.next()
        assert trial is not None
        begin(paths, trial, now - (middle - at) - 30)
        end(running, trial, now - (middle - at), 30.0)
    saved(running)
    with held(paths, now - middle - 5):
        pace = look(paths, now).pace
    assert pace is not None
    low, high = pace.left
    left = found.makespan - middle
    # what is at work has done some of its work, at most a trial for each worker
    assert low * 0.95 <= left + 30 and left - 30 <= high * 1.05
    assert (low + high) / 2 == pytest.approx(left, rel=0.12)
