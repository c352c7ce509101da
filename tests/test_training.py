"""The loop: it trains what it should, as it should, and the same way whatever ran before."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import word_task

from harness import spec
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.recipe import parse
from harness.records.paths import ResultPaths
from harness.records.record import Record, read_record
from harness.training import run as run_module
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.job import Job
from harness.training.kept import distance
from harness.training.loop import evaluate, fit
from harness.training.member import DivergedError, Member
from harness.training.run import final_point, run_trial
from harness.training.workspace import Workspace, workspace_of


@pytest.fixture
def planned(sweep: Any, tmp_path: Path) -> Any:
    """`planned(strategy, **changes)`: plan and workspace of a sweep with this one strategy."""

    def make(strategy: dict[str, Any] | None = None, **changes: Any) -> tuple[Plan, Workspace]:
        defaults: dict[str, Any] = {"strategies": {"one": strategy or {"freeze": 0}}, "baseline": None}
        if strategy is None or "optimizer" not in strategy:
            defaults["optimizer"] = {"learning_rate": 3e-3}
        loaded = spec.load(sweep(**{**defaults, **changes}))
        plan = make_plan(loaded, prepare(loaded))
        return plan, workspace_of(plan, tmp_path / "results")

    return make


def run(
    plan: Plan, workspace: Workspace, seed: int = 0, phase: str = "tune", points: int | None = None
) -> Record:
    """Run the first configuration of the first cell; with `points`, abandon it after so many evaluations."""
    cell = plan.cells[0]
    trial = plan.trial(cell, (cell.configurations or [cell.space.default])[0], seed, phase)
    running = run_trial(trial.as_dict(), workspace)
    draft = None
    try:
        while points is None or points > 0:
            draft = next(running)
            points = None if points is None else points - 1
    except StopIteration as ended:
        return ended.value
    running.close()
    assert draft is not None
    return draft


def job_of(plan: Plan, workspace: Workspace, seed: int = 0) -> Job:
    cell = plan.cells[0]
    trial = plan.trial(cell, cell.space.default, seed, "tune")
    return run_module.job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), torch.device("cpu"))


def train(job: Job, path: Path) -> Progress:
    progress = Progress()
    member = Member(job, progress, None, Checkpoints(ResultPaths(path), "t", 1e9))
    for _ in fit([member]):
        pass
    if member.error is not None:
        raise member.error
    return progress


def result(record: Record) -> Any:
    """What a trial is: everything in its record but what it took and where it ran."""
    return {key: record[key] for key in ("status", "metrics", "curve", "drift")}  # type: ignore[literal-required]


def test_it_learns(planned: Any, words_csv: Path) -> None:
    plan, workspace = planned(
        {"freeze": 0, "optimizer": {"learning_rate": 1e-2}},
        tasks=[word_task(words_csv, train_size=160)],
        training={"epochs": 12, "batch_size": 8, "max_length": 16},
    )
    record = run(plan, workspace, phase="confirm")
    assert record["status"] == "finished"
    assert record["metrics"]["test"]["accuracy"] > 0.6  # chance is a third
    assert record["curve"][-1]["train_loss"] < record["curve"][0]["train_loss"] / 2


def test_the_record_explains_itself_and_is_on_disk(planned: Any) -> None:
    plan, workspace = planned()
    record = run(plan, workspace, phase="confirm")
    assert read_record(workspace.paths.trial(record["trial_id"])) == record
    wanted = {
        "trial_id", "phase", "task", "kind", "backbone", "strategy", "hyperparameters", "seed", "status",
        "reason", "metrics", "curve", "cost", "drift", "provenance",
    }  # fmt: skip
    assert wanted <= set(record)
    cost = {"wall_s", "device_s", "flops", "steps", "trainable_params", "peak_memory_mb"}
    assert set(record["cost"]) == cost
    assert all(value > 0 for value in record["cost"].values())
    assert record["cost"]["steps"] == 2 * math.ceil(64 / 8)
    assert set(record["provenance"]) == {"versions", "git", "code", "hardware", "data", "weights"}
    import pandas as pd

    predictions = pd.read_parquet(workspace.paths.predictions(record["trial_id"]))
    right = (predictions["prediction"] == predictions["reference"]).mean()
    assert len(predictions) == 32 and right == record["metrics"]["test"]["accuracy"]


def test_test_is_sealed_while_tuning(planned: Any) -> None:
    plan, workspace = planned()
    record = run(plan, workspace, phase="tune")
    assert record["metrics"]["test"] is None
    assert not workspace.paths.predictions(record["trial_id"]).exists()


def test_a_trial_gives_the_same_result_first_or_last(planned: Any) -> None:
    """Nothing that ran before in the process changes a trial."""
    plan, workspace = planned()
    first = run(plan, workspace, seed=7)
    other, elsewhere = planned({"freeze": 2, "optimizer": {"name": "sgd"}})
    run(other, elsewhere, seed=1)
    torch.manual_seed(123)
    np.random.seed(5)
    assert result(run(plan, workspace, seed=7)) == result(first)
    assert result(run(plan, workspace, seed=8)) != result(first)


def test_head_and_order_are_shared_by_strategies_of_a_seed(planned: Any) -> None:
    full = job_of(*planned({"freeze": 0}), seed=3)
    head = job_of(*planned({"freeze": "all"}), seed=3)
    for (_, a), (_, b) in zip(
        full.tuned.ladder.head.parameters, head.tuned.ladder.head.parameters, strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("frozen", [0, 2, "all"])
def test_frozen_weights_stay_and_the_others_move(planned: Any, tmp_path: Path, frozen: Any) -> None:
    job = job_of(*planned({"freeze": frozen}))
    rungs = job.tuned.ladder.rungs
    depth = len(rungs) if frozen == "all" else frozen
    train(job, tmp_path / "c.pt")
    for index, rung in enumerate(rungs):
        moved = any(not torch.equal(p, job.tuned.reference[name]) for name, p in rung.parameters)
        assert moved == (index >= depth), rung.name
    assert (distance(job.tuned)["relative_l2"] == 0) == (frozen == "all")


def test_the_loop_equals_a_plain_one(planned: Any, tmp_path: Path) -> None:
    """One epoch against a loop written out here: same order, AdamW, warm-up and linear decay, clipping."""
    strategy = {"freeze": 2, "optimizer": {"name": "adamw", "learning_rate": 5e-3, "weight_decay": 0.1}}
    plan, workspace = planned(
        strategy, training={"epochs": 1, "batch_size": 8, "max_length": 16, "warmup": 0.25, "clip": 0.5}
    )
    job, plain = job_of(plan, workspace), job_of(plan, workspace)
    train(job, tmp_path / "c.pt")

    from harness.training.data import train_batches
    from harness.training.seeds import derive

    model = plain.tuned.model
    trains = [p for rung in plain.tuned.ladder.rungs[2:] for _, p in rung.parameters]
    trains += [p for _, p in plain.tuned.ladder.head.parameters]
    still = {id(p) for p in model.parameters()} - {id(p) for p in trains}
    for p in model.parameters():
        p.requires_grad_(id(p) not in still)
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in trains if p.ndim > 1], "weight_decay": 0.1},
         {"params": [p for p in trains if p.ndim == 1], "weight_decay": 0.0}], lr=5e-3, fused=True,
    )  # fmt: skip
    torch.manual_seed(derive(0, "noise"))
    steps = 8
    for step, indices in enumerate(train_batches(plain.train, 8, derive(0, "order", 0), False)):
        model.train()
        model.bert.embeddings.eval()
        model.bert.encoder.layer[0].eval()
        factor = step / 2 if step < 2 else (steps - step) / (steps - 2)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * factor
        model(**plain.train.batch(indices)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trains, 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for (name, a), (_, b) in zip(job.tuned.model.named_parameters(), model.named_parameters(), strict=True):
        if not name.endswith("key.bias"):  # whose gradient is nothing but rounding, which Adam makes visible
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_accumulation_changes_memory_and_not_the_result(planned: Any, tmp_path: Path) -> None:
    """Without dropout, pieces of a batch give the gradient of the whole, uneven pieces included."""
    ended = []
    for accumulation in (1, 3):
        settings = {"epochs": 1, "batch_size": 8, "max_length": 16, "accumulation": accumulation}
        job = job_of(*planned({"freeze": 0, "optimizer": {"name": "sgd"}}, training=settings))
        for module in job.tuned.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        train(job, tmp_path / "c.pt")
        ended.append([p.detach().clone() for p in job.tuned.model.parameters()])
    for a, b in zip(*ended, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["loss", "decoupled"])
def test_l2_sp_holds_the_weights_near_their_start(planned: Any, mode: str) -> None:
    drift = []
    for strength in (0.0, 1.0, 30.0):
        regularizer = {"name": "l2-sp", "strength": strength, "mode": mode}
        plan, workspace = planned(
            {
                "freeze": 0,
                "regularizer": regularizer,
                "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0},
            }
        )
        drift.append(run(plan, workspace)["drift"]["relative_l2"])
    assert drift[0] > drift[1] > drift[2] > 0


def test_a_loss_that_is_not_finite_diverges_at_once(planned: Any) -> None:
    plan, workspace = planned({"freeze": 0, "regularizer": {"name": "fault", "what": "nan", "at": 3}})
    record = run(plan, workspace)
    assert record["status"] == "diverged" and "step 3" in record["reason"]
    assert record["cost"]["steps"] == 2 and record["metrics"] == {"validation": None, "test": None}


def test_weights_that_break_in_the_last_step_diverge_at_the_evaluation(planned: Any) -> None:
    """Nothing was seen of it in the loss before the step, nor in its gradient."""
    plan, workspace = planned({"freeze": 0, "regularizer": {"name": "fault", "what": "blow up", "at": 8}})
    record = run(plan, workspace)
    assert record["status"] == "diverged" and "validation loss is nan at step 8" in record["reason"]
    assert record["curve"] == [] and read_record(workspace.paths.trial(record["trial_id"])) is not None


def test_exploding_weights_diverge(planned: Any, tmp_path: Path) -> None:
    strategy = {
        "freeze": 0,
        "optimizer": {"name": "sgd", "learning_rate": 1.0},
        "regularizer": {"name": "l2", "strength": 1e6},
    }
    settings = {"epochs": 2, "batch_size": 8, "max_length": 16, "warmup": 0.0, "clip": None}
    job = job_of(*planned(strategy, training=settings))
    with pytest.raises(DivergedError, match="at step"):
        train(job, tmp_path / "c.pt")


@pytest.mark.parametrize(("what", "status"), [("raise", "failed"), ("oom", "infeasible")])
def test_what_goes_wrong_gets_its_status(planned: Any, what: str, status: str) -> None:
    plan, workspace = planned({"freeze": 0, "regularizer": {"name": "fault", "what": what, "at": 2}})
    record = run(plan, workspace)
    assert record["status"] == status
    assert record["reason"] and "Traceback" not in record["reason"]
    if what == "raise":
        assert "broken on purpose" in record["reason"] and "fault.py" in record["reason"]


@pytest.mark.parametrize("abandoned_after", [1, 2, 3])
@pytest.mark.parametrize("every", [None, 5])
def test_a_resumed_trial_ends_as_an_undisturbed_one(
    planned: Any, abandoned_after: int, every: int | None
) -> None:
    """Killed after any evaluation, at an epoch's end or within it, with dropout on."""
    plan, workspace = planned(
        {
            "freeze": 1,
            "optimizer": {"learning_rate": 3e-3},
            "regularizer": {"name": "l2-sp", "strength": 0.1},
        },
        training={"epochs": 3, "batch_size": 8, "max_length": 16, "evaluate_every": every},
        resources={"checkpoint_seconds": 0},
    )
    whole = run(plan, workspace, phase="confirm")
    workspace.paths.trial(whole["trial_id"]).unlink()
    part = run(plan, workspace, phase="confirm", points=abandoned_after)
    assert len(part["curve"]) == abandoned_after
    assert workspace.paths.checkpoint(whole["trial_id"]).exists()
    resumed = run(plan, workspace, phase="confirm")
    assert resumed["attempts"] == 2 and resumed["cost"]["steps"] == whole["cost"]["steps"]
    assert result(resumed) == result(whole)
    assert not workspace.paths.checkpoint(whole["trial_id"]).exists()


