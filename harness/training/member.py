"""One trial in the loop: its weights, optimiser, generators and how far it has come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from harness.backbones.flops import training_flops
from harness.errors import HarnessError
from harness.moments import Forward, Moments
from harness.regularizers.base import Penalty
from harness.stage import untouched
from harness.tasks.base import Batch
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.data import train_batches
from harness.training.job import Job, Point
from harness.training.model import parameter_groups
from harness.training.noise import noise, restore_noise, restore_torch_noise, seed_noise, torch_noise
from harness.training.schedules import schedule_of
from harness.training.seeds import AUGMENTATION, NOISE, ORDER, derive

# Looking whether a loss is finite makes the host wait for an accelerator: there it is done every so many
# steps.
_LOOKED_AT = 16


# A loss that has grown so many times over its first value (or over 1) will not come back; it may take hours
# to overflow.
_EXPLODED = 1e6


class DivergedError(Exception):
    """The loss or its gradient is no longer a finite number, or grows out of all proportion."""


class Member:
    """Attributes:
    progress: brought up to date at every evaluation, so that whoever stops the loop knows how far it came.
    error: why it has left the loop before its end.
    batches: the indices of this epoch's batches.
    stored: depths at which the rungs below have been read from the store.
    batched: it has been trained as one computation with others.
    augmentation: the seed of this epoch's variations.
    """

    def __init__(
        self, job: Job, progress: Progress, saved: dict[str, Any] | None, checkpoints: Checkpoints
    ) -> None:
        """Args: `saved` are the tensors of the checkpoint that `progress` comes from."""
        self.job, self.progress, self.checkpoints = job, progress, checkpoints
        self.error: DivergedError | None = None
        self.stages = job.stages
        self.deepest = min(untouched(self.stages))
        parts = job.recipe.parts
        trained = (weight.name for stage in self.stages for weight in job.tuned.weights(stage, parts))
        self._moving = frozenset(trained) | job.tuned.anew  # what never changes needs no copy
        self._moments = self._bound()
        self._start = job.tuned.state(self._moving) if any(s.restart for s in self.stages) else {}
        self.best: dict[str, torch.Tensor] | None = None
        self.batches: list[list[int]] = []
        self.stored: set[int] = set()
        self.batched = False
        self.augmentation = 0
        self._saved = saved
        self._first_loss: float | None = None
        self._noise: list[torch.Tensor] | None = None
        self._unseen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self._optimizer: torch.optim.Optimizer
        self._schedule: LRScheduler
        if saved is not None:
            job.tuned.restore(saved["model"])
            self.best = saved["best"]
            for name, moments in self._moments.items():
                moments.load(saved["moments"].get(name, {}))

    def _bound(self) -> dict[str, Moments]:
        started = time.monotonic()
        bound = {part.name: part.bind(self.job) for part in self.job.recipe.parts}
        self.progress.wall_s += time.monotonic() - started  # some look at data first
        return {name: moments for name, moments in bound.items() if moments is not None}

    # -- stages and epochs -----------------------------------------------------------------------

    def enter(self, index: int, depth: int, steps_per_epoch: int, alone: bool) -> None:
        """Set up what trains in a stage, from the checkpoint if it was interrupted there.

        Args:
            index: of the stage.
            depth: rungs that are as they were before training.
            alone: nothing else in this process draws from the generators until the end.
        """
        job, settings, progress = self.job, self.job.recipe.training, self.progress
        self.stage, self._alone = self.stages[index], alone
        stage = self.stage
        if index > 0 and self._saved is None:
            self._leave(stage.restart)
        self.train = job.above(depth, job.train, "train")
        self.validation = job.above(depth, job.validation, "validation")
        if self.train.store is not None:
            self.stored.add(depth)
        weights = job.tuned.weights(stage, job.recipe.parts)
        if not weights:
            raise HarnessError(f"stage {index + 1} has no weights that train: its rungs hold none of those")
        job.tuned.enter(weights)
        self._parameters = [weight.value for weight in weights]
        progress.trainable_params = max(progress.trainable_params, sum(p.numel() for p in self._parameters))
        groups = parameter_groups(job.recipe, weights, len(job.tuned.ladder.rungs))
        self._optimizer = job.recipe.optimizer.build(groups)
        # the head may learn many times as fast: the curve shows the rate of what is below it
        self._shown = max((i for i, group in enumerate(groups) if group["rung"] is not None), default=0)
        self._schedule = schedule_of(settings, self._optimizer, stage.epochs * steps_per_epoch)
        self._scaler = torch.amp.GradScaler(job.device.type, enabled=settings.precision == "fp16")
        regularizer = job.recipe.regularizer
        self._penalty: Penalty | None = regularizer.bind(weights, job) if regularizer is not None else None
        self._decoupled = regularizer is not None and regularizer.mode == "decoupled"
        self._loss_sum, self._loss_count = torch.zeros((), device=job.device), 0
        saved, self._saved = self._saved, None
        if saved is not None:
            loss, self._loss_count, self._first_loss = saved["loss"]
            self._loss_sum += loss.to(job.device)
            self._optimizer.load_state_dict(saved["optimizer"])
            self._schedule.load_state_dict(saved["schedule"])
            self._scaler.load_state_dict(saved["scaler"])
            restore_noise(saved["noise"], job.device)
        elif self._noise is None:
            seed_noise(derive(job.seed, NOISE))
        if self._noise is None:
            self._noise = torch_noise(job.device)
        with self.drawing():
            for moments in self._moments.values():
                moments.entered(index, stage, weights)

    def _leave(self, restart: bool) -> None:
        """Between two stages. Before a restart, the run that is over ends with its kept weights, like a
        trial."""
        self.job.recipe.optimizer.leave(self._optimizer)
        if not restart:
            return
        self.keep()
        for moments in self._moments.values():
            moments.restarting()
        lasting = {name: moments for name, moments in self._moments.items() if moments.outlasts}
        self.job.tuned.restore(self._start)
        self._moments = {**self._bound(), **lasting}
        self.best = self.progress.best = self._first_loss = None

    def shuffle(self, epoch: int) -> None:
        """Args: `epoch` of the whole trial, from 0."""
        settings = self.job.recipe.training
        order = derive(self.job.seed, ORDER, epoch)
        self.batches = train_batches(self.train, settings.batch_size, order, settings.bucketing)
        self.augmentation = derive(self.job.seed, AUGMENTATION, epoch)

    # -- the moments of its strategy's parts -----------------------------------------------------

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around the forward and backward passes of a step."""
        with ExitStack() as entered:
            for moments in self._moments.values():
                entered.enter_context(moments.computing())
            yield

    def forward(self, batch: Batch) -> Any:
        """The model's outputs in a training step, with what the strategy makes of their loss."""
        forward: Forward = self.job.tuned
        for moments in sorted(self._moments.values(), key=lambda moments: moments.outer):
            forward = partial(moments.forward, forward)
        return forward(batch)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Around evaluations: in it the model has the weights that are scored and kept."""
        with ExitStack() as entered:
            optimizer = self.job.recipe.optimizer
            entered.enter_context(optimizer.scoring(self._optimizer, self.job, self.stage))
            for moments in self._moments.values():
                entered.enter_context(moments.scoring())
            yield

    def finish(self, score: Callable[[], float]) -> bool:
        """Whether a part has put other weights into the model than those of any evaluation.

        Args: `score` gives the primary metric on validation, higher is better.
        """
        changed = [moments.finished(score) for moments in self._moments.values()]
        return any(changed)

    def merge(self) -> None:
        """Let parts say with fewer weights what the model computes."""
        for moments in self._moments.values():
            moments.settled()

    # -- generators ------------------------------------------------------------------------------

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What the model draws in this block comes from the trial's own generators."""
        if self._alone:
            yield
            return
        restore_torch_noise(self.noise, self.job.device)
        yield
        self._noise = torch_noise(self.job.device)

    @property
    def noise(self) -> list[torch.Tensor]:
        """The state of the trial's own generators."""
        assert self._noise is not None
        return self._noise

    def gradients(self) -> list[torch.Tensor]:
        """What a backward pass has left, zero where it has left nothing; copies."""
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._parameters]

    def reset(self, noise: list[torch.Tensor]) -> None:
        """Forget a forward pass that does not count: its gradients and what it drew."""
        self._noise = noise
        for parameter in self._parameters:
            parameter.grad = None

    # -- a step ----------------------------------------------------------------------------------

    def backward(self, loss: torch.Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, loss: torch.Tensor, position: int) -> None:
        """One optimiser step from the gradients of L(θ), whose value is `loss`, at the batch at `position`.

        Raises: DivergedError at the first loss or gradient that is not finite (on an accelerator a few steps
            later, with the number of the first).
        """
        job, settings, progress = self.job, self.job.recipe.training, self.progress
        if self._penalty is not None and not self._decoupled:
            loss = loss + self._penalty.backward(self._scaler.get_scale())
        self._scaler.unscale_(self._optimizer)
        limit = settings.clip if settings.clip is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        # fp16 overflows now and then: the scaler leaves that step out and halves its scale. A scale below 1
        # cannot be overflow any more.
        overflow = (
            self._scaler.is_enabled()
            and math.isfinite(loss.item())
            and not math.isfinite(norm.item())
            and self._scaler.get_scale() >= 1
        )
        if not overflow:
            self._look(progress.steps + 1, loss, norm)
            for moments in self._moments.values():
                moments.stepping(self._optimizer.param_groups)
            if self._penalty is not None and self._decoupled:
                self._penalty.shrink(
                    {p: group["lr"] for group in self._optimizer.param_groups for p in group["params"]}
                )
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if not overflow:
            self._schedule.step()
            for moments in self._moments.values():
                moments.stepped()
        self._optimizer.zero_grad(set_to_none=True)
        progress.steps += 1
        progress.place = progress.place._replace(batch=position + 1)
        step = training_flops(job.flops, self.stage) * job.recipe.passes
        progress.flops += len(self.batches[position]) * step
        self._loss_sum += loss
        self._loss_count += 1

    def _look(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self._unseen.append((step, loss, norm))
        if self.job.device.type == "cpu" or self._scaler.is_enabled() or len(self._unseen) >= _LOOKED_AT:
            self.look()

    def look(self) -> None:
        """Raises: DivergedError if something since the last look was not finite."""
        unseen, self._unseen = self._unseen, []
        if not unseen:
            return
        values = torch.stack([value for _, loss, norm in unseen for value in (loss, norm)]).tolist()
        for (step, _, _), loss, norm in zip(unseen, values[::2], values[1::2], strict=True):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss is {loss} at step {step}")
            if self._first_loss is None:
                self._first_loss = max(1.0, abs(loss))
            if abs(loss) > _EXPLODED * self._first_loss:
                raise DivergedError(f"the loss has grown to {loss:.3g} at step {step}")
            if not math.isfinite(norm):
                raise DivergedError(f"the gradient's norm is {norm} at step {step}")

    # -- an evaluation ---------------------------------------------------------------------------

    def due(self, steps_per_epoch: int) -> bool:
        """Whether the weights are to be evaluated after the step that was just made."""
        progress, every = self.progress, self.job.recipe.training.evaluate_every
        at_epoch_end = progress.place.batch == steps_per_epoch
        following = self.stages[progress.place.stage + 1 :]
        last_stage = not following or following[0].restart
        last = last_stage and progress.place.epoch == self.stage.epochs - 1
        return at_epoch_end if every is None else (at_epoch_end and last) or progress.steps % every == 0

    def unseen(self, steps_per_epoch: int) -> bool:
        """Whether they are to be evaluated as they come from a checkpoint."""
        curve = self.progress.curve
        return self.due(steps_per_epoch) and not (curve and curve[-1]["step"] == self.progress.steps)

    def take(self, loss: float, metrics: dict[str, float], epoch: float) -> None:
        """A point of the curve.

        Raises: DivergedError if the validation loss is not finite.
        """
        progress = self.progress
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss is {loss} at step {progress.steps}")
        self.count_evaluation()
        point = {
            "epoch": epoch,
            "step": progress.steps,
            "train_loss": float(self._loss_sum) / self._loss_count,
            "validation_loss": loss,
            "validation": metrics,
            "learning_rate": float(self._schedule.get_last_lr()[self._shown]),
        }
        self._loss_sum, self._loss_count = torch.zeros((), device=self.job.device), 0
        progress.curve.append(point)
        improved = progress.best is None or self._better(point, progress.curve[progress.best])
        if improved:
            progress.best = len(progress.curve) - 1
        if improved if self._keeps_best else self._scored_apart:
            self.best = self.job.tuned.state(self._moving)

    def settle(self, loss: float, metrics: dict[str, float]) -> None:
        """The point of the weights that a part has put together after training: it is the trial's.

        Raises: DivergedError if the validation loss is not finite.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss is {loss} after training")
        self.count_evaluation()
        curve = self.progress.curve
        curve.append({**curve[-1], "validation_loss": loss, "validation": metrics})
        self.progress.best = len(curve) - 1

    def count_evaluation(self) -> None:
        """Of the validation split."""
        self.progress.flops += len(self.validation) * sum(self.job.flops)

    def save(self) -> None:
        """Write a checkpoint, of one that has been looked at."""
        state = noise(self.job.device)
        if not self._alone:
            state["torch"] = self._noise
        tensors = {
            "model": self.job.tuned.state(self._moving),
            "best": self.best,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "noise": state,
            "loss": (self._loss_sum, self._loss_count, self._first_loss),
            "moments": {name: dict(moments.state()) for name, moments in self._moments.items()},
        }
        self.checkpoints.save(self.progress, tensors)

    def keep(self) -> None:
        """End with the weights that are scored."""
        if self.best is not None:
            self.job.tuned.restore(self.best)

    @property
    def out_of_patience(self) -> bool:
        patience, progress = self.job.recipe.training.patience, self.progress
        if patience is None or progress.best is None:
            return False
        return len(progress.curve) - 1 - progress.best >= patience

    @property
    def _keeps_best(self) -> bool:
        return self.job.recipe.training.keep == "best"

    @property
    def _scored_apart(self) -> bool:
        """Whether other weights may be scored than those that train."""
        return bool(self._moments) or self.job.recipe.optimizer.averages

    def _better(self, point: Point, best: Point) -> bool:
        task = self.job.task
        new, old = (entry["validation"][task.primary_metric] for entry in (point, best))
        return bool(new > old if task.higher_is_better else new < old)
