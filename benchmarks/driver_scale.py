"""What the harness's driver adds to Ray Tune when there are many trials.

    python benchmarks/driver_scale.py                   # 1,000 trials, two rounds, about two minutes
    python benchmarks/driver_scale.py --trials 10000 --rounds 1 --out driver.json

Two arms, interleaved, each run in a process of its own with the same flags and the same number of trials:

* *bare*: a class `Trainable` on Ray Tune with a searcher that hands out the plan's recipes, `reuse_actors`,
  callbacks for the loggers off. It writes nothing.
* *harness*: the campaign on Ray Tune as `harness run` drives it: hand-out, checkpoint look-up, curve for
  TensorBoard, record, index, cells and progress view are the real ones.

In both the trainer does nothing. In the harness arm the function that runs a trial is replaced by one that
ends it at once with a record of three evaluations; nothing else is. Data and model are made-up facts, so
that planning is all that happens before the first trial.

After the harness arm: planning, resuming the finished sweep and reporting on it, each in a fresh process,
against what pandas takes to read the same record files with `json_normalize`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psutil

from harness.tuning import environment

environment.settle(None)

TASKS = ("bbc-topics", "tweet-sentiment")
STRATEGIES = 5
CONFIRM = 5
RUNGS = 7


def the_plan(trials: int) -> Any:
    """A plan of about so many trials: 2 tasks, 5 strategies, a grid over rate, weight decay and warm-up."""
    from harness import document, spec
    from harness.plan import make_plan
    from harness.prepare import ModelFacts, Prepared
    from harness.tasks.base import Facts

    per_cell = max(8, trials // (len(TASKS) * STRATEGIES) - CONFIRM)
    decays = [0.0, 0.01]
    warmups = [0.0, 0.1, 0.2, 0.3]
    rates = [(i + 1) * 1e-5 for i in range(per_cell // (len(decays) * len(warmups)))]
    content = {
        "name": "driver-scale",
        "tasks": list(TASKS),
        "backbones": [{"name": "small", "use": "minilm-l6"}],
        "optimizer": {"learning_rate": {"grid": rates}, "weight_decay": {"grid": decays}},
        "training": {"warmup": {"grid": warmups}},
        "strategies": {f"top-{depth}": {"freeze": depth} for depth in range(STRATEGIES)},
        "baseline": "top-0",
        "seeds": {"tune": 1, "confirm": CONFIRM},
        "resources": {"cpus": 1, "share": False},  # one trial of Tune's for each of ours
    }
    sweep = spec.from_document(document.read(document.dump(content), "driver_scale.yaml"), [])
    sizes = {"train": 640, "validation": 128, "test": 128}
    facts = {task.name: Facts(sizes, ["a", "b"], f"data of {task.name}") for task in sweep.tasks}
    model = ModelFacts("bert", [f"block {i}" for i in range(RUNGS)], [10] * 8, [5.0] * 8, "weights")
    return make_plan(sweep, Prepared(facts, {(task.name, "small"): model for task in sweep.tasks}))


class Meter:
    """Time and memory of a driver while trials end."""

    def __init__(self, total: int) -> None:
        self.process, self.total = psutil.Process(), total
        self.ended = 0
        self.points: list[tuple[int, float, float, float]] = []  # trials, seconds, MB resident, CPU seconds

    def tick(self) -> None:
        if self.ended % max(1, self.total // 20) == 0 or self.ended == self.total - 1:
            self.note()
        self.ended += 1

    def note(self) -> None:
        used = self.process.cpu_times()
        memory = self.process.memory_info().rss / 1e6
        self.points.append((self.ended, time.monotonic(), memory, used.user + used.system))

    def result(self) -> dict[str, Any]:
        """From the tenth part on, to the end of the last trial: the first ones start the workers and load
        what is loaded once.
        """
        first, last = self.points[2], self.points[-1]
        trials = last[0] - first[0]
        halves = [first, self.points[len(self.points) // 2], last]
        return {
            "trials": self.ended,
            "ms_per_trial": 1000 * (last[1] - first[1]) / trials,
            "ms_per_trial_by_half": [
                1000 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(halves)
            ],
            "driver_cpu_ms_per_trial": 1000 * (last[3] - first[3]) / trials,
            "kb_per_trial": 1000 * (last[2] - first[2]) / trials,
        }


def bare(trials: int, folder: Path) -> dict[str, Any]:
    import ray
    from ray import tune
    from ray.tune.search import Searcher

    from harness.tuning.ray_tune import Unsaved

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            pass

        def step(self) -> dict[str, Any]:
            return {"done": True, "score": 0.5}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    recipes = [json.dumps(trial.as_dict()) for trial in the_plan(trials).planned()]
    recipes += recipes[: len(TASKS) * STRATEGIES * CONFIRM]  # as many as the other arm has confirm trials
    meter = Meter(len(recipes))

    class Listed(Unsaved, Searcher):
        def __init__(self, recipes: list[str], meter: Meter) -> None:
            super().__init__(metric="score", mode="max")
            self.left, self.meter = iter(recipes), meter

        def suggest(self, trial_id: str) -> Any:
            recipe = next(self.left, None)
            return Searcher.FINISHED if recipe is None else {"trial": recipe}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self.meter.tick()

        def save(self, checkpoint_path: str) -> None:
            pass

        restore = save

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # The flags of our cluster; its processes import nothing before they are asked to.
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1, "gpu": 0}),
        tune_config=tune.TuneConfig(num_samples=-1, search_alg=Listed(recipes, meter), reuse_actors=True),
        run_config=tune.RunConfig(
            name="sweep", storage_path=str(folder / "tune"), verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()  # fmt: skip
    ray.shutdown()
    return meter.result()


def at_once(trials: list[dict[str, Any]], workspace: Any, terms: Any) -> Generator[Any, None, Any]:
    """In place of `run_bundle`: the same files, and no training between them."""
    return [end(trial, workspace) for trial in trials]
    yield  # a generator, as `run_bundle` is


def end(trial: dict[str, Any], workspace: Any) -> Any:
    import torch

    from harness.records.record import write_record
    from harness.records.tensorboard import FINAL_VALIDATION, RunWriter, run_folder
    from harness.training.checkpoint import Checkpoints, Progress
    from harness.training.drafts import draft

    checkpoints = Checkpoints(workspace.paths, trial["trial_id"], workspace.checkpoint_seconds)
    checkpoints.load()
    score = (int(trial["trial_id"], 16) % 1000) / 1000
    curve: list[Any] = [
        {
            "epoch": epoch + 1.0, "step": 40 * (epoch + 1), "validation": {"accuracy": score, "f1": score},
            "train_loss": 1 / (epoch + 1), "validation_loss": 0.5, "learning_rate": 1e-5,
        }
        for epoch in range(3)
    ]  # fmt: skip
    writer = RunWriter(run_folder(workspace.paths, trial))
    writer.hyperparameters(trial, trial["trial_id"])
    for point in curve:
        writer.point(point)
    writer.scalars({FINAL_VALIDATION: score}, 120)
    writer.close()
    progress = Progress(curve=curve, steps=120, flops=trial["flops"], wall_s=1.0, trainable_params=80)
    record = draft(trial, workspace, progress, "finished", "", torch.device("cpu"))
    if trial["phase"] == "confirm":
        record["metrics"]["test"] = {"accuracy": score, "f1": score}
    write_record(workspace.paths, record)
    checkpoints.remove()
    return record


def harness(trials: int, folder: Path) -> dict[str, Any]:
    from rich.console import Console

    from harness.console import ProgressView
    from harness.outline import as_dict
    from harness.records.paths import ResultPaths, write_json
    from harness.training.workspace import workspace_of
    from harness.tuning import ray_tune, trainable
    from harness.tuning.campaign import Campaign, Event
    from harness.tuning.cluster import opened
    from harness.tuning.halving import Halving

    class AtOnce(trainable.TrialRunner):
        def setup(self, config: dict[str, Any], **handed_down: Any) -> None:
            from harness.tuning import trainable

            trainable.run_bundle = at_once  # in the worker's process, where this class arrives by value
            super().setup(config, **handed_down)

    ray_tune.TrialRunner = AtOnce  # type: ignore[misc]
    plan, paths = the_plan(trials), ResultPaths(folder)
    meter = Meter(len(list(plan.planned())) + len(plan.cells) * CONFIRM)
    view = ProgressView(Console(file=io.StringIO()), plan, None, 2.0)

    def watch(event: Event) -> None:
        view(event)
        if event.what == "ended":
            meter.tick()

    write_json(paths.plan, as_dict(plan))
    with opened(plan.sweep.resources, None, local=False) as cluster:
        assert cluster is not None
        cluster.expect(os.cpu_count() or 1)
        cluster.ready()
        campaign = Campaign(plan, paths, watch)
        ray_tune.execute(
            campaign, workspace_of(plan, folder), Halving(None), plan.sweep.resources, lambda: None
        )
        campaign.close()
    assert campaign.done
    return meter.result()


def resume(trials: int, folder: Path) -> dict[str, Any]:
    """Plan the sweep again and take what is recorded; then the report."""
    from harness.outline import as_dict
    from harness.records.paths import ResultPaths
    from harness.report.build import write_report
    from harness.tuning.campaign import Campaign

    def timed(what: Callable[[], Any]) -> tuple[float, Any]:
        started = time.monotonic()
        found = what()
        return time.monotonic() - started, found

    planning, plan = timed(lambda: the_plan(trials))
    paths = ResultPaths(folder)
    as_dict(plan)

    def again() -> Campaign:
        campaign = Campaign(plan, paths, lambda event: None)
        assert campaign.next() is None and campaign.done
        campaign.close()
        return campaign

    resuming, _ = timed(again)
    reporting, _ = timed(lambda: write_report(paths))
    return {"plan_s": planning, "resume_s": resuming, "report_s": reporting}


def pandas(trials: int, folder: Path) -> dict[str, Any]:
    import pandas as pd

    started = time.monotonic()
    frame = pd.json_normalize([json.loads(path.read_text()) for path in (folder / "trials").glob("*.json")])
    return {"pandas_s": time.monotonic() - started, "records": len(frame)}


ARMS = {"bare": bare, "harness": harness, "resume": resume, "pandas": pandas}


def measure(arm: str, trials: int, folder: Path) -> dict[str, Any]:
    """An arm in a process of its own."""
    command = [sys.executable, __file__, "--arm", arm, "--trials", str(trials), "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{arm}: {json.dumps(found)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write everything measured to this file")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.arm:
        print(json.dumps(ARMS[chosen.arm](chosen.trials, chosen.folder)))
        return
    rounds: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    folder = Path(tempfile.mkdtemp(prefix="driver-scale-"))
    try:
        for _ in range(chosen.rounds):
            for arm in ARMS:
                if arm in ("bare", "harness"):
                    shutil.rmtree(folder)
                    folder.mkdir()
                rounds[arm].append(measure(arm, chosen.trials, folder))
    finally:
        shutil.rmtree(folder)
    show(rounds)
    if chosen.out:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "trials": chosen.trials}
        chosen.out.write_text(json.dumps({**machine, **rounds}, indent=1) + "\n")


def show(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Medians over rounds, each against its goal."""

    def median(arm: str, name: str) -> float:
        return statistics.median(float(found[name]) for found in rounds[arm])

    ours, theirs = median("harness", "ms_per_trial"), median("bare", "ms_per_trial")
    print(f"\n{rounds['harness'][0]['trials']} trials that do nothing, {len(rounds['harness'])} rounds")
    print(f"per trial: harness {ours:.2f} ms, bare Tune {theirs:.2f} ms: {ours / theirs:.2f}x (goal 1.5x)")
    grown = median("harness", "kb_per_trial"), median("bare", "kb_per_trial")
    print(f"driver memory per trial: harness {grown[0]:.1f} KB, bare Tune {grown[1]:.1f} KB (goal 50 KB)")
    read = median("pandas", "pandas_s")
    print(f"pandas reads {rounds['pandas'][0]['records']} records in {read:.2f} s")
    for name in ("plan_s", "resume_s", "report_s"):
        took = median("resume", name)
        print(f"{name[:-2]}: {took:.2f} s, {took / read:.1f}x pandas")
    both = median("resume", "resume_s") + median("resume", "report_s")
    print(f"resume and report: {both:.2f} s, {both / read:.1f}x pandas (goal 20x)")


if __name__ == "__main__":
    main()