def test_a_damaged_checkpoint_counts_as_none(planned: Any) -> None:
    plan, workspace = planned(resources={"checkpoint_seconds": 0})
    whole = run(plan, workspace)
    run(plan, workspace, points=1)
    path = workspace.paths.checkpoint(whole["trial_id"])
    path.write_bytes(path.read_bytes()[:1000])
    again = run(plan, workspace)
    assert again["attempts"] == 1 and result(again) == result(whole)


def test_the_best_weights_are_kept(planned: Any, tmp_path: Path) -> None:
    """What is scored at the end is the evaluation that was best, not the last."""
    settings = {"epochs": 6, "batch_size": 8, "max_length": 16, "schedule": "constant"}
    made = planned({"freeze": 0, "optimizer": {"learning_rate": 2e-2}}, training=settings)
    for seed in range(10):  # the first seed that gets worse at the end: only there the test means anything
        job = job_of(*made, seed=seed)
        progress = train(job, tmp_path / "c.pt")
        scores = [point["validation"]["accuracy"] for point in progress.curve]
        if scores[-1] < max(scores):
            break
    assert scores[-1] < max(scores)
    assert progress.best == scores.index(max(scores))
    assert evaluate(job, job.validation).metrics["accuracy"] == max(scores)
    assert final_point(job, progress) == progress.curve[progress.best]


