"""Every part of a strategy does what it says, undoes nothing else, and goes on where it was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import word_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import spec
from harness.entries import presets
from harness.errors import InputError
from harness.plan import Plan, Trial, make_plan
from harness.prepare import prepare
from harness.recipe import parse
from harness.records.paths import ResultPaths
from harness.registry import plugins
from harness.strategies.base import GRADIENTS, Part
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.loop import fit
from harness.training.member import Member
from harness.training.run import job_of, run_trial
from harness.training.workspace import Workspace, workspace_of

PARTS = {
    name: part for name, part in plugins("strategies", Part).items() if part.__module__.startswith("harness.")
}
# What a part needs beside its defaults, to do something in a test.
BESIDE: dict[str, dict[str, Any]] = {
    "freeze": {"freeze": 2},
    "recadam": {"recadam": {"gamma": 100.0}},  # for rates a hundred times those of the paper
}
# Parts that do nothing on tiny-bert, with the tests of them.
ELSEWHERE: dict[str, str] = dict.fromkeys(("co-tuning", "lwf", "stochnorm"), "test_features_and_outputs.py")

# Of each way in which parts change a model or a trial one.
LOUDEST = ("adapter", "delta", "lora", "mixout", "prefix-tuning", "reinit", "sam", "swa")
every_part = pytest.mark.parametrize("name", sorted(set(PARTS) - set(ELSEWHERE)))


def strategy_of(name: str) -> dict[str, Any]:
    return {name: PARTS[name]().value(), **BESIDE.get(name, {})}


@pytest.fixture(scope="module")
def planned(models: Any, words_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`planned(strategy, **changes)`: plan and workspace of a sweep of this strategy: six epochs of four
    steps, with an evaluation in the middle of each. The same one is planned once."""
    made: dict[str, tuple[Plan, Workspace]] = {}

    def make(strategy: dict[str, Any], **changes: Any) -> tuple[Plan, Workspace]:
        content: dict[str, Any] = {
            "name": "small",
            "backbones": [{"name": "tiny", "path": str(models("bert"))}],
            "tasks": [word_task(words_csv, train_size=32, validation_size=16)],
            "strategies": {"one": {"optimizer": {"learning_rate": 3e-3}, **strategy}},
            "training": {
                "epochs": 6, "batch_size": 8, "max_length": 16, "evaluate_every": 2, "warmup": 0.0,
                "schedule": "constant", "keep": "last",
            },
            "seeds": {"tune": 1, "confirm": 0},
            "resources": {"checkpoint_seconds": 0},
        } | changes  # fmt: skip
        key = json.dumps(content)
        if key not in made:
            folder = tmp_path_factory.mktemp("strategy")
            (folder / "sweep.yaml").write_text(key)  # YAML holds JSON
            loaded = spec.load(folder / "sweep.yaml")
            plan = make_plan(loaded, prepare(loaded))
            made[key] = plan, workspace_of(plan, folder / "results")
        return made[key]

    return make


@pytest.fixture(scope="module")
def whole(planned: Any) -> Any:
    """`whole(name)`: what a trial with a part comes to when nothing disturbs it; run once."""
    made = {"freeze": result(*planned(strategy_of("freeze")))}  # before any other part has run

    def run(name: str) -> Any:
        if name not in made:
            made[name] = result(*planned(strategy_of(name)))
        return made[name]

    return run


def trial_of(plan: Plan) -> Trial:
    cell = plan.cells[0]
    return plan.trial(cell, cell.space.default, 0, "tune")


def result(plan: Plan, workspace: Workspace, points: int | None = None) -> Any:
    """What a trial comes to; with `points`, it is abandoned after so many evaluations."""
    trial = trial_of(plan).as_dict()
    running = run_trial(trial, workspace)
    while points is None or points > 0:
        try:
            next(running)
        except StopIteration as ended:
            record = ended.value
            workspace.paths.trial(record["trial_id"]).unlink()
            assert record["status"] == "finished", record["reason"]
            notes = [note for note in record["notes"] if "kept" in note]
            return {"notes": notes, **{key: record[key] for key in ("metrics", "curve", "drift", "stages")}}
        points = None if points is None else points - 1
    running.close()
    return None


def test_none_leaves_anything_behind(planned: Any, whole: Any) -> None:
    """What a trial came to before the parts ran in this process, it comes to after them."""
    for name in LOUDEST:
        whole(name)
    assert result(*planned(strategy_of("freeze"))) == whole("freeze")


