"""Shared work gives what each trial comes to alone: frozen prefixes from the store, heads in bundles."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_conformance import FAMILIES, SMALL, TRIED_ON

from harness import document, spec
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.records.record import Record
from harness.training import prefix
from harness.training.run import run_bundle, run_trial
from harness.training.workspace import Workspace, workspace_of


def planned(family: str, kind: str, folder: Path, freeze: Any, precision: str, **changes: Any) -> Plan:
    content = {
        "name": "same",
        "backbones": [{"use": "untrained", "family": family, "name": "small"}],
        "tasks": [{"use": TRIED_ON[kind], **SMALL}],
        "strategies": {"one": {"freeze": freeze}},
        "training": {"epochs": 2, "batch_size": 8, "max_length": 32, "precision": precision},
        "optimizer": {"learning_rate": {"grid": [1e-3]}},
        "seeds": {"tune": 1, "confirm": 1},
        "resources": {"checkpoint_seconds": 0},
        **changes,
    }
    sweep = spec.from_document(document.read(json.dumps(content), "test"), [folder])
    return make_plan(sweep, prepare(sweep))


@pytest.fixture(autouse=True)
def _free_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing always pays: small models are cheaper to run again than to read."""
    monkeypatch.setattr(prefix, "bandwidth", lambda folder: (math.inf, math.inf))


def run(trial: Any, workspace: Workspace, points: int | None = None) -> Record:
    """The record of a trial; with `points`, it is interrupted after so many evaluations and resumed."""
    running = run_trial(trial.as_dict(), workspace)
    if points is not None:
        for _ in itertools.islice(running, points):
            pass
        running.close()
        running = run_trial(trial.as_dict(), workspace)
    while True:
        try:
            next(running)
        except StopIteration as ended:
            return ended.value


def close(ours: Record, theirs: Record, tolerance: float) -> None:
    assert (ours["status"], theirs["status"]) == ("finished", "finished"), ours["reason"] + theirs["reason"]
    assert len(ours["curve"]) == len(theirs["curve"])
    for one, other in zip(ours["curve"], theirs["curve"], strict=True):
        for name in ("train_loss", "validation_loss"):
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance)
        if tolerance < 1e-2:
            assert one["validation"] == pytest.approx(other["validation"], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frozen", [1, 0.5, "all"])
@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_a_stored_prefix_changes_nothing(
    family: str, kind: str, frozen: Any, precision: str, tmp_path: Path
) -> None:
    plan = planned(family, kind, tmp_path, frozen, precision)
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    shared = run(trial, workspace_of(plan, tmp_path / "shared"), points=1)
    alone = run(trial, replace(workspace_of(plan, tmp_path / "alone"), passes={}))
    print(family, kind, frozen, precision, shared["notes"])
    close(shared, alone, 1e-4 if precision == "fp32" else 5e-2)


def together(trials: list[Any], workspace: Workspace, points: int | None = None) -> dict[str, Record]:
    """The records of a bundle by trial; with `points`, it is interrupted after so many and resumed."""
    running = run_bundle([trial.as_dict() for trial in trials], workspace)
    if points is not None:
        for _ in itertools.islice(running, points):
            pass
        running.close()
        running = run_bundle([trial.as_dict() for trial in trials], workspace)
    while True:
        try:
            next(running)
        except StopIteration as ended:
            return {record["trial_id"]: record for record in ended.value}


def eight(plan: Plan) -> list[Any]:
    """Two rates, two decays and two seeds."""
    cell = plan.cells[0]
    assert cell.configurations is not None and len(cell.configurations) == 4
    return [plan.trial(cell, v, seed, "confirm") for v in cell.configurations for seed in (1000, 1001)]


RATES = {"learning_rate": {"grid": [1e-3, 1e-2]}, "weight_decay": {"grid": [0, 0.1]}}


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_heads_in_a_bundle_train_as_each_alone(family: str, kind: str, tmp_path: Path) -> None:
    """Whether or not the heads of this family can be computed together; stopped midway, and resumed."""
    training = {"epochs": 3, "batch_size": 8, "max_length": 32}
    plan = planned(family, kind, tmp_path, "all", "fp32", optimizer=RATES, training=training)
    trials = eight(plan)
    bundled = together(trials, workspace_of(plan, tmp_path / "bundle"), points=1)
    assert len({json.dumps(record["curve"]) for record in bundled.values()}) == len(trials)
    assert all(record["attempts"] == 2 for record in bundled.values())
    assert all(record["sharing"]["bundle"] == 8 for record in bundled.values())
    print(family, kind, bundled[trials[0].trial_id]["sharing"])
    workspace = replace(workspace_of(plan, tmp_path / "alone"), passes={})
    for trial in (trials[0], trials[5]):
        close(bundled[trial.trial_id], run(trial, workspace), 1e-4)
