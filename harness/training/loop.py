"""The fine-tuning loop: minimises L(θ) + λ·R(θ) from pretrained weights. Read it top to bottom; what a trial
does by itself, its optimiser step and its point of the curve, is in member.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from harness import pulse
from harness.moments import copied
from harness.stage import untouched
from harness.tasks.base import to_device
from harness.training.data import Split, cut, evaluation_batches
from harness.training.heads import CannotBatchError, agree, pieces, together
from harness.training.job import Job
from harness.training.member import DivergedError, Member
from harness.training.memory import memory_mb
from harness.training.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """Attributes: mean loss, metrics by name, and per example, in the split's order, what the model said
    next to the reference."""

    loss: float
    metrics: dict[str, float]
    predictions: list[dict[str, Any]]


def fit(members: Sequence[Member]) -> Generator[list[Member]]:
    """Train, yielding after every evaluation the members that have a new point of the curve; their models end
    with the kept weights.

    Mostly there is one member. Several have the same stages, batch size and evaluations, train nothing but
    their heads and stand at the same place. One that diverges leaves with its `error`.
    """
    job, stages, start = members[0].job, members[0].stages, members[0].progress.place
    depths = untouched(stages)
    steps = job.steps_per_epoch
    active = [member for member in members if not member.out_of_patience]
    gradients, clock = Gradients(), Clock()

    for index in range(start.stage, len(stages)):
        stage, before = stages[index], sum(earlier.epochs for earlier in stages[:index])
        for member in active:
            member.enter(index, depths[index], steps, alone=len(members) == 1)
        clock.restart()  # what is built here serves others too
        for epoch in range(start.epoch, stage.epochs):
            for member in active:
                member.shuffle(before + epoch)
            # It was interrupted after a step, just before what that had led to was looked at.
            if start.batch > 0 and active and active[0].unseen(steps):
                active = yield from _looked_at(active, before + epoch + start.batch / steps, clock)
            for position in range(start.batch, steps):
                losses = gradients(active, position)
                made = zip(active, losses, strict=True)
                left = surviving((m, partial(m.step, loss, position)) for m, loss in made)
                if len(left) < len(active):
                    clock.share(active)
                active = left
                _keep_up(active, clock)
                if active and active[0].due(steps):
                    active = yield from _looked_at(active, before + epoch + (position + 1) / steps, clock)
                if not active:
                    break
            start = start.next_epoch()
            for member in active:
                member.progress.place = start
        start = start.next_stage()
        for member in active:
            member.progress.place = start
    for member in members:
        member.keep()
        if member.error is None:
            clock.restart()
            if member.finish(partial(_score, member)):
                last = evaluate(member.job, member.validation)
                surviving([(member, partial(member.settle, last.loss, last.metrics))])
            member.merge()
            clock.share([member])


def _score(member: Member) -> float:
    """The primary validation metric of the weights that are in the model, higher is better."""
    task = member.job.task
    found = evaluate(member.job, member.validation).metrics[task.primary_metric]
    member.count_evaluation()
    return found if task.higher_is_better else -found


def _looked_at(
    active: Sequence[Member], epoch: float, clock: Clock
) -> Generator[list[Member], None, list[Member]]:
    """Evaluate, and yield who has a new point; returns who trains on."""
    active = surviving((member, member.look) for member in active)
    if not active:
        return []
    try:
        with ExitStack() as scoring:
            for member in active:
                scoring.enter_context(member.scoring())
            found = evaluate_all([member.job for member in active], active[0].validation)
            made = zip(active, found, strict=True)
            taken = surviving((m, partial(m.take, e.loss, e.metrics, epoch)) for m, e in made)
    except pulse.Halted:
        _save(active, clock)
        raise
    clock.share(active)
    active = taken
    if active and active[0].checkpoints.due():
        _save(active, clock)
    if active:
        yield active
    clock.restart()  # what the caller does meanwhile is no part of the training
    return [member for member in active if not member.out_of_patience]


def _keep_up(active: Sequence[Member], clock: Clock) -> None:
    """After a step: a sign of life, and a checkpoint if it is time for one.

    Raises: Halted if the training is asked to end.
    """
    pulse.beat()
    halting = pulse.halting()
    if active and (halting or active[0].checkpoints.due()):  # all are due at about the same time
        _save(active, clock)
    if halting:
        raise pulse.Halted


def _save(active: Sequence[Member], clock: Clock) -> None:
    clock.share(active)
    for member in surviving((member, member.look) for member in active):
        member.save()


class Gradients:
    """Computes L(θ) of each member on its own batch and leaves its gradient with the weights."""

    def __init__(self) -> None:
        self._batched: bool | None = None  # unknown before the first step

    def __call__(self, members: Sequence[Member], position: int) -> list[torch.Tensor]:
        """The losses before the step, shape () each."""
        if len(members) > 1 and self._batched is not False:
            noise = [member.noise for member in members]
            try:
                return self._together(members, position)
            except CannotBatchError:
                self._batched = False
                for member, state in zip(members, noise, strict=True):
                    member.reset(state)
        return [self._alone(member, position) for member in members]

    def _alone(self, member: Member, position: int) -> torch.Tensor:
        job, settings, batch = member.job, member.job.recipe.training, member.batches[position]
        loss = torch.zeros((), device=job.device)
        with member.drawing(), member.computing():
            job.tuned.train(member.stage)
            for piece in cut(batch, job.at_a_time):
                inputs = to_device(member.train.batch(piece, member.augmentation), job.device)
                with autocast(settings.precision, job.device):
                    part = member.forward(inputs).loss * (len(piece) / len(batch))
                member.backward(part)
                loss += part.detach()
        return loss

    def _together(self, members: Sequence[Member], position: int) -> list[torch.Tensor]:
        if self._batched is None:
            self._try(members, position)
        for member in members:
            member.batched = True
        return self._batch(members, position)

    def _batch(self, members: Sequence[Member], position: int) -> list[torch.Tensor]:
        losses: list[torch.Tensor] = []
        for piece in pieces(members):
            found = together(piece, [member.batches[position] for member in piece])
            found.sum().backward()  # type: ignore[no-untyped-call]
            losses += found.detach().unbind()
        return losses

    def _try(self, members: Sequence[Member], position: int) -> None:
        """Raises: CannotBatchError unless the losses together are those of each alone."""
        noise = [member.noise for member in members]

        def tried(run: Callable[[], Sequence[torch.Tensor]]) -> list[list[torch.Tensor]]:
            """Per member its loss and its gradients, of a pass that is forgotten."""
            losses = run()
            found = [[loss, *member.gradients()] for loss, member in zip(losses, members, strict=True)]
            for member, state in zip(members, noise, strict=True):
                member.reset(state)
            return found

        # Together first: heads that would remember a pass (BatchNorm) are refused there.
        batched = tried(lambda: self._batch(members, position))
        alone = tried(lambda: [self._alone(member, position) for member in members])
        if not agree(batched, alone, members[0].job.recipe.training.precision):
            raise CannotBatchError("losses or gradients differ")
        self._batched = True


class Clock:
    """Shares the time that passes out among those who were at work."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def restart(self) -> None:
        self._since = time.monotonic()

    def share(self, members: Sequence[Member]) -> None:
        now = time.monotonic()
        for member in members:
            member.progress.wall_s += (now - self._since) / len(members)
            memory = memory_mb(member.job.device)
            member.progress.peak_memory_mb = max(member.progress.peak_memory_mb, memory)
        self._since = now


