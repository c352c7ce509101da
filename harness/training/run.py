"""Runs one trial: the loop, and around it checkpoint, curves, test, record. Whatever happens has a status."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch

from harness.cache import digest
from harness.errors import HarnessError
from harness.plan import SOURCE
from harness.recipe import Recipe, parse
from harness.records.patience import ending
from harness.records.record import Record, Status, write_predictions, write_record
from harness.records.tensorboard import CELL_COLUMNS, FINAL_TEST, FINAL_VALIDATION, RunWriter, run_folder
from harness.redaction import redact
from harness.training import kept, sources
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.data import open_split
from harness.training.drafts import UNSHARED, draft
from harness.training.job import Job, Point
from harness.training.loop import evaluate, fit
from harness.training.member import DivergedError, Member
from harness.training.memory import give_back, keep_freed, memory_mb, out_of_memory
from harness.training.model import fine_tuned, pretrained
from harness.training.narrow import narrowed
from harness.training.prefix import Where, open_prefix
from harness.training.workspace import FIRST, Terms, Workspace


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
    bundle = run_bundle([trial], workspace)
    while True:
        try:
            (draft,) = next(bundle)
        except StopIteration as ended:
            (record,) = ended.value
            return cast(Record, record)
        yield draft


def run_bundle(
    trials: Sequence[Mapping[str, Any]], workspace: Workspace, terms: Terms = FIRST
) -> Generator[list[Record], None, list[Record]]:
    """Run trials together to their end, yielding the records so far of those that were just evaluated.

    Each record is written when its trial ends. What goes wrong for all of several at once (memory, a fault of
    the code that batches them) sends each through on its own; one that is out of memory goes on with half as
    many examples at a time, down to one.
    """
    pin_threads(workspace)
    keep_freed()
    device = pick_device(workspace)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    attempts = [Attempt(trial, workspace, device, terms) for trial in trials]
    try:
        ready = [attempt for attempt in attempts if attempt.prepare()]
        for group in _side_by_side(ready):
            by_member = {attempt.member: attempt for attempt in group}
            for attempt in group:
                attempt.bundle = len(group)
            again: Terms | None = None
            try:
                for evaluated in fit(list(by_member)):
                    yield [by_member[member].point() for member in evaluated]
            except Exception as error:
                if end := ending(error):
                    raise end from error
                if len(group) > 1:
                    again, note = terms, f"its bundle was taken apart: {explain(error)}"
                elif out_of_memory(error) and group[0].member.job.at_a_time > 1:
                    again = replace(terms, halvings=terms.halvings + 1)
                    note = f"out of memory with {group[0].member.job.at_a_time} examples at a time"
                else:
                    group[0].fail(error)
            if again is not None:  # here, where the error no longer holds on to what failed
                by_member.clear()
                evaluated = []
                for attempt in group:
                    attempt.give_up()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                for attempt in group:
                    attempt.record = yield from _alone(attempt.trial, workspace, again)
                    attempt.record["notes"].append(note)
                    write_record(workspace.paths, attempt.record)
                continue
            for attempt in group:
                attempt.end()
    finally:
        for attempt in attempts:
            attempt.close()
        give_back()
    return [attempt.record for attempt in attempts if attempt.record is not None]


def _alone(
    trial: Mapping[str, Any], workspace: Workspace, terms: Terms
) -> Generator[list[Record], None, Record]:
    (record,) = yield from run_bundle([trial], workspace, terms)
    return record


def _side_by_side(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """Those that stand at the same place of their training together: some may have been interrupted."""
    groups: dict[Any, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault((attempt.progress.place, len(attempt.progress.curve)), []).append(attempt)
    return list(groups.values())


class Attempt:
    """One trial from its start, or its checkpoint, to its record.

    Attributes:
        record: what was written at the end.
        member: the trial in the loop, once prepared.
    """

    def __init__(
        self, trial: Mapping[str, Any], workspace: Workspace, device: torch.device, terms: Terms
    ) -> None:
        self.trial, self._workspace, self._device, self._terms = trial, workspace, device, terms
        self.record: Record | None = None
        self._paths = workspace.paths
        self._writer: RunWriter | None = None
        self._metrics: dict[str, dict[str, float] | None] = {"validation": None, "test": None}
        self._drift: dict[str, Any] = {"relative_l2": None}
        self._retention: dict[str, Any] | None = None
        self._notes: list[str] = []
        self.bundle = 1
        self._predictions: str | None = None
        self._checkpoints = Checkpoints(
            self._paths, trial["trial_id"], workspace.checkpoint_seconds, workspace.checkpoint_bytes
        )
        self.progress = Progress(attempts=terms.lost + 1)
        self._saved: dict[str, Any] | None = None

    def prepare(self) -> bool:
        """Get ready to train; False if the trial has ended already."""
        trial, workspace = self.trial, self._workspace
        if trial["phase"] == SOURCE and (known := sources.recall(trial, workspace)) is not None:
            self.record = known
            return False
        try:
            self._resume()
            recipe = parse(trial["recipe"], trial["strategy"])
            self._writer = RunWriter(run_folder(self._paths, trial))
            group = digest([*(trial[name] for name in CELL_COLUMNS), trial["hyperparameters"]])
            self._writer.hyperparameters(trial, group)
            for point in self.progress.curve:
                self._writer.point(point)
            job = job_of(trial, workspace, recipe, self._device, self._terms.halvings)
            self.member = Member(job, self.progress, self._saved, self._checkpoints)
        except Exception as error:
            self.fail(error)
            return False
        return True

    def _resume(self) -> None:
        """Go on from the trial's checkpoint, if it has one."""
        if (loaded := self._checkpoints.load()) is not None:
            self.progress, self._saved = loaded
            self.progress.attempts = max(self.progress.attempts + 1, self._terms.lost + 1)

    def point(self) -> Record:
        """The record so far, after an evaluation."""
        assert self._writer is not None
        self._writer.point(self.progress.curve[-1])
        return self._draft("stopped", "stopped by the scheduler")

    def _draft(self, status: Status, reason: str) -> Record:
        record = draft(self.trial, self._workspace, self.progress, status, reason, self._device, self._terms)
        record["sharing"] = self._shared()
        if self._terms.halvings > 0:
            record["notes"].append(f"run with 1/{1 << self._terms.halvings} of the examples at a time")
        record["notes"] += [*self._unshared(), *self._notes, *self._checkpoints.remarks]
        return record

    def _shared(self) -> dict[str, Any]:
        """What was not done for this trial alone."""
        member = getattr(self, "member", None)
        if member is None:
            return {**UNSHARED, "bundle": self.bundle}
        return {
            "stored": sorted(member.stored),
            "bundle": self.bundle,
            "batched": member.batched,
            "narrowed": member.job.tuned.narrowed,
        }

    def _unshared(self) -> list[str]:
        """Why more ran than had to, if it did; known for certain only once all has been read."""
        member: Member | None = getattr(self, "member", None)
        if member is None:
            return []
        frozen = {stage["frozen"] for stage in self.trial["stages"]}
        found = member.job.prefix.remarks.items() if member.job.prefix is not None else ()
        every = [f"frozen rungs run in every step: {reason}" for depth, reason in found if depth in frozen]
        return every + member.job.tuned.remarks

    def end(self) -> None:
        """Score what was trained and write the record."""
        if self.record is not None:
            return
        try:
            if self.member.error is not None:
                raise self.member.error
            while self._too_large():
                self.member.job = replace(self.member.job, halvings=self.member.job.halvings + 1)
        except Exception as error:
            self.fail(error)
            return
        self._write("finished", "")

    def _too_large(self) -> bool:
        """Whether scoring needs more memory than there is, and may do with less at a time."""
        try:
            self._finish()
        except Exception as error:
            if out_of_memory(error) and self.member.job.at_a_time_evaluating > 1:
                return True
            raise
        return False

    def _finish(self) -> None:
        trial, workspace, job, progress = self.trial, self._workspace, self.member.job, self.progress
        assert self._writer is not None
        self._metrics["validation"] = final_point(job, progress)["validation"]
        primary = job.task.primary_metric
        final = {FINAL_VALIDATION: self._metrics["validation"][primary]}  # type: ignore[index]
        untouched = self.member.deepest
        if trial["phase"] != "tune":
            where = _where(trial, job.recipe.training.max_length)
            test = job.above(untouched, open_split(workspace, *where, "test"), "test")
            started = time.monotonic()  # the store that `above` may have built serves others too
            evaluation = evaluate(job, test)
            progress.wall_s += time.monotonic() - started
            progress.flops += len(test) * sum(job.flops)
            self._metrics["test"] = evaluation.metrics
            final[FINAL_TEST] = evaluation.metrics[primary]
            rows = [{"example": index, **row} for index, row in enumerate(evaluation.predictions)]
            parts = job.task.parts(evaluation.predictions, test.references, job.facts)
            self._predictions = write_predictions(self._paths, trial["trial_id"], rows, parts)
        self._writer.scalars(final, progress.steps)
        if trial["phase"] == SOURCE:
            sources.save(trial, workspace, job)
        progress.peak_memory_mb = max(progress.peak_memory_mb, memory_mb(self._device))
        self._drift, self._retention = _kept(trial, workspace, job, untouched, self._notes)

    def fail(self, error: Exception) -> None:
        """Write the record of a trial that came to no score.

        Raises: RunEndsError for a full disk or a storage that is away, which is no fault of the trial.
        """
        if end := ending(error):
            raise end from error
        self.progress.peak_memory_mb = max(self.progress.peak_memory_mb, memory_mb(self._device))
        if isinstance(error, DivergedError):
            self._write("diverged", redact(str(error)))
        elif out_of_memory(error):
            self._write("infeasible", redact(f"out of memory: {error}"))
        else:
            self._write("failed", explain(error))

    def give_up(self) -> None:
        """Let go of the model: the trial will be run by another attempt."""
        self.close()
        del self.member

    def _write(self, status: Status, reason: str) -> None:
        self.close()
        record = self._draft(status, reason)
        record["metrics"] = self._metrics
        record["drift"], record["retention"] = self._drift, self._retention
        record["predictions"] = self._predictions
        write_record(self._paths, record)
        if self.trial["phase"] == SOURCE and status == "finished":
            sources.remember(record, self._workspace)
        self._checkpoints.remove()
        self.record = record

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _kept(
    trial: Mapping[str, Any], workspace: Workspace, job: Job, untouched: int, notes: list[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Drift and retention. They look at the model and are no part of what the strategy costs or comes to:
    where they fail, a note says so."""
    drift: dict[str, Any] = {"relative_l2": None}
    retention: dict[str, Any] | None = None
    try:
        origin = pretrained(workspace, trial["task"], trial["backbone"], job.device)
        drift = kept.drift(job, origin, untouched)
        retention = sources.retention(trial, workspace, job)
    except Exception as error:
        if end := ending(error):
            raise end from error
        notes.append(f"what was kept is not measured: {explain(error)}")
    return drift, retention


def _where(trial: Mapping[str, Any], max_length: int | None) -> tuple[str, str, int | None]:
    return trial["task"], trial["backbone"], max_length


def job_of(
    trial: Mapping[str, Any], workspace: Workspace, recipe: Recipe, device: torch.device, halvings: int = 0
) -> Job:
    """What the loop works on for a trial: data, and a model that is ready to train."""
    task, backbone, _ = where = _where(trial, recipe.training.max_length)
    frozen = min(stage["frozen"] for stage in trial["stages"])
    tuned = fine_tuned(workspace, task, backbone, trial["seed"], device, frozen, recipe.parts)
    place = Where(*where, recipe.training.precision)
    if frozen < len(tuned.ladder.rungs):
        narrowed(tuned, workspace, place, device)
    return Job(
        recipe=recipe,
        task=workspace.task(task),
        facts=workspace.facts[task],
        tuned=tuned,
        train=open_split(workspace, *where, "train"),
        validation=open_split(workspace, *where, "validation"),
        seed=trial["seed"],
        device=device,
        flops=workspace.models[task, backbone].flops,
        prefix=open_prefix(workspace, place, device),
        halvings=halvings,
        start=partial(pretrained, workspace, task, backbone, device),
        source=partial(sources.examples, trial, workspace, device),
    )


def final_point(job: Job, progress: Progress) -> Point:
    """The point of the curve whose weights the trial ends with."""
    best = job.recipe.training.keep == "best" and progress.best is not None
    return progress.curve[progress.best if best else -1]  # type: ignore[index]


def explain(error: Exception) -> str:
    """What went wrong and where, in a line or two and without secrets: the innermost frame outside the
    libraries."""
    if isinstance(error, HarnessError):
        return redact(str(error))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" ({own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}, in {own[-1].name})" if own else ""
    return redact(f"{type(error).__name__}: {error}{place}")