@every_part
def test_it_comes_to_the_same_where_nothing_is_shared(name: str, planned: Any, whole: Any) -> None:
    """Whatever a part adds, hooks or looks at: rungs that are read from the store and positions that are not
    computed are none of its business."""
    plan, workspace = planned(strategy_of(name))
    shared, alone = whole(name), result(plan, replace(workspace, passes={}, share=False))
    assert len(shared["curve"]) == len(alone["curve"]) > 0
    for ours, theirs in zip(shared["curve"], alone["curve"], strict=True):
        for loss in ("train_loss", "validation_loss"):
            assert ours[loss] == pytest.approx(theirs[loss], rel=1e-3, abs=1e-4)
    assert shared["drift"]["cka"] == pytest.approx(alone["drift"]["cka"], abs=1e-3)


@every_part
def test_it_trains_exactly_the_weights_that_it_says(name: str, planned: Any, tmp_path: Path) -> None:
    """What moves is what some stage lets train; all else stays as it came from disk or as it was drawn. Only
    a part that leaves gradients out may leave a whole tensor where it was."""
    plan, workspace = planned(strategy_of(name))
    trial = trial_of(plan)
    job = job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), torch.device("cpu"))
    assert any(part.name == name for part in job.recipe.parts), "the part does nothing here"
    said = {w.name for stage in job.stages for w in job.tuned.weights(stage, job.recipe.parts)}
    before = {n: p.detach().clone() for n, p in job.tuned.model.named_parameters()}
    member = Member(job, Progress(), None, Checkpoints(ResultPaths(tmp_path), "t", 1e9))
    moved: set[str] = set()
    for _ in fit([member]):  # as the last step leaves it: what was added may be merged at the end
        moved = {n for n, p in job.tuned.model.named_parameters() if not torch.equal(p, before[n])}
    assert member.error is None
    assert moved <= said
    assert moved == said or GRADIENTS in PARTS[name].claims
    assert moved, "nothing trains"


@pytest.mark.long
@every_part
def test_it_leaves_nothing_behind(name: str, planned: Any, whole: Any) -> None:
    """The same trial gives the same again, and so does another that had run before it."""
    first, other = whole(name), whole("freeze")
    assert result(*planned(strategy_of(name))) == first
    assert result(*planned(strategy_of("freeze"))) == other
    assert not first["notes"]


@every_part
@pytest.mark.parametrize("points", [pytest.param(1, marks=pytest.mark.long), 6])
def test_it_goes_on_where_it_was_interrupted(name: str, points: int, planned: Any, whole: Any) -> None:
    """In the middle of an epoch, and so of a stage: what comes is what the same trial gave in one go."""
    plan, workspace = planned(strategy_of(name))
    result(plan, workspace, points=points)
    assert workspace.paths.checkpoint(trial_of(plan).trial_id).exists()
    assert result(plan, workspace) == whole(name)
    assert not whole(name)["notes"]


@every_part
def test_its_work_is_counted(name: str, planned: Any) -> None:
    """Some FLOPs, no more than three times what full fine-tuning takes."""
    flops = trial_of(planned(strategy_of(name))[0]).flops
    full = trial_of(planned({"freeze": 0})[0]).flops
    assert 0 < flops <= 3 * full


@pytest.mark.parametrize(
    "name", sorted(name for name, preset in presets().items() if not ELSEWHERE.keys() & preset.definition)
)
def test_every_ready_strategy_can_be_planned(name: str, planned: Any) -> None:
    """By its name alone; it says where it comes from."""
    plan, _ = planned({}, strategies={"one": {"use": name}})
    assert trial_of(plan).stages
    assert presets()[name].source


@pytest.mark.timeout(240)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    parts=st.sets(st.sampled_from(sorted(set(PARTS) - set(ELSEWHERE))), min_size=2, max_size=4),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    regularizer=st.sampled_from([None, "l2", "l2-sp"]),
)
def test_parts_go_together_or_say_why_not(
    parts: set[str], optimizer: str, regularizer: str | None, planned: Any
) -> None:
    """Whatever is composed: it is refused when the file is read, at the place of one of them, with a reason;
    or it trains to its end."""
    strategy: dict[str, Any] = {"optimizer": {"name": optimizer, "learning_rate": 1e-3}}
    for name in sorted(parts):
        strategy |= strategy_of(name)
    if regularizer is not None:
        strategy["regularizer"] = regularizer
    try:
        plan, workspace = planned(strategy)
    except InputError as error:
        for mistake in error.mistakes:
            assert "strategies.one" in mistake.place, mistake
            assert mistake.reason
        return
    assert result(plan, workspace)["curve"]
