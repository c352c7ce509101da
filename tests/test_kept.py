"""Backbones that are trained on a source task first, and what fine-tuning keeps of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import word_task

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

    drawn = (paths.figures / "kept-strength-words.svg").read_text()
    assert ">100</text>" in drawn and "mathdefault" not in drawn
    rows = (paths.figures / "kept-strength-words.csv").read_text().splitlines()[1:]
    assert [row.rpartition(",")[0] for row in rows] == ["full,0.0", "held,1.0", "held,100.0"]

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
    start = pretrained(workspace, "words", "tiny", torch.device("cpu"))
    origin = pretrained(workspace, plan.sources["tiny"].task, "tiny", torch.device("cpu"))
    names = [name for name, _ in start.bert.named_parameters()]
    assert all(torch.equal(start.bert.get_parameter(n), trained.bert.get_parameter(n)) for n in names)
    assert any(not torch.equal(start.bert.get_parameter(n), origin.bert.get_parameter(n)) for n in names)


def test_putting_back_changes_the_base_and_keeps_the_head(sourced: Any, tmp_path: Path) -> None:
    from harness.training.model import pretrained

    plan = planned(sourced())
    origin = pretrained(workspace_of(plan, tmp_path), plan.sources["tiny"].task, "tiny", torch.device("cpu"))
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


def test_a_space_of_the_sweep_is_not_searched_for_a_source(sourced: Any) -> None:
    """It takes the published default, or what is nearest in the space, and the plan says so."""
    from harness.outline import notes

    path = sourced(optimizer={"learning_rate": 1e-2, "weight_decay": {"grid": [0.5, 0.02]}})
    plan = planned(path)
    assert plan.sources["tiny"].recipe["optimizer"]["weight_decay"] == 0.02
    assert any("source of tiny is trained with optimizer.weight_decay = 0.02" in note for note in notes(plan))


def test_a_resolved_sweep_gives_the_same_sweep(sourced: Any, tmp_path: Path) -> None:
    import yaml

    first = planned(sourced())
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(spec.resolved(first.sweep), sort_keys=False))
    second = planned(again)
    assert spec.resolved(second.sweep) == spec.resolved(first.sweep)
    assert second.sources == first.sources


def test_similarity_is_one_for_a_rotated_representation_and_about_zero_for_another() -> None:
    """However many features there are: the plain estimator gives 0.98 for the last ones."""
    generator = torch.Generator().manual_seed(0)

    def gram(features: torch.Tensor) -> torch.Tensor:
        return features @ features.T

    for width in (8, 4096):
        x = torch.randn(64, width, generator=generator, dtype=torch.float64)
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
        assert kept._alignment(gram(x), gram(3 * x @ rotation + 5)) == pytest.approx(1)
        y = torch.randn(64, width, generator=generator, dtype=torch.float64)
        assert abs(kept._alignment(gram(x), gram(y)) or 0) < 0.1


def test_the_estimator_is_that_of_the_paper() -> None:
    """Song et al. 2012, eq. 5, as a sum over all quadruples of different examples."""
    from itertools import permutations

    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    k, el = x @ x.T, y @ y.T
    terms = [
        float(k[i, j] * (el[i, j] + el[q, r] - 2 * el[i, q])) for i, j, q, r in permutations(range(6), 4)
    ]
    assert kept._hsic(k, el) == pytest.approx(sum(terms) / len(terms))


def test_two_backbones_that_start_from_one_training_share_it(
    sourced: Any, models: Any, tmp_path: Path, words_csv: Path, capsys: Any
) -> None:
    content = {
        "task": word_task(words_csv, "groups", train_size=160), "training": {"epochs": 2},
        "optimizer": {"learning_rate": 1e-2},
    }  # fmt: skip
    backbones = [{"name": n, "path": str(models("bert")), "source": content} for n in ("one", "two")]
    path = sourced(backbones=backbones, strategies={"head-only": {"freeze": "all"}}, baseline="head-only")
    plan = planned(path)
    assert plan.sources["one"].trial_id == plan.sources["two"].trial_id
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == 0
    records = list(read_records(ResultPaths(tmp_path / "out" / "small")))
    assert sorted(record["phase"] for record in records) == ["confirm", "source", "tune"]
    assert all(r["retention"]["after"] == r["retention"]["before"] for r in records if r["retention"])
    capsys.readouterr()
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == 0
    assert "(3 from before, 0 stopped, 0 failed)" in capsys.readouterr().out


def test_putting_back_brings_running_statistics_along() -> None:
    from harness.backbones.untrained import Untrained

    backbone = Untrained(family="resnet")
    source = backbone.model("AutoModelForImageClassification", None, {"num_labels": 3})
    tuned = copy.deepcopy(source)
    tuned.train()
    tuned(pixel_values=torch.randn(4, 3, 32, 32))
    kept.put_back(tuned, source)
    for name, buffer in source.resnet.named_buffers():
        assert torch.equal(buffer, tuned.resnet.get_buffer(name))


def test_a_source_whose_weights_were_cleared_away_is_made_again(sourced: Any, tmp_path: Path) -> None:
    import shutil

    path = sourced(strategies={"head-only": {"freeze": "all"}}, baseline="head-only")
    results = ResultPaths(tmp_path / "out" / "small")
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == 0
    shutil.rmtree(results.root / "sources")
    for record in list(read_records(results)):
        if record["phase"] == "confirm":
            results.trial(record["trial_id"]).unlink()
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == 0
    assert {record["status"] for record in read_records(results)} == {"finished"}


def test_what_cannot_be_measured_is_a_note_and_costs_no_trial(
    sourced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no room for a second model")

    monkeypatch.setattr(kept, "similarity", broken)
    path = sourced(strategies={"head-only": {"freeze": "all"}}, baseline="head-only")
    assert main(["run", str(path), "--local", "--results", str(tmp_path / "out")]) == 0
    records = list(read_records(ResultPaths(tmp_path / "out" / "small")))
    trials = [record for record in records if record["phase"] != "source"]
    assert [record["status"] for record in trials] == ["finished"] * 2
    assert all("no room for a second model" in record["notes"][-1] for record in trials)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_ray_as_in_process(sourced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source first, on one worker; its trials after it, on all of them, and with the same outcome."""
    path = sourced()
    found = []
    for name, arguments in (("ray", []), ("local", ["--local"])):
        monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / f"cache-{name}"))  # each trains its source itself
        assert main(["run", str(path), "--results", str(tmp_path / name), *arguments]) == 0
        records = read_records(ResultPaths(tmp_path / name / "small"))
        found.append(
            {
                r["trial_id"]: (r["phase"], r["curve"], r["metrics"], r["drift"], r["retention"])
                for r in records
            }
        )
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_a_damaged_copy_in_the_cache_counts_as_none(
    sourced: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    path = sourced(strategies={"head-only": {"freeze": "all"}}, baseline="head-only")
    found = []
    for name in ("first", "second"):
        assert main(["run", str(path), "--local", "--results", str(tmp_path / name)]) == 0
        found += [
            r["curve"] for r in read_records(ResultPaths(tmp_path / name / "small")) if r["phase"] == "source"
        ]
        (record,) = cache.glob("sources/*/record.json")
        record.write_text(record.read_text()[:100])
    assert found[0] == found[1]