def test_lower_is_better_where_the_metric_says_so(planned: Any, words_csv: Path, tmp_path: Path) -> None:
    plan, workspace = planned(
        {"freeze": 0, "optimizer": {"learning_rate": 2e-2}},
        tasks=[word_task(words_csv, metrics=["error_rate", "accuracy"])],
        training={"epochs": 4, "batch_size": 8, "max_length": 16},
    )
    record = run(plan, workspace)
    errors = [point["validation"]["error_rate"] for point in record["curve"]]
    assert record["metrics"]["validation"]["error_rate"] == min(errors)


def test_patience_ends_a_trial_that_no_longer_improves(planned: Any) -> None:
    settings = {"epochs": 30, "batch_size": 8, "max_length": 16, "patience": 2, "warmup": 0.0}
    plan, workspace = planned({"freeze": "all", "optimizer": {"learning_rate": 1e-8}}, training=settings)
    record = run(plan, workspace)
    assert record["status"] == "finished" and len(record["curve"]) == 3


def test_steps_between_evaluations(planned: Any) -> None:
    settings = {"epochs": 2, "batch_size": 8, "max_length": 16, "evaluate_every": 5}
    plan, workspace = planned(training=settings)
    assert [point["step"] for point in run(plan, workspace)["curve"]] == [5, 10, 15, 16]


