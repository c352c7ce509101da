"""Runs a campaign on Ray Tune, which is the executor here and not the system of record."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from harness.errors import bad
from harness.plan import Trial
from harness.records.record import Record, Status, read_record, write_record
from harness.redaction import redact
from harness.spec import Resources
from harness.training.checkpoint import Progress
from harness.training.run import draft
from harness.training.workspace import Workspace
from harness.tuning.campaign import Campaign
from harness.tuning.forgetting import ForgettingScheduler, SilentProgress
from harness.tuning.halving import Halving
from harness.tuning.trainable import TrialRunner


class Unsaved:
    """Tune pickles its searcher, scheduler and callbacks to restore them; the records restore ours."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class PlanSearcher(Unsaved, Searcher):
    """Hands out what the campaign owes, a bundle as one trial of Tune's. `bundles` maps Ray's ids to ours."""

    def __init__(self, campaign: Campaign, workspace: Workspace, slots: int, concurrent: int | None) -> None:
        super().__init__(metric="score", mode="max")
        self.bundles: dict[str, list[Trial]] = {}
        self._campaign, self._workspace = campaign, workspace
        self._slots, self._concurrent = slots, concurrent

    def suggest(self, trial_id: str) -> Any:
        if self._concurrent is not None and len(self.bundles) >= self._concurrent:
            return None
        bundle = self._campaign.next_bundle(self._slots)
        if not bundle:
            return Searcher.FINISHED if self._campaign.done else None
        for trial in bundle:  # of an earlier, failed run
            self._campaign.paths.trial(trial.trial_id).unlink(missing_ok=True)
        self.bundles[trial_id] = bundle
        # One string: Tune would look for its own search spaces inside nested settings.
        return {"trials": json.dumps([trial.as_dict() for trial in bundle])}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            return  # `Bookkeeper.on_trial_error` knows the reason
        bundle = self.bundles.pop(trial_id)
        for trial in bundle:
            record = read_record(self._campaign.paths.trial(trial.trial_id))
            if record is None and len(bundle) == 1 and result is not None and "drafts" in result:
                (draft,) = json.loads(result["drafts"])
                self._campaign.stop(trial, draft)
            else:
                self._campaign.finish(
                    trial, record or self.lost(trial, "failed", "the trial ended without a record")
                )

    def lost(self, trial: Trial, status: Status, reason: str) -> Record:
        """Record a trial of which nothing but its end is known."""
        record = draft(trial.as_dict(), self._workspace, Progress(), status, reason, torch.device("cpu"))
        write_record(self._campaign.paths, record)
        return record

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

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        bundle = self._searcher.bundles.get(trial.trial_id)
        if bundle is None or "drafts" not in result:
            return str(TrialScheduler.CONTINUE)
        drafts: dict[str, Record] = {draft["trial_id"]: draft for draft in json.loads(result["drafts"])}
        for ours in bundle:
            if ours.trial_id in drafts:
                self._campaign.point(ours, drafts[ours.trial_id])
        stop = len(bundle) == 1 and self._campaign.stops(
            bundle[0], drafts[bundle[0].trial_id], self._halving.judge
        )
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class Bookkeeper(Unsaved, tune.Callback):
    """Gives a status to trials whose worker was lost more often than it may be."""

    def __init__(self, campaign: Campaign, searcher: PlanSearcher) -> None:
        self._campaign, self._searcher = campaign, searcher

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for ours in self._searcher.bundles.pop(trial.trial_id, []):
            record = read_record(self._campaign.paths.trial(ours.trial_id))
            if record is None:
                error = trial.get_error()
                reason = f"the worker was lost: {redact(' '.join(str(error).split()))[:500]}"
                record = self._searcher.lost(
                    ours, "infeasible" if "OutOfMemoryError" in repr(error) else "failed", reason
                )
            self._campaign.finish(ours, record)


def check_resources(resources: Resources) -> None:
    """Raises: InputError if no node of the connected cluster can hold one trial.

    A cluster whose nodes offer nothing (a head without CPUs) is taken to grow when trials wait.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    offers = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    fits = any(cpus >= resources.cpus and gpus >= resources.gpus for cpus, gpus in offers)
    if not fits and any(cpus > 0 for cpus, _ in offers):
        has = "; ".join(sorted({f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in offers}))
        wants = f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs"
        raise bad("resources", f"no node holds a trial of {wants}; there are nodes of {has}")


def slots(resources: Resources) -> int:
    """How many trials the connected cluster holds at a time, as it is now; one at least."""
    has = ray.cluster_resources()
    return resources.at_once(int(has.get("CPU", 0.0)), int(has.get("GPU", 0.0)))


def execute(campaign: Campaign, workspace: Workspace, halving: Halving, resources: Resources) -> None:
    """Run what the campaign owes on the connected cluster. Returns early on SIGINT."""
    shutil.rmtree(campaign.paths.tune, ignore_errors=True)  # what a killed run left
    searcher = PlanSearcher(campaign, workspace, slots(resources), resources.concurrent)
    # Tune would give its actors variables of their own, credentials of AWS among them; the process that Ray
    # has started and that has imported everything would not be theirs.
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE = set()
    # It prints a traceback for every lost worker; the reason is in the trial's record and in the report.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(TrialRunner, workspace=workspace),
            {"cpu": resources.cpus, "gpu": resources.gpus},
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
            failure_config=tune.FailureConfig(max_failures=resources.retries),
            callbacks=[Bookkeeper(campaign, searcher), SilentProgress()],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(campaign.paths.tune, ignore_errors=True)
