"""Faults that are injected for real while a sweep runs: what becomes of the trial, and of the others."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from conftest import records, start, word_task
from test_sharing import planned

from harness import registry
from harness.cli import main
from harness.errors import NoSpaceError, StorageError
from harness.records.patience import ending
from harness.training.workspace import FIRST, workspace_of
from harness.tuning import trainable
from harness.tuning.losses import Losses, NoWorkerError, cause

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def fault(what: str, **settings: Any) -> dict[str, Any]:
    return {"regularizer": {"name": "fault", "what": what, **settings}}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plug-ins that break are known, too."""
    folders = [str(Path(__file__).parent / name) for name in ("plugins", "broken")]
    monkeypatch.setenv("HARNESS_PLUGINS", os.pathsep.join(folders))
    registry._plugins.cache_clear()
    yield
    registry._plugins.cache_clear()


def by_strategy(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["strategy"]: record for record in records(folder).values()}


@pytest.mark.chaos
def test_workers_that_run_out_of_memory_or_hang(sweep: Any, tmp_path: Path, capfd: Any) -> None:
    """One sweep, since starting Ray is what takes time:

    - who cannot hold eight examples at a time trains on two, with the same steps, as one who does so anyway;
    - who cannot hold one gets twice the resources, as is allowed, and no more;
    - who hangs is ended by the watchdog and goes on from its checkpoint.
    """
    stopped = tmp_path / "stopped"
    path = sweep(
        strategies={
            "plain": fault("none"),
            "pieces": {"training": {"accumulation": 4}, **fault("none")},
            "hungry": fault("hungry", most=3),
            "poor": fault("poor", most=2),
            "poorer": fault("poor", most=4),
            "hangs": fault("stop", at=12, marker=str(stopped)),
        },
        baseline="plain",
        optimizer={"learning_rate": 1e-3},
        seeds={"tune": 1, "confirm": 0},
        resources={"cpus": 1, "growth": 2, "silence_seconds": 4, "checkpoint_seconds": 0},
    )
    assert main(["run", str(path), "--results", str(tmp_path / "results")]) == 3  # `poorer` has no score
    assert "Traceback" not in "".join(capfd.readouterr())
    found = by_strategy(tmp_path / "results" / "small")
    plain, hungry, hangs = found["plain"], found["hungry"], found["hangs"]

    assert hungry["status"] == "finished" and hungry["curve"] == found["pieces"]["curve"]
    assert sorted(hungry["notes"]) == [
        "out of memory with 4 examples at a time",
        "out of memory with 8 examples at a time",
        "run with 1/4 of the examples at a time",
    ]
    assert (found["poor"]["status"], found["poor"]["resources"]["cpus"]) == ("finished", 2)
    assert (found["poorer"]["status"], found["poorer"]["resources"]["cpus"]) == ("infeasible", 2)
    assert "out of memory" in found["poorer"]["reason"]
    assert (hangs["status"], hangs["attempts"]) == ("finished", 2) and hangs["curve"] == plain["curve"]
    with pytest.raises(ProcessLookupError):  # not left behind
        os.kill(int(stopped.read_text()), 0)

    # more is allowed later: only what had too little runs again
    before = {
        trial: record["provenance"] for trial, record in records(tmp_path / "results" / "small").items()
    }
    assert before


@pytest.mark.chaos
@pytest.mark.parametrize("local", [False, True])
def test_a_notice_writes_checkpoints_in_the_middle_of_an_epoch(
    sweep: Any, tmp_path: Path, local: bool
) -> None:
    """SIGTERM: every trial at work saves the step it is at, exit 130; carried on, each is what it would have
    been undisturbed, its loss over the epoch included."""
    log = tmp_path / "log"
    # Workers listen every two seconds: both begin together, and an epoch takes four.
    together = {} if local else {"meet": str(tmp_path / "met")}
    slow = fault("none", seconds=0.25, log=str(log), **together)
    settings: dict[str, Any] = {
        "strategies": {"full": slow, "top": {"freeze": 2, **slow}},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"epochs": 1, "batch_size": 4, "max_length": 16},
        "seeds": {"tune": 1, "confirm": 0},
        "resources": {"cpus": 1, "checkpoint_seconds": 1000},  # not one is due by itself
    }
    path = sweep(**settings)
    more = ["--local"] if local else []
    process = start(path, tmp_path / "results", *more)
    at_work = 1 if local else 2
    while not (log.exists() and len(log.read_text().splitlines()) == at_work) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    folder = tmp_path / "results" / "small"
    saved = [torch.load(file, weights_only=True) for file in (folder / "checkpoints").glob("*.pt")]
    assert len(saved) == at_work
    assert all(0 < found["progress"]["place"][2] < 16 for found in saved), "not in the middle of an epoch"

    process = start(path, tmp_path / "results", *more)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    resumed = by_strategy(folder)
    assert main(["run", str(path), "--results", str(tmp_path / "undisturbed"), "--local"]) == 0
    alone = by_strategy(tmp_path / "undisturbed" / "small")
    assert [resumed[name]["curve"] for name in alone] == [record["curve"] for record in alone.values()]
    assert resumed["full"]["attempts"] == 2
    assert resumed["full"]["cost"]["flops"] == alone["full"]["cost"]["flops"]


