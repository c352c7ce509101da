"""The record of a trial as far as it has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from harness.plan import FORMAT
from harness.records import provenance
from harness.records.record import Record, Status
from harness.sections import reserved
from harness.training.checkpoint import Progress
from harness.training.workspace import FIRST, Terms, Workspace

# Of a trial that shares no work.
UNSHARED = {"stored": [], "bundle": 1, "batched": False, "narrowed": False}


def draft(
    trial: Mapping[str, Any],
    workspace: Workspace,
    progress: Progress,
    status: Status,
    reason: str,
    device: torch.device,
    terms: Terms = FIRST,
) -> Record:
    """The record of a trial as far as it has come; validation is that of the last evaluation."""
    cpus, gpus = reserved(workspace.cpus, workspace.gpus, terms.times)
    devices = gpus if device.type == "cuda" else cpus
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
        "sharing": dict(UNSHARED),
        "predictions": None,
        "resources": {"cpus": cpus, "gpus": gpus},
        "attempts": progress.attempts,
        "notes": list(model.remarks),
        "provenance": {
            "versions": provenance.versions(),
            "git": provenance.git(),
            "code": provenance.code(),
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
