"""Runs a campaign on Ray Tune, which is the executor here and not the system of record."""

from __future__ import annotations

import json
import logging
import math
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from harness import pulse
from harness.errors import NoSpaceError, RunEndsError, StorageError, bad
from harness.plan import Trial
from harness.records.paths import remove_file
from harness.records.patience import ending
from harness.records.record import Record, Status, read_record, write_record
from harness.records.remote import latest
from harness.redaction import redact
from harness.sections import Resources
from harness.training.checkpoint import Progress
from harness.training.drafts import draft
from harness.training.workspace import FIRST, Terms, Workspace
from harness.tuning.campaign import Campaign
from harness.tuning.forgetting import ForgettingScheduler, SilentProgress
from harness.tuning.halving import Halving
from harness.tuning.losses import Again, Cause, Losses, cause
from harness.tuning.pulse import Ear
from harness.tuning.trainable import TrialRunner

# What workers have to write their checkpoints after a SIGTERM; Slurm and Kubernetes give 30 seconds in all.
GRACE_SECONDS = 20.0

# How long the number of the cluster's slots is taken to hold.
_SLOTS_SECONDS = 1.0

# Seconds between looks for a record that a worker on another node says it has written: NFS remembers for up
# to a minute that there was no such file.
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)


class Unsaved:
    """Tune pickles its searcher, scheduler and callbacks to restore them; the records restore ours."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlanSearcher(Unsaved, Searcher):
    """Hands out what the campaign owes, a bundle as one trial of Tune's. `bundles` are those at work, with
    the terms on which they are, by Tune's ids.

    Args:
        slots: how many trials the cluster holds at a time, as it is now.
        concurrent: trials at a time; None: one more than there are slots, for which a cluster may grow.
    """

    def __init__(
        self,
        campaign: Campaign,
        workspace: Workspace,
        losses: Losses,
        slots: Callable[[], int],
        concurrent: int | None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self.bundles: dict[str, Again] = {}
        self.halting = False
        self._again: deque[Again] = deque()
        self._campaign, self._workspace, self._losses = campaign, workspace, losses
        self._count_slots, self._concurrent = slots, concurrent
        self._slots, self._slots_until = 0, -math.inf
        self.ends: RunEndsError | None = None
        self._wrong: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        if self._wrong is not None:
            raise self._wrong
        if self.halting:
            return None if self.bundles else Searcher.FINISHED
        slots = self._known_slots()
        if len(self.bundles) >= (slots + 1 if self._concurrent is None else self._concurrent):
            return None
        bundle, terms = self._again.popleft() if self._again else (self._campaign.next_bundle(slots), FIRST)
        if not bundle:
            return Searcher.FINISHED if self._campaign.done else None
        for trial in bundle:  # of an earlier, failed run
            if (record := self._campaign.paths.trial(trial.trial_id)).exists():
                remove_file(record)
        self.bundles[trial_id] = bundle, terms
        # One string: Tune would look for its own search spaces inside nested settings.
        return {
            "bundle": trial_id,
            "trials": json.dumps([trial.as_dict() for trial in bundle]),
            "terms": json.dumps(asdict(terms)),
            "times": terms.times,
        }

    def _known_slots(self) -> int:
        """Nodes come and go; Ray is asked once in a while, since Tune asks for trials in every step."""
        if time.monotonic() > self._slots_until:
            self._slots = self._count_slots()
            self._slots_until = time.monotonic() + _SLOTS_SECONDS
        return self._slots

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            return  # `Driver.on_trial_error` knows the reason
        try:
            self._completed(trial_id, result or {})
        except Exception as wrong:  # Tune takes it for a failure of the trial, and would wait for ever
            self._wrong = wrong
            raise

    def _completed(self, trial_id: str, result: dict[str, Any]) -> None:
        bundle, terms = self.bundles.pop(trial_id)
        if "ends" in result:
            self.ends = (NoSpaceError if result["full"] else RunEndsError)(result["ends"])
            pulse.halt()  # the run stops as if interrupted
        for trial in bundle:
            record = self._record(trial, trial.trial_id in result.get("ended", []))
            infeasible = record is not None and record["status"] == "infeasible"
            if infeasible and (more := self._losses.larger(terms)):
                self._again.append(([trial], more))
            elif record is not None:
                self._campaign.finish(trial, record)
            elif result.get("halted"):
                continue  # it goes on where its checkpoint is
            elif len(bundle) == 1 and "drafts" in result:
                (draft,) = json.loads(result["drafts"])
                self._campaign.stop(trial, draft)
            else:
                self.end(trial, terms, "failed", "the trial ended without a record")

    def _record(self, trial: Trial, ended: bool) -> Record | None:
        """What a worker has recorded of a trial.

        Args:
            ended: the worker says that there is a record, which a shared folder may show a little later.

        Raises: StorageError if it never does.
        """
        path = self._campaign.paths.trial(trial.trial_id)
        for pause in (*_PAUSES, None) if ended else (None,):
            record = read_record(latest(path))
            if record is not None or pause is None:
                break
            time.sleep(pause)
        if record is None and ended:
            raise StorageError(f"{path}: a worker has written this record, and it is not to be seen here")
        return record

    def lost(self, trial_id: str, why: Cause, reason: str) -> None:
        """The worker of a bundle is gone.

        Raises: NoWorkerError.
        """
        bundle, terms = self.bundles.pop(trial_id)
        left = []
        for trial in bundle:
            record = read_record(latest(self._campaign.paths.trial(trial.trial_id)))
            if record is None:
                left.append(trial)
            else:
                self._campaign.finish(trial, record)
        if not left:
            return
        found = self._losses.lost(left, terms, why, reason)
        if isinstance(found, str):
            for trial in left:
                self.end(trial, terms, found, f"the worker was lost: {why.value}: {reason}")
        else:
            self._again += found

    def end(self, trial: Trial, terms: Terms, status: Status, reason: str) -> None:
        """Record a trial of which nothing but its end is known."""
        progress = Progress(attempts=terms.lost + 1)
        device = torch.device("cpu")
        record = draft(trial.as_dict(), self._workspace, progress, status, reason, device, terms)
        write_record(self._campaign.paths, record)
        self._campaign.finish(trial, record)

    def save(self, checkpoint_path: str) -> None:
        """The records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The records are the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """The records are the state."""


