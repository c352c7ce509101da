"""Runs one trial: the loop, and around it checkpoint, curves, test, record. Whatever happens has a status."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator, Mapping
from typing import Any

import torch

from harness.cache import digest
from harness.errors import HarnessError
from harness.plan import FORMAT, SOURCE
from harness.prepare import ModelFacts
from harness.recipe import parse
from harness.records import provenance
from harness.records.record import Record, Status, write_predictions, write_record
from harness.records.tensorboard import CELL_COLUMNS, FINAL_TEST, FINAL_VALIDATION, RunWriter, run_folder
from harness.training import kept, sources
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.data import open_split
from harness.training.loop import DivergedError, Job, Point, evaluate, fit, memory_mb
from harness.training.model import fine_tuned, pretrained
from harness.training.workspace import Workspace


def pick_device(workspace: Workspace) -> torch.device:
    """The accelerator that the trial has reserved (nothing else is visible), or the CPU.

    Raises: RuntimeError if one is reserved and torch sees none: the CPU would be a silent stand-in.
    """
    if workspace.gpus > 0 and not torch.cuda.is_available():
        raise RuntimeError(
            "a GPU is reserved for this trial, and torch sees none (driver or CPU-only build?)"
        )
    return torch.device("cuda", 0) if workspace.gpus > 0 else torch.device("cpu")


def pin_threads(workspace: Workspace) -> None:
    """As many CPU threads as the trial has reserved; also, results depend on their number."""
    torch.set_num_threads(max(1, int(workspace.cpus)))


def run_trial(trial: Mapping[str, Any], workspace: Workspace) -> Generator[Record, None, Record]:
    """Run a trial to its end, yielding its record so far after every evaluation.

    The record is written when the trial ends; a trial that is abandoned (the generator is closed) leaves its
    checkpoint, and the caller decides what its end means.
    """
    pin_threads(workspace)
    device = pick_device(workspace)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    paths = workspace.paths
    if trial["phase"] == SOURCE and (known := sources.recall(trial, workspace)) is not None:
        return known
    checkpoints = Checkpoints(paths.checkpoint(trial["trial_id"]), workspace.checkpoint_seconds)
    loaded = checkpoints.load()
    progress, saved = loaded if loaded is not None else (Progress(), None)
    progress.attempts += loaded is not None
    model_facts = workspace.models[trial["task"], trial["backbone"]]
    started = time.monotonic() - progress.wall_s
    writer = RunWriter(run_folder(paths, trial))
    status: Status = "finished"
    reason = ""
    metrics: dict[str, dict[str, float] | None] = {"validation": None, "test": None}
    retention: dict[str, Any] | None = None
    notes: list[str] = []
    drift: dict[str, Any] = {"relative_l2": None}
    try:
        recipe = parse(trial["recipe"], trial["strategy"])
        group = digest([*(trial[name] for name in CELL_COLUMNS), trial["hyperparameters"]])
        writer.hyperparameters(trial, group)
        for point in progress.curve:
            writer.point(point)
        job = _job(trial, workspace, recipe, device, model_facts)
        for point in fit(job, progress, saved, checkpoints):
            writer.point(point)
            yield draft(trial, workspace, progress, "stopped", "stopped by the scheduler", device)
        metrics["validation"] = final_point(job, progress)["validation"]
        final = {FINAL_VALIDATION: metrics["validation"][job.task.primary_metric]}  # type: ignore[index]
        if trial["phase"] != "tune":
            test = open_split(workspace, *_where(trial, recipe.training.max_length), "test")
            evaluation = evaluate(job, test)
            progress.flops += len(test) * sum(job.flops)
            metrics["test"] = evaluation.metrics
            final[FINAL_TEST] = evaluation.metrics[job.task.primary_metric]
            rows = [{"example": index, **row} for index, row in enumerate(evaluation.predictions)]
            write_predictions(paths, trial["trial_id"], rows)
        writer.scalars(final, progress.steps)
        if trial["phase"] == SOURCE:
            sources.save(trial, workspace, job)
        progress.wall_s = time.monotonic() - started
        progress.peak_memory_mb = max(progress.peak_memory_mb, memory_mb(device))
        drift, retention = _kept(trial, workspace, job, notes)
    except DivergedError as error:
        status, reason = "diverged", str(error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        status, reason = "infeasible", f"out of memory: {error}"
    except Exception as error:
        if _out_of_memory(error):
            status, reason = "infeasible", f"out of memory: {error}"
        else:
            status, reason = "failed", explain(error)
    finally:
        writer.close()
    if status != "finished":
        progress.wall_s = time.monotonic() - started
        progress.peak_memory_mb = max(progress.peak_memory_mb, memory_mb(device))
    record = draft(trial, workspace, progress, status, reason, device)
    record["metrics"] = metrics
    record["drift"] = drift
    record["retention"] = retention
    record["notes"] += notes
    write_record(paths, record)
    if trial["phase"] == SOURCE and status == "finished":
        sources.remember(record, workspace)
    checkpoints.remove()
    return record


def _kept(
    trial: Mapping[str, Any], workspace: Workspace, job: Job, notes: list[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Drift and retention. They look at the model and are no part of what the strategy costs or comes to:
    where they fail, a note says so."""
    drift: dict[str, Any] = {"relative_l2": None}
    retention: dict[str, Any] | None = None
    try:
        drift = kept.drift(job, pretrained(workspace, trial["task"], trial["backbone"]))
        retention = sources.retention(trial, workspace, job)
    except Exception as error:
        notes.append(f"what was kept is not measured: {explain(error)}")
    return drift, retention