@pytest.mark.chaos
def test_workers_that_never_come_up_end_the_sweep(sweep: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Not every trial is lost one after the other: the fault is not theirs. None of them gets a record."""
    plugins = tmp_path / "plugins" / "metrics"
    plugins.mkdir(parents=True)
    (plugins / "deadly.py").write_text(
        "import os, sys\nif 'default_worker.py' in ' '.join(sys.argv + sys.orig_argv):\n    os._exit(1)\n"
    )
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path / "plugins"))
    path = sweep(optimizer={"learning_rate": {"grid": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]}})
    process = start(path, tmp_path / "results")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "4 workers were lost before they trained anything" in said and "Traceback" not in said
    assert not records(tmp_path / "results" / "small")


def test_a_node_that_does_not_see_the_results_costs_no_trial_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may still be mounting them. If it never does, its trial goes elsewhere on the same terms; if there
    is no end of such nodes, the run ends."""
    plan = planned("bert", "text-classification", tmp_path, 0, "fp32")
    workspace = workspace_of(plan, tmp_path / "out")
    monkeypatch.setattr(trainable, "_MOUNT_SECONDS", 0.1)
    with pytest.raises(StorageError) as raised:
        trainable.wait_for(workspace)
    why = cause(f"ray.exceptions.ActorDiedError: The actor died: {raised.value}", hung=False)
    cell = plan.cells[0]
    losses, trials = Losses(plan.sweep.resources), [plan.trial(cell, cell.space.default, 0, "tune")]
    for _ in range(7):
        assert losses.lost(trials, FIRST, why, "") == [(trials, FIRST)]
    with pytest.raises(NoWorkerError, match="8 workers came up where they cannot work"):
        losses.lost(trials, FIRST, why, "")
    monkeypatch.setattr(trainable, "_MOUNT_SECONDS", 30)
    workspace.paths.plan.parent.mkdir(parents=True, exist_ok=True)
    threading.Timer(0.3, workspace.paths.plan.touch).start()
    trainable.wait_for(workspace)


def test_a_plug_in_that_breaks_in_training_costs_its_own_trials(
    broken: None, sweep: Any, words_csv: Path, tmp_path: Path, capfd: Any
) -> None:
    """Whatever hook it is in: a reason that a reader can follow, and the others are trained."""
    decoupled = {"regularizer": {"name": "fault", "what": "shrink", "mode": "decoupled"}}
    path = sweep(
        tasks=[word_task(words_csv), word_task(words_csv, "brittle", metrics=["brittle", "accuracy"])],
        optimizer={"learning_rate": 1e-2},
        strategies={
            "sound": {"freeze": "all"},
            "bind": fault("bind"),
            "value": fault("raise", at=3),
            "shrink": decoupled,
            "build": {"optimizer": {"name": "brittle-optimizer", "hook": "build", "learning_rate": 0.01}},
            "step": {"optimizer": {"name": "brittle-optimizer", "hook": "step", "learning_rate": 0.01}},
        },
        baseline="sound",
        seeds={"tune": 1, "confirm": 0},
    )
    assert main(["run", str(path), "--results", str(tmp_path / "results"), "--local"]) == 3
    assert "Traceback" not in "".join(capfd.readouterr())
    found = {(r["task"], r["strategy"]): r for r in records(tmp_path / "results" / "small").values()}
    assert len(found) == 12
    for (task, strategy), record in found.items():
        if strategy == "sound" and task == "words":
            assert record["status"] == "finished"
            continue
        assert record["status"] == "failed"
        says = {"value": "on purpose", "sound": "cannot score example"}.get(strategy, f"broken in {strategy}")
        file = {"sound": "brittle.py", "build": "brittle.py", "step": "brittle.py"}.get(strategy, "fault.py")
        assert says in record["reason"] and f"({file}:" in record["reason"]


@pytest.mark.parametrize("hook", ["reason_against", "canonical", "stages"])
def test_a_plug_in_that_breaks_in_planning_is_named(
    broken: None, sweep: Any, tmp_path: Path, capfd: Any, hook: str
) -> None:
    path = sweep(strategies={"broken": {"brittle-part": hook}}, baseline=None)
    assert main(["run", str(path), "--results", str(tmp_path / "results"), "--local"]) == 1
    said = capfd.readouterr()
    assert f"a plug-in failed: LookupError: broken in {hook} (" in said.err and "brittle.py:" in said.err
    assert "Traceback" not in said.err and not (tmp_path / "results").exists()


@pytest.mark.parametrize("hook", ["ask", "tell", "none"])
def test_a_search_that_breaks_costs_its_cells_what_it_had_not_asked_for(
    broken: None, sweep: Any, tmp_path: Path, capfd: Any, hook: str
) -> None:
    path = sweep(
        search={"algorithm": "brittle-search", "hook": hook},
        strategies={"head": {"freeze": "all"}, "top": {"freeze": 2}},
        baseline=None,
        seeds={"tune": 1, "confirm": 1},
    )
    breaks = hook != "none"
    assert main(["run", str(path), "--results", str(tmp_path / "results"), "--local"]) == (3 if breaks else 0)
    said = capfd.readouterr().err
    assert ("the search of top on words failed" in said) is breaks and "Traceback" not in said
    folder = tmp_path / "results" / "small"
    assert len(records(folder)) == 2 * (1 + 1)  # what was asked for, and the winner confirmed
    warnings = json.loads((folder / "verdicts.json").read_text())["tasks"]["words"]["warnings"]
    assert any(f"broken in {hook}" in text for text in warnings) is breaks


def test_a_loss_that_explodes_ends_its_trial_at_once(sweep: Any, tmp_path: Path) -> None:
    """Finite, but a million times what it was: it will not come back, and the search is told."""
    path = sweep(
        search={"algorithm": "optuna", "trials": 2},
        strategies={"explodes": fault("explode", at=4)},
        optimizer={"learning_rate": {"loguniform": [1e-3, 1e-2]}},
        baseline=None,
        seeds={"tune": 1, "confirm": 0},
    )
    assert main(["run", str(path), "--results", str(tmp_path / "results"), "--local"]) == 3
    folder = tmp_path / "results" / "small"
    found = list(records(folder).values())
    assert [(r["status"], r["cost"]["steps"]) for r in found] == [("diverged", 3)] * 2
    assert all(r["reason"] == "the loss has grown to 1e+09 at step 4" for r in found)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'optuna.db'}")
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.FAIL] * 2


