"""Source tasks: what a backbone is trained on before the sweep, kept by content, shared by all its trials."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.backbones.ladder import build_ladder
from harness.cache import digest, discard, seal, written_once
from harness.plan import FORMAT
from harness.recipe import parse
from harness.records import remote
from harness.records.paths import void
from harness.records.quarantine import remark
from harness.records.record import Record, finite, read_record, write_record
from harness.records.seal import write_sealed
from harness.records.sound import folder_fault
from harness.tasks.base import Batch
from harness.training.data import open_split
from harness.training.job import Job, sampled
from harness.training.kept import put_back
from harness.training.loop import evaluate
from harness.training.model import FineTuned, prepared, source_model
from harness.training.seeds import SAMPLE, derive
from harness.training.workspace import Workspace

# To be raised when what is kept of a source changes.
_FORMAT = 2


def retention(trial: Mapping[str, Any], workspace: Workspace, job: Job) -> dict[str, Any] | None:
    """How much of its source task the model still knows: its score there `before` and `after` fine-tuning,
    on the source task's validation split while tuning, on its test split after. None without a source
    task."""
    source = workspace.sources.get(trial["backbone"])
    if source is None or source["task"] == trial["task"]:
        return None
    recipe = parse(source["recipe"], source["strategy"])
    split = "validation" if trial["phase"] == "tune" else "test"
    model = copy.deepcopy(source_model(workspace, trial["backbone"])).to(job.device)
    frozen = min(stage.frozen for stage in job.stages)
    tuned = prepared(FineTuned(model, build_ladder(model), {}), frozen, job.recipe.parts, job.seed)
    put_back(job.tuned.model, model)
    task = workspace.task(source["task"])
    there = replace(
        job,
        recipe=recipe,
        task=task,
        facts=workspace.facts[source["task"]],
        tuned=tuned,
        prefix=None,
    )
    rows = open_split(workspace, source["task"], source["backbone"], recipe.training.max_length, split)
    before = read_record(remote.latest(workspace.paths.trial(source["trial_id"])))
    return {
        "task": source["task"],
        "metric": task.primary_metric,
        "direction": "max" if task.higher_is_better else "min",
        "split": split,
        "before": None if before is None else (before["metrics"][split] or {}).get(task.primary_metric),
        "after": evaluate(there, rows).metrics[task.primary_metric],
    }


def examples(
    trial: Mapping[str, Any], workspace: Workspace, device: torch.device
) -> tuple[Any, Iterator[Batch]] | None:
    """The model of the backbone's source task with that task's head, in evaluation, and batches of that
    task's training examples in an order drawn from the trial's seed, both on the device; None without a
    source task."""
    source = workspace.sources.get(trial["backbone"])
    if source is None or source["task"] == trial["task"]:
        return None
    settings = parse(source["recipe"], source["strategy"]).training
    split = open_split(workspace, source["task"], source["backbone"], settings.max_length, "train")
    model = copy.deepcopy(source_model(workspace, trial["backbone"])).to(device).eval()
    seed = derive(trial["seed"], SAMPLE)
    return model, sampled(split, len(split), settings.batch_size, seed, device)


def save(trial: Mapping[str, Any], workspace: Workspace, job: Job) -> None:
    """Keep the model, below the results, for the trials that start from it."""
    folder = workspace.paths.source(trial["trial_id"])
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt, whose record was lost

    def write(path: Path) -> None:
        job.tuned.model.save_pretrained(path)
        job.task.processor(workspace.backbone(trial["backbone"])).save_pretrained(path)
        seal(path)

    written_once(folder, write)
    remote.push_folder(folder)


def remember(record: Record, workspace: Workspace) -> None:
    """Let other sweeps of this machine find a trained source. They can do without: a full disk is no fault
    of this trial."""

    def write(path: Path) -> None:
        shutil.copytree(workspace.paths.source(record["trial_id"]), path / "model")
        write_sealed(path / "record.json", finite(record))
        seal(path)

    with contextlib.suppress(OSError):
        written_once(_cached(record["trial_id"], workspace), write)


def recall(trial: Mapping[str, Any], workspace: Workspace) -> Record | None:
    """The record of a source that this machine has trained before, its model and record put in their place
    below the results; None if it has not."""
    cached = _cached(trial["trial_id"], workspace)
    if not cached.is_dir():
        return None
    record = read_record(cached / "record.json", trial["trial_id"])
    if (why := folder_fault(cached)) or record is None:
        remark(workspace.paths, cached, why or "record.json is not of this trial")
        discard(cached)
        return None
    record["predictions"] = None  # which stayed with the sweep that trained it
    for name in ("task", "backbone", "strategy"):  # another sweep may call them otherwise
        record[name] = trial[name]
    folder = workspace.paths.source(trial["trial_id"])
    shutil.rmtree(folder, ignore_errors=True)
    written_once(folder, lambda path: void(shutil.copytree(cached / "model", path, dirs_exist_ok=True)))
    remote.push_folder(folder)
    write_record(workspace.paths, record)
    return record


def _cached(trial_id: str, workspace: Workspace) -> Path:
    """A trial's id names neither code nor libraries, which a results folder records; other sweeps must not
    get what older ones made."""
    versions = [metadata.version(package) for package in ("torch", "transformers")]
    made_by = [_FORMAT, FORMAT, __version__, *versions]
    return Path(workspace.cache) / "sources" / digest([trial_id, made_by])