def test_evaluation_does_not_depend_on_batches(planned: Any) -> None:
    """Results come in the split's order, whatever the batches."""
    scores = []
    for size in (1, 7, 64):
        settings = {"epochs": 1, "batch_size": 8, "max_length": 16, "evaluation_batch_size": size}
        job = job_of(*planned(training=settings))
        evaluation = evaluate(job, job.validation)
        scores.append(np.array([row["scores"] for row in evaluation.predictions]))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_close_to_fp32(planned: Any, precision: str) -> None:
    ended = []
    for name in ("fp32", precision):
        settings = {"epochs": 1, "batch_size": 8, "max_length": 16, "precision": name}
        ended.append(run(*planned(training=settings)))
    assert ended[1]["status"] == "finished"
    assert ended[0]["trial_id"] != ended[1]["trial_id"]  # a precision is part of what a trial is
    assert ended[1]["curve"][0]["train_loss"] == pytest.approx(ended[0]["curve"][0]["train_loss"], rel=0.05)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_every_optimiser_with_every_schedule(planned: Any, name: str, schedule: str) -> None:
    settings = {"epochs": 1, "batch_size": 16, "max_length": 16, "schedule": schedule, "bucketing": True}
    record = run(*planned({"freeze": 2, "optimizer": {"name": name}}, training=settings))
    rate = record["curve"][-1]["learning_rate"]
    assert record["status"] == "finished"
    assert (rate > 0) == (schedule == "constant")


def test_head_multiplier_moves_the_head_faster(planned: Any, tmp_path: Path) -> None:
    moved = []
    for multiplier in (1.0, 10.0):
        optimizer = {"name": "sgd", "learning_rate": 1e-4, "momentum": 0.0, "head_multiplier": multiplier}
        job = job_of(*planned({"freeze": "all", "optimizer": optimizer}))
        before = [p.detach().clone() for _, p in job.tuned.ladder.head.parameters]
        train(job, tmp_path / "c.pt")
        after = [p for _, p in job.tuned.ladder.head.parameters]
        moved.append(sum(float((a.detach() - b).norm()) for a, b in zip(after, before, strict=True)))
    assert moved[1] == pytest.approx(10 * moved[0], rel=0.1)
