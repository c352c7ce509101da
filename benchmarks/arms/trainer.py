"""What the two Trainer arms have in common: freezing, the penalties, and reporting to Ray Tune.

`job` is what all trials share (see `grids.Work`), `trial` is one of its trials.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments


def freeze(model: Any, frozen: int) -> list[nn.Module]:
    """Switch off the gradients of the first `frozen` of (embeddings, block 1, block 2, …); all of them means
    that the head alone trains, so that BERT's pooler is frozen too. Returns what is frozen."""
    parts = [model.base_model.embeddings, *model.base_model.encoder.layer]
    chosen = [model.base_model] if frozen == len(parts) else parts[:frozen]
    for part in chosen:
        part.requires_grad_(False)
    return chosen


class PenalisedTrainer(Trainer):
    """A Trainer whose training loss has a quadratic penalty: `l2` towards zero over all that trains, or
    `l2_sp` towards the pretrained weights over what trains of the base.

    Favours this arm: no copy of the weights is made, and nothing computed, where there is no penalty.
    """

    def __init__(self, *args: Any, trial: dict[str, Any], asleep: Iterable[nn.Module] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.l2, self.l2_sp, self.asleep = trial["l2"], trial["l2_sp"], list(asleep)
        trains = [p for p in self.model.parameters() if p.requires_grad]
        base = {id(p) for p in self.model.base_model.parameters()}
        self.shrunk = trains if self.l2 else []
        self.pulled = [(p, p.detach().clone()) for p in trains if id(p) in base] if self.l2_sp else []

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        training = model.training
        if training:
            for part in self.asleep:  # the Trainer wakes them before every step
                part.eval()
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        if training and self.shrunk:
            loss = loss + self.l2 / 2 * sum(p.square().sum() for p in self.shrunk)
        if training and self.pulled:
            loss = loss + self.l2_sp / 2 * sum((p - start).square().sum() for p, start in self.pulled)
        return (loss, outputs) if return_outputs else loss


class Report(TrainerCallback):
    """Hands every evaluation to Tune."""

    def __init__(self, trial_id: str, started: float) -> None:
        self.trial_id, self.started = trial_id, started

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        # not `trial_id`, which is Tune's own
        who = {"name": self.trial_id, "started": self.started, "ended": time.time()}
        tune.report({**who, "accuracy": metrics["eval_accuracy"]})


def accuracy(predicted: Any) -> dict[str, float]:
    """Favours these arms: the harness also computes macro F1."""
    return {"accuracy": float((np.argmax(predicted.predictions, axis=-1) == predicted.label_ids).mean())}


def arguments(job: dict[str, Any], trial: dict[str, Any], **more: Any) -> TrainingArguments:
    """The grid's settings; what is not named keeps the Trainer's default: fused AdamW with the betas and ε of
    the harness, linear schedule, batches in random order, logs every 500 steps (here never).

    Favours these arms: `save_strategy: no` spares them checkpoints, but then the last weights are scored,
    while the harness keeps a copy of the best ones.
    """
    return TrainingArguments(
        output_dir=str(Path(job["scratch"]) / "trainer"),
        learning_rate=trial["learning_rate"],
        weight_decay=job["weight_decay"],
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=job["batch_size"],
        per_device_eval_batch_size=job["evaluation_batch_size"],
        lr_scheduler_type="linear",
        warmup_steps=job["warmup"],  # below 1: a share of all steps
        max_grad_norm=job["clip"],
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        seed=trial["seed"],
        bf16=job["precision"] == "bf16",
        use_cpu=True,
        **more,
    )


def write_results(job: dict[str, Any], grid: Any) -> None:
    """The last evaluation of every trial, for the script that started this arm; a trial that failed is left
    out, and missed there."""
    times = ("started", "ended")
    rows = [
        {"trial_id": said["name"], "accuracy": said["accuracy"], **{name: said[name] for name in times}}
        for said in (result.metrics for result in grid if result.error is None)
    ]
    Path(job["results"]).write_text(json.dumps(rows))


def read_job(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def cores() -> int:
    return os.cpu_count() or 1
