"""Sweeps whose trials come to what a formula says, for tests of racing and of replays: no training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from harness import document, spec
from harness.outline import as_dict
from harness.plan import Plan, Trial, make_plan
from harness.prepare import ModelFacts, Prepared
from harness.records.paths import ResultPaths, write_json, write_text
from harness.records.record import Record, write_record
from harness.tasks.base import Facts
from harness.tuning.campaign import Campaign

LEVELS = {"good": 0.9, "twin": 0.9, "poor": 0.6, "bad": 0.3}
NOISE = 0.02
EPOCHS = 9


def planned(**changes: Any) -> Plan:
    """One text task, four strategies that differ in depth only, three learning rates."""
    content: dict[str, Any] = {
        "name": "race",
        "tasks": [{"name": "one", "use": "bbc-topics"}],
        "backbones": [{"name": "small", "use": "minilm-l6"}],
        "training": {"epochs": EPOCHS},
        "optimizer": {"learning_rate": {"grid": [2e-5, 1e-4, 1e-3]}},
        "strategies": {name: {"freeze": depth} for depth, name in enumerate(LEVELS)},
        "seeds": {"tune": 3, "confirm": 6},
        **changes,
    }
    content = {key: value for key, value in content.items() if value is not None}
    sweep = spec.from_document(document.read(document.dump(content), "f.yaml"), [])
    facts = Facts({"train": 64, "validation": 500, "test": 1000}, ["a", "b"], "data")
    model = ModelFacts("bert", [f"r{i}" for i in range(7)], [10] * 8, [5.0] * 8, "weights")
    models = {(task.name, backbone.name): model for task in sweep.tasks for backbone in sweep.backbones}
    return make_plan(sweep, Prepared({task.name: facts for task in sweep.tasks}, models))


def record(trial: Trial, levels: Mapping[str, float] = LEVELS) -> Record:
    """A trial that finished: its strategy's level, less what its learning rate costs, and its own noise. The
    curve rises to that; each epoch takes a second."""
    rate = trial.hyperparameters.get("optimizer.learning_rate", 1e-4)
    level = levels[trial.strategy] - {2e-5: 0.2, 1e-4: 0.0, 1e-3: 0.1}[rate]
    rng = random.Random(trial.trial_id)
    validation, test = (level + rng.gauss(0, NOISE) for _ in range(2))
    last = {"accuracy": validation}
    curve = [{"epoch": float(e), "step": e, "validation": {"accuracy": validation * (1 - 0.5**e)}}
             for e in range(1, EPOCHS)]  # fmt: skip
    return {
        "format": 1, "trial_id": trial.trial_id, "phase": trial.phase, "task": trial.task,
        "kind": "text-classification", "backbone": trial.backbone, "strategy": trial.strategy,
        "hyperparameters": trial.hyperparameters, "recipe": trial.recipe, "stages": trial.stages,
        "seed": trial.seed, "status": "finished", "reason": "",
        "metrics": {"validation": last, "test": {"accuracy": test} if trial.phase == "confirm" else None},
        "curve": [*curve, {"epoch": float(EPOCHS), "step": EPOCHS, "validation": last}],
        "cost": {"wall_s": 9.0, "device_s": 9.0, "flops": 900.0, "steps": 9, "trainable_params": 10,
                 "peak_memory_mb": 1.0},
        "drift": {"relative_l2": None}, "retention": None, "attempts": 0, "notes": [], "provenance": {},
    }  # fmt: skip


class Run:
    """A campaign whose workers end in any order."""

    def __init__(
        self, plan: Plan, paths: ResultPaths, workers: int = 1, order: int = 0,
        levels: Mapping[str, float] = LEVELS,
    ) -> None:  # fmt: skip
        write_text(paths.sweep, document.dump(spec.resolved(plan.sweep)))
        write_json(paths.plan, as_dict(plan))
        self.campaign = Campaign(plan, paths, lambda event: None)
        self.started: list[Trial] = []
        self.ended: list[Trial] = []
        self.active: list[Trial] = []
        self._workers, self._rng, self._levels = workers, random.Random(order), levels

    def step(self) -> bool:
        """Fill the workers, end one trial; False if nothing runs any more."""
        while len(self.active) < self._workers and (trial := self.campaign.next()) is not None:
            self.active.append(trial)
            self.started.append(trial)
        if not self.active:
            self.campaign.close()
            return False
        trial = self.active.pop(self._rng.randrange(len(self.active)))
        made = record(trial, self._levels)
        write_record(self.campaign.paths, made)
        self.campaign.finish(trial, made)
        self.ended.append(trial)
        return True

    def to_the_end(self) -> Run:
        while self.step():
            assert len(self.started) < 1000, "hands out without end"
        return self
