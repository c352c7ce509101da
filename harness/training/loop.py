"""The fine-tuning loop: minimises L(θ) + λ·R(θ) from pretrained weights. Read it top to bottom."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import psutil
import torch
from transformers import get_scheduler

from harness.backbones.flops import training_flops
from harness.recipe import Recipe
from harness.tasks.base import Facts, Task, to_device
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.data import Split, cut, evaluation_batches, train_batches
from harness.training.model import FineTuned
from harness.training.seeds import AUGMENTATION, NOISE, ORDER, derive

Point: TypeAlias = dict[str, Any]

_PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SCHEDULE = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


class DivergedError(Exception):
    """The loss or its gradient is no longer a finite number."""


@dataclass(frozen=True)
class Job:
    """Everything one run of the loop works on.

    Attributes:
        flops: forward FLOPs of one example per rung, then of the head.
    """

    recipe: Recipe
    task: Task
    facts: Facts
    tuned: FineTuned
    train: Split
    validation: Split
    seed: int
    device: torch.device
    flops: list[float]


@dataclass(frozen=True)
class Evaluation:
    """Attributes: mean loss, metrics by name, and per example, in the split's order, what the model said
    next to the reference."""

    loss: float
    metrics: dict[str, float]
    predictions: list[dict[str, Any]]


def fit(
    job: Job, progress: Progress, saved: dict[str, Any] | None, checkpoints: Checkpoints
) -> Generator[Point]:
    """Train, yielding a point of the curve after every evaluation; the model ends with the kept weights.

    `progress` is brought up to date before every yield, so that whoever stops the loop knows how far it
    came. `saved` are the tensors of the checkpoint that `progress` comes from.

    Raises: DivergedError at the first loss or gradient that is not finite.
    """
    settings, model, ladder = job.recipe.training, job.tuned.model, job.tuned.ladder
    stages = job.recipe.stages(len(ladder.rungs))
    deepest = min(stage.frozen for stage in stages)  # what never trains needs no copy
    steps_per_epoch = len(train_batches(job.train, settings.batch_size, 0, settings.bucketing))
    started = time.monotonic() - progress.wall_s
    seed_noise(derive(job.seed, NOISE))
    best_state: dict[str, torch.Tensor] | None = None
    if saved is not None:
        job.tuned.restore(saved["model"])
        best_state = saved["best"]

    for index in range(progress.stage, len(stages)):
        stage = stages[index]
        ladder.freeze(stage.frozen)
        weights = job.tuned.weights(stage.frozen)
        parameters = [weight.value for weight in weights]
        progress.trainable_params = max(progress.trainable_params, sum(p.numel() for p in parameters))
        optimizer = job.recipe.optimizer.build(job.tuned.parameter_groups(job.recipe.optimizer, stage.frozen))
        steps = stage.epochs * steps_per_epoch
        schedule = get_scheduler(
            _SCHEDULE[settings.schedule], optimizer, math.ceil(settings.warmup * steps), steps
        )
        scaler = torch.amp.GradScaler(job.device.type, enabled=settings.precision == "fp16")
        regularizer = job.recipe.regularizer
        penalty = regularizer.bind(weights) if regularizer is not None else None
        in_loss = penalty if regularizer is not None and regularizer.mode == "loss" else None
        in_step = penalty if regularizer is not None and regularizer.mode == "decoupled" else None
        if saved is not None:
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
            scaler.load_state_dict(saved["scaler"])
            restore_noise(saved["noise"], job.device)
            saved = None
        before = sum(earlier.epochs for earlier in stages[:index])
        loss_sum, loss_count = torch.zeros((), device=job.device), 0

        while progress.epoch < stage.epochs and not out_of_patience(job, progress):
            order_seed = derive(job.seed, ORDER, before + progress.epoch)
            batches = train_batches(job.train, settings.batch_size, order_seed, settings.bucketing)
            augmentation = derive(job.seed, AUGMENTATION, before + progress.epoch)
            for position in range(progress.batch, len(batches)):
                ladder.train(model, stage.frozen)
                loss = torch.zeros((), device=job.device)
                for piece in cut(batches[position], math.ceil(settings.batch_size / settings.accumulation)):
                    inputs = to_device(job.train.batch(piece, augmentation), job.device)
                    with autocast(settings.precision, job.device):
                        piece_loss = job.tuned(inputs).loss * (len(piece) / len(batches[position]))
                    scaler.scale(piece_loss).backward()
                    loss += piece_loss.detach()
                if in_loss is not None:
                    term = in_loss.value()
                    scaler.scale(term).backward()  # type: ignore[no-untyped-call]
                    loss += term.detach()
                if not math.isfinite(loss.item()):
                    raise DivergedError(f"the loss is {loss.item()} at step {progress.steps + 1}")
                scaler.unscale_(optimizer)
                limit = settings.clip if settings.clip is not None else math.inf
                norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
                finite = math.isfinite(norm.item())
                # fp16 overflows now and then: the scaler leaves that step out and halves its scale. A scale
                # below 1 cannot be overflow any more.
                if not finite and (not scaler.is_enabled() or scaler.get_scale() < 1):
                    raise DivergedError(f"the gradient's norm is {norm.item()} at step {progress.steps + 1}")
                if finite and in_step is not None:
                    in_step.shrink(
                        {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
                    )
                scaler.step(optimizer)
                scaler.update()
                if finite:
                    schedule.step()
                optimizer.zero_grad(set_to_none=True)
                progress.steps += 1
                progress.batch = position + 1
                progress.flops += len(batches[position]) * training_flops(job.flops, stage.frozen)
                loss_sum += loss
                loss_count += 1

                at_epoch_end = progress.batch == len(batches)
                every = settings.evaluate_every
                at_the_end = at_epoch_end and index == len(stages) - 1 and progress.epoch == stage.epochs - 1
                if not (at_epoch_end if every is None else at_the_end or progress.steps % every == 0):
                    continue
                evaluation = evaluate(job, job.validation)
                if not math.isfinite(evaluation.loss):
                    raise DivergedError(f"the validation loss is {evaluation.loss} at step {progress.steps}")
                progress.flops += len(job.validation) * sum(job.flops)
                point = {
                    "epoch": before + progress.epoch + progress.batch / len(batches),
                    "step": progress.steps,
                    "train_loss": float(loss_sum) / loss_count,
                    "validation_loss": evaluation.loss,
                    "validation": evaluation.metrics,
                    "learning_rate": float(schedule.get_last_lr()[0]),
                }
                loss_sum, loss_count = torch.zeros((), device=job.device), 0
                progress.curve.append(point)
                if progress.best is None or _better(job, point, progress.curve[progress.best]):
                    progress.best = len(progress.curve) - 1
                    best_state = job.tuned.state(deepest) if settings.keep == "best" else None
                progress.wall_s = time.monotonic() - started
                progress.peak_memory_mb = max(progress.peak_memory_mb, memory_mb(job.device))
                if checkpoints.due():
                    tensors = {
                        "model": job.tuned.state(deepest),
                        "best": best_state,
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "scaler": scaler.state_dict(),
                        "noise": noise(job.device),
                    }
                    checkpoints.save(progress, tensors)
                yield point
                if out_of_patience(job, progress):
                    break
            progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.stage, progress.epoch = index + 1, 0
        if out_of_patience(job, progress):
            break

    if settings.keep == "best" and best_state is not None:
        job.tuned.restore(best_state)


def out_of_patience(job: Job, progress: Progress) -> bool:
    patience = job.recipe.training.patience
    if patience is None or progress.best is None:
        return False
    return len(progress.curve) - 1 - progress.best >= patience


def evaluate(job: Job, split: Split) -> Evaluation:
    """Score a split; batches are by length, results in the split's own order."""
    job.tuned.model.eval()
    predictions: list[dict[str, Any]] = [{}] * len(split)
    loss = 0.0
    settings = job.recipe.training
    with torch.no_grad(), autocast(settings.precision, job.device):
        for indices in evaluation_batches(split, settings.evaluation_batch_size):
            examples = split.examples(indices)
            outputs = job.tuned(to_device(split.collate(examples, None), job.device))
            loss += float(outputs.loss) * len(indices)
            said = job.task.predict(outputs, examples, job.facts)
            for index, prediction in zip(indices, said, strict=True):
                predictions[index] = prediction
    metrics = job.task.score(predictions, split.references, job.facts)
    rows = [{"reference": true, **row} for true, row in zip(split.references, predictions, strict=True)]
    return Evaluation(loss / len(split), metrics, rows)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=_PRECISION[precision], enabled=precision != "fp32")


def _better(job: Job, point: Point, best: Point) -> bool:
    name = job.task.primary_metric
    new, old = point["validation"][name], best["validation"][name]
    return bool(new > old if job.task.higher_is_better else new < old)


def seed_noise(seed: int) -> None:
    """Seed every global generator that a model may draw from: torch's for dropout, numpy's for the masks of
    SpecAugment in wav2vec 2.0 and its kin, Python's for good measure."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def noise(device: torch.device) -> dict[str, Any]:
    """State of those generators, as plain values and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_noise(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def memory_mb(device: torch.device) -> float:
    """Peak accelerator memory of this trial, or the resident memory of this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20