def test_who_was_short_of_memory_is_tried_again_once_more_is_allowed(sweep: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "strategies": {"plain": fault("none"), "large": fault("oom")},
        "baseline": "plain",
        "optimizer": {"learning_rate": 1e-3},
        "seeds": {"tune": 1, "confirm": 0},
    }
    runs = []
    for growth in (1, 1, 2):
        path = sweep(**settings, resources={"cpus": 1, "growth": growth})
        assert main(["run", str(path), "--results", str(tmp_path / "results"), "--local"]) == 3
        files = sorted((tmp_path / "results" / "small" / "trials").glob("*.json"))
        runs.append({json.loads(f.read_text())["strategy"]: f.stat().st_mtime_ns for f in files})
    assert runs[0] == runs[1]
    assert runs[1]["plain"] == runs[2]["plain"] and runs[1]["large"] != runs[2]["large"]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), NoSpaceError),
        (OSError(errno.ESTALE, "Stale file handle", "/data/x"), StorageError),
        (StorageError("away"), StorageError),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),  # no file's
        (ValueError("wrong"), None),
    ],
)
def test_what_ends_a_run_and_what_only_its_trial(error: Exception, ends: Any) -> None:
    assert type(ending(error)) is (ends or type(None))
    wrapped = RuntimeError("of a library")
    wrapped.__cause__ = error
    assert type(ending(wrapped)) is (ends or type(None))
