"""Shared work gives what each trial comes to alone: frozen prefixes from the store, heads in bundles."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sentences, write_table
from test_conformance import FAMILIES, FEW, SMALL, SOME, TRIED_ON

from harness import document, spec
from harness.backbones.text import TEXT_KINDS
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.recipe import parse
from harness.records.record import Record
from harness.stage import Stage, untouched
from harness.training import prefix
from harness.training.kept import similarity
from harness.training.model import pretrained
from harness.training.run import job_of, run_bundle, run_trial
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
    if tolerance < 1e-2:
        assert ours["metrics"]["test"] == pytest.approx(theirs["metrics"]["test"], abs=1e-6, nan_ok=True)
        assert ours["drift"]["relative_l2"] == pytest.approx(theirs["drift"]["relative_l2"], abs=tolerance)
        assert ours["drift"]["cka"] == pytest.approx(theirs["drift"]["cka"], abs=1e-3)


def both(plan: Plan, folder: Path) -> tuple[Record, Record]:
    """The records of a trial with shared work, interrupted once, and of the same where nothing is shared."""
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    shared = run(trial, workspace_of(plan, folder / "shared"), points=1)
    return shared, run(trial, replace(workspace_of(plan, folder / "alone"), passes={}, share=False))


# A few families here; all of them take minutes.
CASES = [
    pytest.param(
        family, kind, frozen, precision,
        marks=[] if family in SOME and precision == "fp32" else [pytest.mark.long],
    )
    for family, kind in FAMILIES
    for frozen, precision in ((1, "fp32"), (0.5, "fp32"), ("all", "fp32"), (0.5, "bf16"))
    if frozen != 1 or kind not in TEXT_KINDS  # embeddings of words take no FLOPs, and are never stored
]  # fmt: skip


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("family", "kind", "frozen", "precision"), CASES)
def test_a_stored_prefix_changes_nothing(
    family: str, kind: str, frozen: Any, precision: str, tmp_path: Path
) -> None:
    shared, alone = both(planned(family, kind, tmp_path, frozen, precision), tmp_path)
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


@pytest.mark.parametrize(("family", "kind"), FEW)
def test_heads_in_a_bundle_train_as_each_alone(family: str, kind: str, tmp_path: Path) -> None:
    """Whether or not the heads of this family can be computed together; stopped midway, and resumed."""
    training = {"epochs": 3, "batch_size": 8, "max_length": 32}
    plan = planned(family, kind, tmp_path, "all", "fp32", optimizer=RATES, training=training)
    trials = eight(plan)
    bundled = together(trials, workspace_of(plan, tmp_path / "bundle"), points=1)
    assert len({json.dumps(record["curve"]) for record in bundled.values()}) == len(trials)
    assert all(record["attempts"] == 2 for record in bundled.values())
    assert all(record["sharing"]["bundle"] == 8 for record in bundled.values())
    workspace = replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False)
    for trial in (trials[0], trials[5]):
        close(bundled[trial.trial_id], run(trial, workspace), 1e-4)


def sharing(family: str, kind: str, folder: Path) -> dict[str, Any]:
    plan = planned(family, kind, folder, "all", "fp32", optimizer=RATES)
    bundled = together(eight(plan), workspace_of(plan, folder / "bundle"))
    return next(iter(bundled.values()))["sharing"]


@pytest.mark.parametrize(
    ("family", "kind"), [("bert", "text-classification"), ("resnet", "image-classification")]
)
def test_heads_of_classifiers_are_computed_together(family: str, kind: str, tmp_path: Path) -> None:
    found = sharing(family, kind, tmp_path)
    assert found["bundle"] == 8 and found["batched"] and len(found["stored"]) == 1


def test_a_head_that_normalises_over_its_batch_is_not(tmp_path: Path) -> None:
    assert not sharing("segformer", "image-segmentation", tmp_path)["batched"]


@pytest.mark.parametrize(
    ("family", "kind", "frozen", "read"),
    [("segformer", "image-segmentation", "all", 3), ("detr", "object-detection", 0.5, 2)],
)
def test_everything_that_the_rest_reads_is_stored(
    family: str, kind: str, frozen: Any, read: int, tmp_path: Path
) -> None:
    """SegFormer's head reads each of three stages, DETR's encoder the positions beside what comes from below:
    more than what enters the first block that runs."""
    plan = planned(family, kind, tmp_path, frozen, "fp32")
    workspace = workspace_of(plan, tmp_path / "out")
    ((where, depths),) = workspace.passes.items()
    found = prefix.open_prefix(workspace, prefix.Where(*where), torch.device("cpu"))
    assert found is not None
    assert [len(found.boundaries[depth].cut.needed) for depth in depths] == [read]


def test_one_member_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    rates = {"learning_rate": {"grid": [1e-3, 1e-2]}, "weight_decay": {"grid": [0, 0.1]}}
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32", optimizer=rates)
    good = eight(plan)
    wild = copy.deepcopy(good[3])
    wild.recipe["regularizer"] = {"name": "fault", "what": "nan", "at": 2}
    bundle = [*good[:3], replace(wild, trial_id="wild"), *good[4:]]
    mixed = together(bundle, workspace_of(plan, tmp_path / "mixed"))
    assert mixed["wild"]["status"] == "diverged", mixed["wild"]["reason"]
    assert all(record["sharing"]["batched"] for record in mixed.values())
    calm = together(good, workspace_of(plan, tmp_path / "calm"))
    for trial in (good[0], good[7]):
        close(mixed[trial.trial_id], calm[trial.trial_id], 1e-5)


def test_what_a_trial_comes_to_depends_neither_on_where_the_others_stand_nor_on_who_is_there(
    tmp_path: Path,
) -> None:
    """Half of a bundle was interrupted after an epoch; the rest starts afresh beside it."""
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32", optimizer=RATES)
    trials = eight(plan)
    workspace = workspace_of(plan, tmp_path / "halves")
    begun = run_bundle([trial.as_dict() for trial in trials[:4]], workspace)
    next(begun)
    begun.close()
    halves = together(trials, workspace)
    assert [halves[trial.trial_id]["attempts"] for trial in trials] == [2] * 4 + [1] * 4
    whole = together(trials, workspace_of(plan, tmp_path / "whole"))
    for trial in trials:
        close(halves[trial.trial_id], whole[trial.trial_id], 1e-5)


def test_a_damaged_store_is_built_again(tmp_path: Path) -> None:
    seeds = {"tune": 1, "confirm": 2}
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32", seeds=seeds)
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    workspace = workspace_of(plan, tmp_path / "first")
    sound = run(trial, workspace)
    folder = prefix.folder_of(workspace, prefix.Where(*next(iter(workspace.passes))))
    damaged = list((folder / "3").rglob("values.bin"))  # other tests store other depths there
    assert len(damaged) == 3
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[40] ^= 0xFF
        path.write_bytes(content)
    again = run(trial, workspace_of(plan, tmp_path / "second"))
    assert again["curve"] == sound["curve"] and again["metrics"] == sound["metrics"]


def test_the_cap_makes_room_by_deleting_what_was_used_longest_ago(tmp_path: Path) -> None:
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32")
    workspace = replace(workspace_of(plan, tmp_path / "out"), cache=str(tmp_path / "cache"), store_bytes=1000)
    for age, name in enumerate("abc"):
        folder = tmp_path / "cache" / "prefixes" / "key" / "4" / name
        folder.mkdir(parents=True)
        (folder / "values.bin").write_bytes(bytes(300))
        os.utime(folder, (100 - age, 100 - age))
    prefix.make_room(workspace, 500)
    left = sorted(path.name for path in (tmp_path / "cache" / "prefixes" / "key" / "4").iterdir())
    assert left == ["a"]


def test_what_does_not_fit_below_the_cap_is_not_stored(tmp_path: Path) -> None:
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32", resources={"store_gb": 0})
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
    record = run(trial, workspace_of(plan, tmp_path / "out"))
    assert record["status"] == "finished" and record["sharing"]["stored"] == []
    assert any("store_gb" in note for note in record["notes"])


def test_the_test_split_is_not_read_while_tuning(tmp_path: Path) -> None:
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32")
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
    workspace = replace(workspace_of(plan, tmp_path / "out"))
    shutil.rmtree(folder := prefix.folder_of(workspace, prefix.Where(*next(iter(workspace.passes)))), True)
    run(trial, workspace)
    assert sorted(path.name for path in folder.glob("*/*") if path.is_dir()) == ["train", "validation"]
    prefix.release(workspace, trial.task, trial.backbone)
    assert not [path for path in folder.glob("*/*") if path.is_dir()]


@pytest.mark.parametrize(
    ("frozen", "depths"), [([4, 2, 0], [4, 2, 0]), ([0, 4], [0, 0]), ([2, 4, 1], [2, 2, 1])]
)
def test_rungs_that_a_stage_has_trained_are_not_read_from_the_store(
    frozen: list[int], depths: list[int]
) -> None:
    assert untouched([Stage(1, depth) for depth in frozen]) == depths


def test_padding_on_the_left_is_not_taken_for_padding_on_the_right(models: Any, tmp_path: Path) -> None:
    """Every text of train is cut to one length, so that a cut is tried without padding; validation is ragged,
    and the tokenizer pads on the left: its batches must not come from the store."""
    folder = tmp_path / "left"
    shutil.copytree(models("gpt2"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    rows = sentences(200, seed=3)
    long = [(f"{text} the old one very new some here", label) for text, label in rows[:120]]
    parts = {"train": long, "validation": rows[120:160], "test": rows[160:]}
    files = {name: str(write_table(tmp_path / f"{name}.csv", part)) for name, part in parts.items()}
    content = {
        "name": "ragged",
        "backbones": [{"name": "left", "path": str(folder)}],
        "tasks": [
            {
                "name": "words",
                "kind": "text-classification",
                "dataset": {"path": "csv", "data_files": files},
                "train_size": 48,
                "validation_size": 24,
            }
        ],
        "strategies": {"one": {"freeze": "all"}},
        "training": {"epochs": 2, "batch_size": 8, "max_length": 9},
        "optimizer": {"learning_rate": {"grid": [1e-2]}},
        "seeds": {"tune": 1, "confirm": 0},
    }
    sweep = spec.from_document(document.read(json.dumps(content), "test"), [tmp_path])
    plan = make_plan(sweep, prepare(sweep))
    (trial,) = plan.planned()
    shared = run(trial, workspace_of(plan, tmp_path / "shared"))
    assert len(shared["sharing"]["stored"]) == 1
    close(shared, run(trial, replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False)), 1e-4)


def test_a_head_with_weights_outside_its_modules_is_not_batched(tmp_path: Path) -> None:
    """The weighted sum of layers of wav2vec 2.0 is a parameter of the model itself."""
    backbone = {"use": "untrained", "family": "wav2vec2", "name": "small"}
    # weights so large that examples differ: predictions of one that hardly tells them apart flip by rounding
    backbone["changes"] = {"use_weighted_layer_sum": True, "initializer_range": 0.2}
    rates = {**RATES, "name": "sgd"}  # Adam makes steps of rounding where a gradient is next to nothing
    plan = planned(
        "wav2vec2", "audio-classification", tmp_path, "all", "fp32", optimizer=rates, backbones=[backbone]
    )
    trials = eight(plan)
    workspace = workspace_of(plan, tmp_path / "bundle")
    model = pretrained(workspace, trials[0].task, trials[0].backbone, torch.device("cpu"))
    layers = model.config.num_hidden_layers + 1
    assert model.layer_weights.tolist() == pytest.approx([1 / layers] * layers), "not what lay in memory"
    bundled = together(trials, workspace)
    assert not any(record["sharing"]["batched"] for record in bundled.values())
    alone = replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False)
    close(bundled[trials[5].trial_id], run(trials[5], alone), 1e-4)


def test_a_store_that_cannot_be_written_costs_no_trial(tmp_path: Path) -> None:
    """A file stands where the folder of stores would be."""
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32")
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
    workspace = workspace_of(plan, tmp_path / "out")
    cache = tmp_path / "cache"
    shutil.copytree(Path(workspace.cache) / "untrained", cache / "untrained")
    (cache / "prefixes").write_text("")
    record = run(trial, replace(workspace, cache=str(cache)))
    assert record["status"] == "finished", record["reason"]
    assert record["sharing"]["stored"] == []
    assert any("cannot be stored" in note for note in record["notes"])


def test_stages_that_unfreeze_read_the_store_at_their_own_depth(tmp_path: Path) -> None:
    """As gradual unfreezing and LP-FT do: first the head, then two rungs more, then all."""
    plan = planned("bert", "text-classification", tmp_path, 0.5, "fp32")
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    trial = replace(trial, recipe={**trial.recipe, "staged": [3, 1, 0]}, trial_id="staged")
    trial = replace(trial, stages=[{"epochs": 1, "frozen": depth} for depth in (3, 1, 0)])
    workspace = workspace_of(plan, tmp_path / "shared")
    workspace = replace(workspace, passes={where: {1: 9, 3: 9} for where in workspace.passes})
    shared = run(trial, workspace, points=1)
    assert 3 in shared["sharing"]["stored"]
    close(shared, run(trial, replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False)), 1e-4)


def test_similarity_is_the_same_without_running_what_is_frozen(tmp_path: Path) -> None:
    plan = planned("bert", "text-classification", tmp_path, 2, "fp32")
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm").as_dict()
    workspace = workspace_of(plan, tmp_path / "shared")
    job = job_of(trial, workspace, parse(trial["recipe"], trial["strategy"]), torch.device("cpu"))
    origin = pretrained(workspace, trial["task"], trial["backbone"], job.device)
    frozen, above = (job.tuned.ladder.rungs[number].last for number in (1, 2))
    with torch.no_grad():
        for parameter in above.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain = similarity(job, origin, 2)

    ran: list[int] = []
    frozen.attention.register_forward_hook(lambda *_: ran.append(1))
    job.above(2, job.validation, "validation")
    assert [similarity(job, origin, 2) for _ in range(3)] == [plain] * 3
    assert plain[1] == 1 and plain[2] is not None and plain[2] < 0.999
    assert ran == [1]
