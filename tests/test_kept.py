"""Backbones that are trained on a source task first, and what fine-tuning keeps of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import spec
from harness.analysis import kept as kept_analysis
from harness.analysis.study import load_study
from harness.cli import main
from harness.errors import InputError
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.records.paths import ResultPaths
from harness.records.record import read_record, read_records
from harness.training import kept
from harness.training.workspace import workspace_of
from tests.conftest import word_task


@pytest.fixture
def sourced(sweep: Any, models: Any, words_csv: Path) -> Any:
    """`sourced(source)`: a sweep whose tiny BERT is first trained to tell three groups of words apart on one
    cut of the data, and then on another."""

    def write(source: dict[str, Any] | None = None, **changes: Any) -> Path:
        content = {
            "task": word_task(words_csv, "groups", train_size=160), "training": {"epochs": 12},
            "optimizer": {"learning_rate": 1e-2}, **(source or {}),
        }  # fmt: skip
        backbone = {"name": "tiny", "path": str(models("bert")), "source": content}
        settings = {
            "backbones": [backbone],
            "tasks": [word_task(words_csv, "words", split_seed=7)],
            "strategies": {
                "full": {"freeze": 0},
                "head-only": {"freeze": "all"},
                "held": {"regularizer": {"name": "l2-sp", "strength": {"grid": [1, 100]}}},
            },
            "optimizer": {"learning_rate": 1e-2},
            "seeds": {"tune": 1, "confirm": 1},
        }
        return Path(sweep(**{**settings, **changes}))

    return write


def planned(path: Path) -> Plan:
    sweep = spec.load(path)
    return make_plan(sweep, prepare(sweep))


def test_the_source_is_trained_once_and_every_trial_reports_what_is_left(
    sourced: Any, tmp_path: Path, capsys: Any
) -> None:
    path = sourced()
    results = tmp_path / "out"
    assert main(["run", str(path), "--local", "--results", str(results)]) == 0
    paths = ResultPaths(results / "small")
    records = list(read_records(paths))
    (source,) = [record for record in records if record["phase"] == "source"]
    assert source["metrics"]["test"]["accuracy"] > 0.5
    assert source["retention"] is None
    trials = [record for record in records if record["phase"] != "source"]
    assert len(trials) == 4 + 3
    for record in trials:
        retention = record["retention"]
        split = "validation" if record["phase"] == "tune" else "test"
        assert retention["split"] == split
        assert retention["before"] == source["metrics"][split]["accuracy"]
        assert 0 <= retention["after"] <= 1
        if record["strategy"] == "head-only":  # nothing below the head has moved
            assert retention["after"] == retention["before"]
            assert record["drift"]["relative_l2"] == 0
            assert record["drift"]["rungs"] == [0, 0, 0, 0]
            assert record["drift"]["cka"] == pytest.approx([1, 1, 1, 1])
    by_strength = {
        r["hyperparameters"]["regularizer.strength"]: r["drift"]["relative_l2"]
        for r in trials
        if r["strategy"] == "held" and r["phase"] == "tune"
    }
    assert by_strength[100] < by_strength[1]
    report = (paths.root / "report.md").read_text()
    assert "## What was kept" in report and "source accuracy after" in report

    study = load_study(paths)
    assert study.unused == 0
    arena = study.arenas()[0]
    entries = {entry.strategy: entry for entry in kept_analysis.by_strategy(study, arena)}
    assert entries["head-only"].before == entries["head-only"].after
    assert entries["head-only"].depth == 4
    settings = kept_analysis.by_setting(study, arena)
    assert sorted(e.strength for e in settings if e.strategy == "held") == [1, 100]

    # run again: nothing is trained anew, not even in another results folder of this machine
    capsys.readouterr()
    assert main(["run", str(path), "--local", "--results", str(results)]) == 0
    assert "8/8 trials ended (8 from before" in capsys.readouterr().out
    other = tmp_path / "elsewhere"
    assert main(["run", str(path), "--local", "--results", str(other)]) == 0
    again = read_record(ResultPaths(other / "small").trial(source["trial_id"]))
    assert again is not None and again["cost"] == source["cost"]


def test_trials_start_from_the_trained_weights(sourced: Any, tmp_path: Path) -> None:
    from harness.training.model import pretrained, source_model
    from harness.training.run import run_trial

    plan = planned(sourced())
    workspace = workspace_of(plan, tmp_path / "out")
    run = run_trial(plan.sources["tiny"].as_dict(), workspace)
    for _ in run:
        pass
    trained = source_model(workspace, "tiny")
    start = pretrained(workspace, "words", "tiny")
    origin = pretrained(workspace, plan.sources["tiny"].task, "tiny")
    names = [name for name, _ in start.bert.named_parameters()]
    assert all(torch.equal(start.bert.get_parameter(n), trained.bert.get_parameter(n)) for n in names)
    assert any(not torch.equal(start.bert.get_parameter(n), origin.bert.get_parameter(n)) for n in names)


def test_putting_back_changes_the_base_and_keeps_the_head(sourced: Any, tmp_path: Path) -> None:
    from harness.training.model import pretrained

    plan = planned(sourced())
    origin = pretrained(workspace_of(plan, tmp_path), plan.sources["tiny"].task, "tiny")
    tuned, source = copy.deepcopy(origin), copy.deepcopy(origin)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1)
    kept.put_back(tuned, source)
    assert torch.equal(source.classifier.weight, origin.classifier.weight)
    for name, parameter in source.bert.named_parameters():
        assert torch.equal(parameter, tuned.bert.get_parameter(name))


def test_another_source_is_another_backbone(sourced: Any) -> None:
    """Trials of other source weights are other trials; the name of the source is not what counts."""

    def ids(path: Path) -> set[str]:
        return {trial.trial_id for trial in planned(path).planned()}

    first = ids(sourced())
    assert ids(sourced({"seed": 1})).isdisjoint(first)
    assert ids(sourced({"optimizer": {"learning_rate": 5e-3}})).isdisjoint(first)
    assert ids(sourced()) == first


def test_a_source_that_fails_blocks_its_cells_and_says_so(sourced: Any, tmp_path: Path, capsys: Any) -> None:
    path = sourced({"regularizer": {"name": "fault", "what": "nan"}})
    results = tmp_path / "out"
    assert main(["run", str(path), "--local", "--results", str(results)]) == 3
    cells = [json.loads(file.read_text()) for file in (results / "small" / "cells").glob("*.json")]
    assert {cell["state"] for cell in cells} == {"blocked"}
    assert "could not be trained on groups" in (results / "small" / "report.md").read_text()
    assert [r["status"] for r in read_records(ResultPaths(results / "small"))] == ["diverged"]
    assert main(["status", "small", "--results", str(results)]) == 0
    assert "blocked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "place", "reason"),
    [
        (
            {"optimizer": {"learning_rate": {"grid": [1e-3, 1e-2]}}},
            "source.optimizer.learning_rate",
            "one value",
        ),
        ({"seed": -1}, "source.seed", "whole number"),
        ({"task": "bbc-topic"}, "source.task", "did you mean 'bbc-topics'"),
        ({"freze": 1}, "source.freze", "did you mean 'freeze'"),
        ({"freeze": 9}, "source.freeze", "ladder has 4"),
    ],
)
def test_mistakes_in_a_source_are_told_at_their_place(
    sourced: Any, source: dict[str, Any], place: str, reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        planned(sourced(source))
    assert any(place in str(m) and reason in str(m) for m in caught.value.mistakes), caught.value


def test_similarity_is_one_for_a_rotated_representation_and_less_for_another() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 8, generator=generator)
    x = x - x.mean(dim=0)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    y = torch.randn(32, 8, generator=generator)
    y = y - y.mean(dim=0)
    assert kept._alignment(x @ x.T, (3 * x @ rotation) @ (3 * x @ rotation).T) == pytest.approx(1)
    # Kornblith et al. 2019, eq. 5, by its other form
    other = float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))
    assert kept._alignment(x @ x.T, y @ y.T) == pytest.approx(other, rel=1e-5)
