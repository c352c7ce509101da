"""Replays of a recorded sweep: the real campaign, scheduler and race over what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from racing_fixtures import EPOCHS, LEVELS, Run, planned, record

from harness.analysis.study import load_study
from harness.cli import main
from harness.errors import InputError
from harness.plan import Trial, hyperparameters
from harness.records.paths import ResultPaths
from harness.records.record import Record, read_record, read_records, write_record
from harness.records.seal import read_sealed, write_sealed
from harness.tuning.replay import recorded_sweep, replays, training

RACE = ["racing.level=0.01"]
ASHA = ["search.scheduler={name: asha, grace: 1, reduction: 3}"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> ResultPaths:
    """A full grid: 4 cells of 3 configurations, 3 tune and 6 confirm seeds."""
    paths = ResultPaths(tmp_path_factory.mktemp("results") / "race")
    Run(planned(), paths).to_the_end()
    return paths


def contents(paths: ResultPaths) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in paths.root.rglob("*") if path.is_file()}


def test_without_changes_a_replay_is_the_full_grid(recorded: ResultPaths) -> None:
    before = contents(recorded)
    found = replays(recorded, [], 2)
    assert found.full.trials == 4 * (3 * 3 + 6)
    assert found.full.device_s == found.full.trials * 9.0
    for run in found.runs:
        assert run.spent == found.full
        assert run.stand_ins == 0
        assert run.same and run.superset
        assert set(run.tasks["one"].tie_set) == {"good", "twin"}
    assert contents(recorded) == before


def test_a_race_saves_the_confirm_trials_of_who_is_beaten(recorded: ResultPaths) -> None:
    found = replays(recorded, RACE, 3)
    for run in found.runs:
        assert run.same
        assert set(run.tasks["one"].raced_out) == {"poor", "bad"}
        spared = 2 * (3 * 3 + 6) - sum(out["trials"] for out in run.tasks["one"].raced_out.values())
        assert spared > 0
        assert run.spent.trials == found.full.trials - spared
        assert found.compute(run) == pytest.approx(
            {"device_s": run.spent.trials / found.full.trials, "flops": run.spent.trials / found.full.trials}
        )


def test_a_stopped_trial_costs_its_share_of_the_curve(recorded: ResultPaths) -> None:
    found = replays(recorded, ASHA, 4)
    spent = {run.spent.device_s for run in found.runs}
    assert len(spent) > 1, "another order is another run"
    for run in found.runs:
        assert run.spent.device_s < found.full.device_s
        assert run.spent.device_s == pytest.approx(round(run.spent.device_s)), "an epoch takes a second"
        assert run.spent.flops == pytest.approx(100 * run.spent.device_s)
        assert not run.tasks["one"].raced_out
    assert replays(recorded, ASHA, 1).runs == found.runs[:1], "an order is always the same"


def test_a_winner_that_nobody_confirmed_is_stood_in_for_or_trained(tmp_path: Path) -> None:
    """Every learning rate is as good as any other here, and halving goes by the order."""
    paths = ResultPaths(tmp_path / "race")

    def even(trial: Trial) -> Record:
        made = record(trial, dict.fromkeys(LEVELS, 0.5))
        if trial.phase == "tune":
            for point in made["curve"]:
                point["validation"]["accuracy"] = 0.5 + trial.hyperparameters["optimizer.learning_rate"]
        return made

    campaign = Run(planned(), paths).campaign
    while (trial := campaign.next()) is not None:
        made = even(trial)
        write_record(paths, made)
        campaign.finish(trial, made)
    campaign.close()
    # the recorded winner is stopped where another one came before it at every rung
    for cell in load_study(paths).cells:
        for made in [found for found in read_records(paths) if found["strategy"] == cell.strategy]:
            if made["phase"] == "tune" and made["hyperparameters"] == cell.winner:
                for point in made["curve"][: EPOCHS - 1]:
                    point["validation"]["accuracy"] = 0.1
                write_record(paths, made)
    asked: list[Trial] = []

    def train(trial: Trial) -> Record:
        asked.append(trial)
        return even(trial)

    stood_in = sum(run.stand_ins for run in replays(paths, ASHA, 3).runs)
    trained = replays(paths, ASHA, 3, train)
    assert stood_in == len(asked) > 0
    assert {trial.phase for trial in asked} == {"confirm"}
    assert sum(run.stand_ins for run in trained.runs) == 0


def spoil(paths: ResultPaths, what: str) -> list[str]:
    """Something that makes a folder no full grid; returns the settings to replay it with."""
    if what == "cells":
        path = next(paths.cells.iterdir())
        write_sealed(path, {**read_sealed(path), "state": "confirming"})
    elif what == "race":
        write_sealed(paths.plan, {**read_sealed(paths.plan), "racing": {"level": 0.1}})
    elif what == "trials":
        trials = [path for path in paths.trials.iterdir() if json.loads(path.read_text())["phase"] == "tune"]
        trials[0].unlink()
    return ["training.epochs=2"] if what == "setting" else []


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("cells", "1 of its 4 cells are not done"),
        ("race", "is no full grid"),
        ("trials", "1 of its records are missing"),
        ("setting", "a changed setting, or"),
    ],
)
def test_what_is_no_full_grid_is_refused(tmp_path: Path, what: str, says: str) -> None:
    paths = ResultPaths(tmp_path / "race")
    Run(planned(seeds={"tune": 1, "confirm": 1}), paths).to_the_end()
    with pytest.raises(InputError, match="cannot be replayed") as caught:
        replays(paths, spoil(paths, what), 1)
    assert says in str(caught.value)


def test_the_command_prints_each_replay_and_the_sum(
    recorded: ResultPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", str(recorded.root), "--set", RACE[0], "--set", ASHA[0], "--orders", "2"]
    assert main([*words, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(said["replays"]) == 2
    assert said["same"] == sum(run["same"] for run in said["replays"])
    assert said["full"]["trials"] == 60
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"tie set of the full grid: {said['same']} of 2 times" in shown
    assert main([*words[:2], "--orders", "0"]) == 2
    assert main([*words[:2], "--set", "racing.levle=1"]) == 2


@pytest.mark.slow
def test_a_real_sweep_is_replayed_and_trained_on_if_asked(sweep: Any, tmp_path: Path) -> None:
    spec = sweep(seeds={"tune": 1, "confirm": 3})
    assert main(["run", str(spec), "--local", "--results", str(tmp_path / "results")]) == 0
    paths = ResultPaths(tmp_path / "results" / "small")
    assert all(run.same and run.spent.trials == 10 for run in replays(paths, RACE, 2).runs)
    plan = recorded_sweep(paths, [])
    won = {cell.id: cell.winner for cell in load_study(paths).cells}[plan.cells[0].id]
    [other] = [v for v in plan.cells[0].configurations or [] if hyperparameters(v) != won]
    trial = plan.trial(plan.cells[0], other, plan.confirm_seeds[0], "confirm")
    with training(paths, []) as train:
        made = train(trial)
    assert (made["trial_id"], made["status"]) == (trial.trial_id, "finished")
    assert made["metrics"]["test"] is not None
    assert read_record(paths.trial(trial.trial_id)) is not None, "the next replay finds it"
