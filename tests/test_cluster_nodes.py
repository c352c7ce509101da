"""A sweep on several nodes: what it comes to does not depend on where its trials ran."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import outcome, records, start, wait_for
from nodes import nodes

from harness.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.chaos
def test_two_nodes_give_the_records_of_one_process(sweep: Any, tmp_path: Path) -> None:
    """With more trials asked for than there is room: that is what makes a cluster grow."""
    path = sweep(
        optimizer={"learning_rate": {"grid": [1e-3, 3e-3, 1e-2]}},
        strategies={
            "full": {"freeze": 0},
            "top": {"freeze": 2, "regularizer": {"name": "fault", "meet": str(tmp_path / "met")}},
        },
        seeds={"tune": 1, "confirm": 2},
        resources={
            "cpus": 1,
            "share": False,
            "concurrent": 4,
        },  # whether it pays is measured, and shared work may round otherwise
    )
    with nodes(1, 1) as cluster:
        arguments = ["--results", str(tmp_path / "cluster"), "--address", cluster.address]
        assert main(["run", str(path), *arguments]) == 0
        for node in cluster.all:  # each encodes the data for itself
            assert list(node.cache.glob("encoded/*")), node.folder
    assert main(["run", str(path), "--results", str(tmp_path / "local"), "--local"]) == 0
    apart, alone = records(tmp_path / "cluster" / "small"), records(tmp_path / "local" / "small")
    assert apart.keys() == alone.keys() and len(apart) == 2 * (3 + 2)
    for trial, record in apart.items():
        assert outcome(record) == outcome(alone[trial]), record["strategy"]


@pytest.mark.chaos
def test_a_node_that_is_lost_and_one_that_joins(sweep: Any, tmp_path: Path) -> None:
    """A sweep whose second node is killed at work gives the records of one undisturbed machine: its trials go
    on elsewhere, from their checkpoints, and a node that comes later gets some."""
    log = tmp_path / "log"
    slow = {"regularizer": {"name": "fault", "seconds": 0.25, "process": str(log)}}
    path = sweep(
        optimizer={"learning_rate": {"grid": [1e-3, 3e-3, 1e-2]}},
        strategies={"full": slow, "top": {"freeze": 2, **slow}},
        seeds={"tune": 1, "confirm": 3},
        resources={"cpus": 1, "share": False, "checkpoint_seconds": 0, "retries": 0},
    )
    folder = tmp_path / "cluster" / "small"

    def seen() -> set[str]:
        return {line.split()[1] for line in log.read_text().splitlines()} if log.exists() else set()

    with nodes(1, 1) as cluster:
        process = start(path, tmp_path / "cluster", "--address", cluster.address)
        while len(first := seen()) < 2:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        time.sleep(0.5)
        cluster.kill(cluster.all[1])
        wait_for(process, folder, len(records(folder)) + 1)
        cluster.add(1)
        process.communicate(timeout=280)
        assert process.returncode == 0, [r["reason"] for r in records(folder).values() if r["reason"]]
        assert len(seen() - first) == 1, "the node that joined was not used"
    apart = records(folder)
    assert any(record["attempts"] == 2 for record in apart.values())
    assert main(["run", str(path), "--results", str(tmp_path / "local"), "--local"]) == 0
    alone = records(tmp_path / "local" / "small")
    assert apart.keys() == alone.keys() and len(apart) == 2 * (3 + 3)
    for trial, record in apart.items():
        assert outcome(record) == outcome(alone[trial]), record["strategy"]