class CellScheduler(Unsaved, ForgettingScheduler):
    """Delegates to one ASHA per cell."""

    def __init__(self, campaign: Campaign, searcher: PlanSearcher, halving: Halving) -> None:
        super().__init__()
        self._campaign, self._searcher, self._halving = campaign, searcher, halving

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        first = super().choose_trial_to_run(tune_controller)
        try:
            return _next_for_a_worker(tune_controller._tune_controller)
        except AttributeError:  # another version of Ray
            return first

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        bundle, _ = self._searcher.bundles.get(trial.trial_id, ([], FIRST))
        if not bundle or "drafts" not in result:
            return str(TrialScheduler.CONTINUE)
        drafts: dict[str, Record] = {draft["trial_id"]: draft for draft in json.loads(result["drafts"])}
        for ours in bundle:
            if ours.trial_id in drafts:
                self._campaign.point(ours, drafts[ours.trial_id])
        stop = len(bundle) == 1 and self._campaign.stops(
            bundle[0], drafts[bundle[0].trial_id], self._halving.judge
        )
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


def _next_for_a_worker(controller: Any) -> Any:
    """The trial that has waited longest for a worker that is free now, and for which none is starting.

    Tune would take the one that has waited longest of all, and end the worker that is starting for it: where
    trials are shorter than the start of a worker, all would run in the first one.
    """
    if controller._actor_cache.num_cached_objects:
        for trial in controller.get_trials():
            if trial.status == "PENDING" and controller._actor_cache.has_cached_object(
                trial.placement_group_factory
            ):
                worker = controller._trial_to_actor.get(trial)
                if worker is None or not controller._actor_manager.is_actor_started(worker):
                    return trial
    return None


