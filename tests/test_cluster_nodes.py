"""A sweep on several nodes: what it comes to does not depend on where its trials ran."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from nodes import nodes
from test_ray import outcome, records

from harness.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_two_nodes_give_the_records_of_one_process(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more trials asked for than there is room: that is what makes a cluster grow."""
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "auto")
    monkeypatch.delenv("TUNE_MAX_PENDING_TRIALS_PG")
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
        assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "4"
        for node in cluster.all:  # each encodes the data for itself
            assert list(node.cache.glob("encoded/*")), node.folder
    assert main(["run", str(path), "--results", str(tmp_path / "local"), "--local"]) == 0
    apart, alone = records(tmp_path / "cluster" / "small"), records(tmp_path / "local" / "small")
    assert apart.keys() == alone.keys() and len(apart) == 2 * (3 + 2)
    for trial, record in apart.items():
        assert outcome(record) == outcome(alone[trial]), record["strategy"]
