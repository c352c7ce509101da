"""Sweeps on Ray: the same results as in process, faults that stop nothing, kills that lose nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import outcome, records, start, wait_for, word_task

from harness.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_sweep_on_ray(sweep: Any, words_csv: Path, tmp_path: Path, capfd: Any) -> None:
    """One sweep with everything in it, since starting Ray is what takes time here:

    - a trial gives the same result as with `--local`, in whatever order and beside whatever it ran;
    - one that raises, one that goes non-finite, one that runs out of memory and one whose worker is killed
      leave the sweep running and get the right status;
    - two tasks on different metric scales are stopped by their own ASHA;
    - every cell spends its budget and no more;
    - trials run in the processes that Ray started before there was a job, which have imported what they need.
    """
    marker, log, process = tmp_path / "killed", tmp_path / "log", tmp_path / "process"
    fault = {"name": "fault", "log": str(log), "process": str(process)}
    path = sweep(
        tasks=[
            word_task(words_csv, metrics=["percent"]),
            word_task(words_csv, "others", metrics=["accuracy"], split_seed=1),
        ],
        training={"epochs": 4, "batch_size": 8, "max_length": 16},
        optimizer={"learning_rate": {"grid": [3e-3, 1e-8, 1e-2, 2e-8]}},
        strategies={
            "full": {"freeze": 0},
            "raises": {
                "optimizer": {"learning_rate": 1e-3},
                "regularizer": {**fault, "what": "raise", "at": 3},
            },
            "diverges": {
                "optimizer": {"learning_rate": 1e-3},
                "regularizer": {**fault, "what": "nan", "at": 10},
            },
            "too-large": {"optimizer": {"learning_rate": 1e-3}, "regularizer": {**fault, "what": "oom"}},
            "killed": {
                "optimizer": {"learning_rate": 1e-3},
                "regularizer": {**fault, "what": "kill", "at": 20, "marker": str(marker)},
            },
        },
        search={"algorithm": "grid", "scheduler": {"name": "asha", "grace": 1, "reduction": 2}},
        seeds={"tune": 1, "confirm": 2},
        resources={"cpus": 1, "checkpoint_seconds": 0},
    )
    assert main(["run", str(path), "--results", str(tmp_path / "ray")]) == 3
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
    assert "f" * 8 in process.read_text().split()  # no job's
    found = records(tmp_path / "ray" / "small")
    plan = json.loads((tmp_path / "ray" / "small" / "plan.json").read_text())
    tuned = Counter((r["task"], r["strategy"]) for r in found.values() if r["phase"] == "tune")
    assert tuned == {(cell["task"], cell["strategy"]): cell["budget"] for cell in plan["cells"]}

    statuses: dict[str, Counter[str]] = {}
    for record in found.values():
        statuses.setdefault(record["strategy"], Counter())[record["status"]] += 1
    assert statuses["raises"] == {"failed": 2}
    assert statuses["diverges"] == {"diverged": 2}
    assert statuses["too-large"] == {"infeasible": 2}
    assert statuses["killed"] == {"finished": 2 * (1 + 2)} and marker.exists()
    assert any(r["attempts"] == 2 for r in found.values() if r["strategy"] == "killed")  # from its checkpoint

    assert statuses["full"]["finished"] >= 2 * (1 + 2) and statuses["full"]["stopped"] >= 2
    for task, metric in (("words", "percent"), ("others", "accuracy")):
        cell = [r for r in found.values() if (r["task"], r["strategy"], r["phase"]) == (task, "full", "tune")]
        early = {r["trial_id"]: r["curve"][0]["validation"][metric] for r in cell}
        assert any(r["status"] == "stopped" for r in cell)
        assert any(r["status"] == "finished" for r in cell if early[r["trial_id"]] == max(early.values()))

    # The same sweep in this process, one trial after the other. Which trials ASHA stops depends on their
    # order of arrival, so what both ran to its end is compared.
    assert main(["run", str(path), "--results", str(tmp_path / "local"), "--local"]) == 3
    alone = records(tmp_path / "local" / "small")
    both = [
        trial for trial in found.keys() & alone.keys()
        if found[trial]["status"] == alone[trial]["status"] != "stopped"
    ]  # fmt: skip
    assert len(both) >= 12
    for trial in both:
        assert outcome(found[trial]) == outcome(alone[trial]), found[trial]["strategy"]


@pytest.fixture
def slow_sweep(sweep: Any) -> Any:
    """Twelve trials of about a second."""
    regularizer = {"name": "fault", "seconds": 0.06}
    return sweep(
        optimizer={"learning_rate": {"grid": [1e-3, 2e-3, 3e-3]}},
        baseline=None,
        strategies={"a": {"regularizer": regularizer}, "b": {"freeze": 2, "regularizer": regularizer}},
        resources={"cpus": 1, "checkpoint_seconds": 0},
    )


def kill_and_carry_on(
    path: Path, results: Path, rounds: int, moment: Callable[[random.Random, int], None], *more: str
) -> None:
    """SIGKILL so many times, then run to the end: exactly the planned records, none written twice.

    Args:
        moment: starts a run, waits, kills it.
    """
    folder = results / "small"
    seed = int(os.environ.get("HARNESS_TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    finished: dict[str, int] = {}
    for _ in range(rounds):
        moment(rng, len(finished))
        for trial in (folder / "trials").glob("[!.]*.json"):
            stamp = trial.stat().st_mtime_ns
            assert finished.setdefault(trial.stem, stamp) == stamp, f"seed {seed}"
    process = start(path, results, *more)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, f"seed {seed}\n{said}"
    after = {trial.stem: trial.stat().st_mtime_ns for trial in (folder / "trials").glob("[!.]*.json")}
    assert {key: after[key] for key in finished} == finished, f"seed {seed}"
    cells = [json.loads(cell.read_text()) for cell in (folder / "cells").glob("*.json")]
    planned = {entry["trial_id"] for cell in cells for phase in ("tune", "confirm") for entry in cell[phase]}
    assert set(after) == planned, f"seed {seed}"
    assert all(record["status"] == "finished" for record in records(folder).values())
    assert not list((folder / "checkpoints").glob("*.pt"))


@pytest.mark.long
def test_a_driver_killed_at_random_moments_loses_nothing(slow_sweep: Any, tmp_path: Path) -> None:
    def moment(rng: random.Random, finished: int) -> None:
        process = start(slow_sweep, tmp_path / "results")
        wait_for(process, tmp_path / "results" / "small", finished + rng.randint(1, 3))
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        process.communicate()
        time.sleep(2)  # its workers notice

    kill_and_carry_on(slow_sweep, tmp_path / "results", 2, moment)
    assert len(records(tmp_path / "results" / "small")) == 2 * (3 + 3)


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("rounds", "more"), [(30, []), (70, ["--local"])])
def test_a_hundred_kills(sweep: Any, tmp_path: Path, rounds: int, more: list[str]) -> None:
    """At any moment, start-up and the writing of files among them. A trial that takes longer than there is
    between two kills is done in the end: it goes on from its checkpoint."""
    regularizer = {"name": "fault", "seconds": 0.03}
    strategies = {
        name: {"freeze": depth, "regularizer": regularizer}
        for depth, name in enumerate(["full", "top", "half"])
    }
    strategies["long"] = {"training": {"epochs": 8}, "regularizer": {"name": "fault", "seconds": 0.2}}
    path = sweep(
        optimizer={"learning_rate": {"grid": [1e-3 * n for n in range(1, 6 if more else 8)]}},
        baseline=None,
        strategies=strategies,
        seeds={"tune": 1, "confirm": 1},
        resources={"cpus": 1, "checkpoint_seconds": 0},
    )

    def moment(rng: random.Random, finished: int) -> None:
        process = start(path, tmp_path / "results", *more)
        # most of the time something is trained by then; 5 and 12 seconds are what a start takes here
        time.sleep(rng.uniform(0, 7 if more else 14))
        process.kill()
        process.communicate()

    kill_and_carry_on(path, tmp_path / "results", rounds, moment, *more)


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.chaos)])
def test_an_interrupt_leaves_a_resumable_state_and_says_how(
    slow_sweep: Any, tmp_path: Path, sent: int
) -> None:
    path = slow_sweep
    folder = tmp_path / "results" / "small"
    process = start(path, tmp_path / "results")
    wait_for(process, folder, 2)
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Carry on with" in said and f"harness run {path}" in said and "Traceback" not in said
    kept = set(records(folder))
    assert 2 <= len(kept) < 12
    from harness.records.lock import hold
    from harness.records.paths import ResultPaths

    with hold(ResultPaths(folder)):
        pass  # nobody holds it any more


@pytest.mark.long
def test_a_running_cluster_is_used_and_its_nodes_are_looked_at(
    sweep: Any, tmp_path: Path, capsys: Any
) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        one = {"strategies": {"full": {"freeze": 2}}, "baseline": None, "seeds": {"tune": 1, "confirm": 0}}
        path = sweep(**one, resources={"cpus": 64})
        arguments = ["run", str(path), "--results", str(tmp_path / "results"), "--address", cluster.address]
        assert main(arguments) == 2
        assert "no node holds a trial of 64 CPUs" in capsys.readouterr().err
        sweep(**one, resources={"cpus": 0.5, "concurrent": 1})
        assert main(arguments) == 0
        assert len(records(tmp_path / "results" / "small")) == 2
    finally:
        cluster.shutdown()