def _where(trial: Mapping[str, Any], max_length: int | None) -> tuple[str, str, int | None]:
    return trial["task"], trial["backbone"], max_length


def _job(
    trial: Mapping[str, Any], workspace: Workspace, recipe: Any, device: torch.device, facts: ModelFacts
) -> Job:
    where = _where(trial, recipe.training.max_length)
    return Job(
        recipe=recipe,
        task=workspace.task(trial["task"]),
        facts=workspace.facts[trial["task"]],
        tuned=fine_tuned(workspace, trial["task"], trial["backbone"], trial["seed"], device),
        train=open_split(workspace, *where, "train"),
        validation=open_split(workspace, *where, "validation"),
        seed=trial["seed"],
        device=device,
        flops=facts.flops,
    )


def final_point(job: Job, progress: Progress) -> Point:
    """The point of the curve whose weights the trial ends with."""
    best = job.recipe.training.keep == "best" and progress.best is not None
    return progress.curve[progress.best if best else -1]  # type: ignore[index]


def draft(
    trial: Mapping[str, Any],
    workspace: Workspace,
    progress: Progress,
    status: Status,
    reason: str,
    device: torch.device,
) -> Record:
    """The record of a trial as far as it has come; validation is that of the last evaluation."""
    devices = workspace.gpus if device.type == "cuda" else workspace.cpus
    last = progress.curve[-1]["validation"] if progress.curve else None
    model = workspace.models[trial["task"], trial["backbone"]]
    return {
        "format": FORMAT,
        "trial_id": trial["trial_id"],
        "phase": trial["phase"],
        "task": trial["task"],
        "kind": workspace.task(trial["task"]).kind,
        "backbone": trial["backbone"],
        "strategy": trial["strategy"],
        "hyperparameters": trial["hyperparameters"],
        "recipe": trial["recipe"],
        "stages": trial["stages"],
        "seed": trial["seed"],
        "status": status,
        "reason": reason,
        "metrics": {"validation": last, "test": None},
        "curve": list(progress.curve),
        "cost": {
            "wall_s": progress.wall_s,
            "device_s": progress.wall_s * devices,
            "flops": progress.flops,
            "steps": progress.steps,
            "trainable_params": progress.trainable_params,
            "peak_memory_mb": progress.peak_memory_mb,
        },
        "drift": {"relative_l2": None},
        "retention": None,
        "attempts": progress.attempts,
        "notes": list(model.remarks),
        "provenance": {
            "versions": provenance.versions(),
            "git": provenance.git(),
            "hardware": {
                **provenance.hardware(),
                "device": _device_name(device),
                "threads": torch.get_num_threads(),
            },
            "data": {
                "fingerprint": workspace.facts[trial["task"]].fingerprint,
                "sizes": workspace.facts[trial["task"]].sizes,
                "skipped": workspace.facts[trial["task"]].skipped,
            },
            "weights": model.fingerprint,
        },
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _out_of_memory(error: Exception) -> bool:
    """The CPU allocator raises a plain RuntimeError."""
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        said in text for said in ("out of memory", "not enough memory", "can't allocate memory")
    )


def explain(error: Exception) -> str:
    """What went wrong and where, in a line or two: the innermost frame outside the libraries."""
    if isinstance(error, HarnessError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" ({own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}, in {own[-1].name})" if own else ""
    return f"{type(error).__name__}: {error}{place}"