def surviving(actions: Iterable[tuple[Member, Callable[[], None]]]) -> list[Member]:
    """Act for each member; who diverges keeps the error, the others go on."""
    left = []
    for member, act in actions:
        try:
            act()
            left.append(member)
        except DivergedError as error:
            member.error = error
    return left


def evaluate(job: Job, split: Split) -> Evaluation:
    """Score a split; batches are by length, results in the split's own order."""
    return evaluate_all([job], split)[0]


def evaluate_all(jobs: Sequence[Job], split: Split) -> list[Evaluation]:
    """Score a split with several models that differ in their weights; each batch is read once."""
    if not jobs:
        return []
    first, settings = jobs[0], jobs[0].recipe.training
    predictions: list[list[dict[str, Any]]] = [[{}] * len(split) for _ in jobs]
    losses = [0.0] * len(jobs)
    with torch.no_grad(), autocast(settings.precision, first.device):
        for indices in evaluation_batches(split, first.at_a_time_evaluating):
            pulse.come_round()
            examples = split.examples(indices)
            inputs = to_device(split.collated(examples, indices), first.device)
            for number, job in enumerate(jobs):
                job.tuned.model.eval()
                outputs = job.tuned(copied(inputs) if len(jobs) > 1 else inputs)
                losses[number] += float(outputs.loss) * len(indices)
                said = job.task.predict(outputs, examples, job.facts)
                for index, prediction in zip(indices, said, strict=True):
                    predictions[number][index] = prediction
    return [
        _evaluation(job, split, loss, said) for job, loss, said in zip(jobs, losses, predictions, strict=True)
    ]


def _evaluation(job: Job, split: Split, loss: float, predictions: list[dict[str, Any]]) -> Evaluation:
    metrics = job.task.score(predictions, split.references, job.facts)
    rows = [{"reference": true, **row} for true, row in zip(split.references, predictions, strict=True)]
    return Evaluation(loss / len(split), metrics, rows)