class Driver(Unsaved, tune.Callback):
    """What happens beside the trials: workers that are lost or hang, and the wish that all end."""

    def __init__(self, searcher: PlanSearcher, losses: Losses, ear: Ear, listen: Callable[[], None]) -> None:
        self._listen: Callable[[], None] | None = listen
        self._searcher, self._losses, self._ear = searcher, losses, ear
        self._hung: set[str] = set()
        self._end_at = math.inf

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._listen is not None:
            self._listen()
            self._listen = None
        if pulse.halting() and not self._searcher.halting:
            self._searcher.halting = True
            self._ear.halt()
            self._end_at = time.monotonic() + GRACE_SECONDS
        if self._searcher.halting and time.monotonic() > self._end_at:
            raise KeyboardInterrupt
        hanging = self._ear.hanging(self._searcher.bundles)
        for trial in trials:
            if trial.trial_id in hanging and (actor := trial.temporary_state.ray_actor) is not None:
                self._hung.add(trial.trial_id)
                ray.kill(actor)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        self._losses.heard()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ear.forget(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ear.forget(trial.trial_id)
        if trial.trial_id not in self._searcher.bundles:
            return
        reason = _reason(trial)
        why = cause(reason, trial.trial_id in self._hung)
        self._searcher.lost(trial.trial_id, why, reason)


def _reason(trial: Any) -> str:
    """What Ray says of the end of a trial's worker, in a line; it keeps that in a file alone."""
    try:
        said = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
        return redact(" ".join(said.split()))[-1000:]  # what happened is said last
    except (OSError, TypeError):
        return "Ray gives no reason"


def _offers() -> list[tuple[float, float]]:
    """CPUs and GPUs of each node of the connected cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]


def check_resources(resources: Resources) -> None:
    """Raises: InputError if no node of the connected cluster can hold one trial.

    A cluster whose nodes offer nothing (a head without CPUs) is taken to grow when trials wait.
    """
    offers = _offers()
    fits = any(cpus >= resources.cpus and gpus >= resources.gpus for cpus, gpus in offers)
    if not fits and any(cpus > 0 for cpus, _ in offers):
        has = "; ".join(sorted({f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in offers}))
        wants = f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs"
        raise bad("resources", f"no node holds a trial of {wants}; there are nodes of {has}")


def slots(resources: Resources) -> int:
    """How many trials the connected cluster holds at a time, as it is now; one at least."""
    has = ray.cluster_resources()
    return resources.at_once(int(has.get("CPU", 0.0)), int(has.get("GPU", 0.0)))


def _growth(resources: Resources) -> int:
    """So many times a trial's resources some node has: Tune would wait for ever for what none has."""
    cpus = max((cpus for cpus, _ in _offers()), default=0.0)
    return max(1, min(resources.growth, int(cpus / resources.cpus)))


def _reserved(resources: Resources, times: int) -> tune.PlacementGroupFactory:
    cpus, gpus = resources.reserved(times)
    return tune.PlacementGroupFactory([{"CPU": cpus, **({"GPU": gpus} if gpus else {})}])


def execute(
    campaign: Campaign,
    workspace: Workspace,
    halving: Halving,
    resources: Resources,
    listen: Callable[[], None],
) -> None:
    """Run what the campaign owes on the connected cluster. Returns early where `pulse.halt` asks for it.

    Args:
        listen: sets the handlers of signals; to be called once Tune has set its own.

    Raises: NoWorkerError if no worker comes up; KeyboardInterrupt if workers take too long to end.
    """
    shutil.rmtree(campaign.paths.tune, ignore_errors=True)  # what a killed run left
    run, losses = secrets.token_hex(8), Losses(resources.model_copy(update={"growth": _growth(resources)}))
    searcher = PlanSearcher(campaign, workspace, losses, lambda: slots(resources), resources.concurrent)
    driver = Driver(searcher, losses, Ear(run, resources.silence_seconds), listen)
    # Tune would give its actors variables of their own, credentials of AWS among them; the process that Ray
    # has started and that has imported everything would not be theirs.
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE = set()
    # It prints a traceback for every lost worker; the reason is in the trial's record and in the report.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                TrialRunner, workspace=workspace, run=run, silence=resources.silence_seconds
            ),
            lambda config: _reserved(resources, config["times"]),
        ),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=searcher,
            scheduler=CellScheduler(campaign, searcher, halving),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(campaign.paths.tune.resolve()),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
            failure_config=tune.FailureConfig(max_failures=0),  # `Losses` decides
            callbacks=[driver, SilentProgress()],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
        if searcher.ends is not None:
            raise searcher.ends
    except KeyboardInterrupt:
        if searcher.ends is not None:  # and a worker took too long to end
            raise searcher.ends from None
        raise
    except Exception as error:
        if end := ending(error):  # Tune wraps what its callbacks raise
            raise end from None
        raise
    finally:
        shutil.rmtree(campaign.paths.tune, ignore_errors=True)
