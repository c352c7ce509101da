"""A small builder of synthetic results folders: real files, in the layout that a sweep writes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.paths import ResultPaths
from harness.records.record import write_predictions

Outcome = float | str
"""A confirm run's test score, or the status of a run that has none ("missing": no record)."""

HOSTILE = "</script><img src=x onerror=alert(1)>"
LATEX = r"50% & #1 \evil{$x$}_a^b~c"
PIPES = "a|b `c` *d* [e](http://x) $f$ \n# g \x00\x1b"

RATES = (2e-5, 1e-4, 5e-4)
COST = {"head-only": 3.0, "top-2": 12.0, "full": 30.0, "full-l2sp": 33.0}


@dataclass
class Sweep:
    """What to write: `scores[task][strategy]` lists one outcome per confirm seed.

    In a sweep without confirm phase (`confirm=0`) the outcomes are validation scores by tune seed.
    """

    scores: Mapping[str, Mapping[str, Sequence[Outcome]]]
    baseline: str | None = None
    confirm: int | None = None  # None: as many as the longest list
    directions: Mapping[str, str] = field(default_factory=dict)
    backbones: Sequence[str] = ("minilm-l6",)
    rates: Sequence[float] = RATES
    winner: int = 1  # place of the winning rate
    delta: float = 0.01
    name: str = "synthetic"
    examples: int = 0  # with so many test examples, of which each run has its score's share right
    constant: float | None = None  # the score of the constant predictor

    def write(self, root: Path) -> ResultPaths:
        paths = ResultPaths(root)
        seeds = self.seeds
        cells = []
        for backbone in self.backbones:
            for task, strategies in self.scores.items():
                for strategy, outcomes in strategies.items():
                    cells.append(self._cell(paths, task, backbone, strategy, outcomes))
        put(
            paths.plan,
            {
                "format": 1,
                "name": self.name,
                "baseline": self.baseline,
                "seeds": {"tune": len(self.tune_seeds), "confirm": seeds},
                "search": {"algorithm": "grid"},
                "tasks": [
                    {
                        "name": task,
                        "kind": "text-classification",
                        "primary": "accuracy",
                        "direction": self.directions.get(task, "max"),
                        "metrics": ["accuracy", "f1"],
                        "splits": {"train": 800, "validation": 200, "test": self.examples or 500},
                        "delta": self.delta,
                        "best": 0.0 if self.directions.get(task) == "min" else 1.0,
                        "forms": {"accuracy": "mean"},
                        "constant": {"test": {"accuracy": self.constant}},
                    }
                    for task in self.scores
                ],
                "backbones": [
                    {
                        "name": name,
                        "model_type": "bert",
                        "rungs": ["embeddings", "0", "1"],
                        "parameters": 22713216,
                    }
                    for name in self.backbones
                ],
                "strategies": [
                    {
                        "name": name,
                        "definition": {"freeze": 0, "optimizer": {"learning_rate": {"grid": [1, 2]}}},
                    }
                    for name in dict.fromkeys(s for by in self.scores.values() for s in by)
                ],
                "cells": cells,
                "merged": [],
                "notes": [],
            },
        )
        return paths

    @property
    def seeds(self) -> int:
        if self.confirm is not None:
            return self.confirm
        return max(len(outcomes) for by in self.scores.values() for outcomes in by.values())

    @property
    def tune_seeds(self) -> range:
        if self.seeds:
            return range(1)
        return range(max(len(outcomes) for by in self.scores.values() for outcomes in by.values()))

    def _cell(
        self, paths: ResultPaths, task: str, backbone: str, strategy: str, outcomes: Sequence[Outcome]
    ) -> dict[str, Any]:
        number = len(list(paths.cells.glob("*.json"))) if paths.cells.is_dir() else 0
        cell = {"id": f"c{number:04d}", "task": task, "backbone": backbone, "strategy": strategy}
        sign = -1 if self.directions.get(task) == "min" else 1
        listed: dict[str, list[dict[str, Any]]] = {"tune": [], "confirm": []}

        def run(phase: str, rate: float, seed: int, outcome: Outcome, validation: float | None) -> None:
            trial_id = f"{cell['id']}-{phase}-{len(listed[phase]):04d}"
            entry = {"trial_id": trial_id, "hyperparameters": {"learning_rate": rate}, "seed": seed}
            listed[phase].append(entry)
            if outcome != "missing":
                test = outcome if phase == "confirm" and not isinstance(outcome, str) else None
                status = outcome if isinstance(outcome, str) else "finished"
                put(paths.trial(trial_id), record(cell, phase, entry, status, validation, test))
                if test is not None and self.examples:
                    self._predictions(paths, trial_id, task, test)

        for place, rate in enumerate(self.rates):
            for seed in self.tune_seeds:
                behind = 0.01 * sign * abs(place - self.winner)
                outcome = outcomes[seed] if not self.seeds and seed < len(outcomes) else 0.9
                value = None if isinstance(outcome, str) else outcome - behind
                run("tune", rate, seed, outcome, value)
        if self.seeds:
            for seed, outcome in enumerate(outcomes):
                value = None if isinstance(outcome, str) else outcome - 0.005
                run("confirm", self.rates[self.winner], 100 + seed, outcome, value)
        winner = {"learning_rate": self.rates[self.winner]}
        put(paths.cell(cell["id"]), {**cell, **listed, "winner": winner, "state": "done"})
        return {
            **cell,
            "budget": len(self.rates) * len(self.tune_seeds),
            "space": {"learning_rate": {"grid": list(self.rates)}},
            "default": {"learning_rate": self.rates[0]},
        }

    def _predictions(self, paths: ResultPaths, trial_id: str, task: str, score: float) -> None:
        """Examples of a task are hard or easy for all; which of the hard ones a run gets right is chance."""
        hardness = np.random.default_rng(len(task)).normal(0, 1.5, self.examples)
        luck = np.random.default_rng(zlib.crc32(trial_id.encode())).normal(0, 1, self.examples)
        right = np.argsort(np.argsort(hardness + luck)) < round(score * self.examples)
        rows = [{"example": i, "reference": 1, "prediction": int(one)} for i, one in enumerate(right)]
        write_predictions(paths, trial_id, rows, {"accuracy": right[:, None].astype(float)})


def record(
    cell: Mapping[str, Any],
    phase: str,
    entry: Mapping[str, Any],
    status: str,
    validation: float | None,
    test: float | None,
) -> dict[str, Any]:
    """A trial's record with everything the design promises."""
    seconds = COST.get(cell["strategy"], 10.0)
    return {
        "trial_id": entry["trial_id"],
        "phase": phase,
        "task": cell["task"],
        "kind": "text-classification",
        "backbone": cell["backbone"],
        "strategy": cell["strategy"],
        "hyperparameters": entry["hyperparameters"],
        "seed": entry["seed"],
        "status": status,
        "reason": "" if status == "finished" else f"the run {status}",
        "metrics": {
            "validation": None if validation is None else {"accuracy": validation, "f1": validation},
            "test": None if test is None else {"accuracy": test, "f1": test},
        },
        "curve": [{"epoch": 1.0, "step": 50, "train_loss": 0.4, "validation": {"accuracy": validation}}],
        "cost": {
            "wall_s": seconds + 1,
            "device_s": seconds,
            "flops": seconds * 1e12,
            "steps": 150,
            "trainable_params": int(seconds * 1e5),
            "peak_memory_mb": 900.0,
        },
        "drift": {"relative_l2": 0.01},
        "provenance": {
            "versions": {"python": "3.11.7", "torch": "2.14.1"},
            "git": {"commit": "abc", "dirty": False},
            "hardware": {"device": "cpu", "cores": 2},
            "data": {"fingerprint": cell["task"]},
            "weights": "sha256:0123",
        },
        "recipe": {},
    }


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def change(path: Path, **changes: Any) -> None:
    """Change top-level values of a JSON file."""
    put(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def typical() -> Sweep:
    """Two tasks, four strategies, five seeds: a clear loser, a near tie, an A/A pair, a diverged run."""
    return Sweep(
        scores={
            "bbc-topics": {
                "head-only": [0.890, 0.886, 0.894, 0.891, 0.888],
                "top-2": [0.947, 0.951, 0.949, 0.941, 0.950],
                "full": [0.953, 0.946, 0.958, 0.951, 0.949],
                "full-l2sp": [0.953, 0.946, 0.958, 0.951, 0.949],
            },
            "tweet-sentiment": {
                "head-only": [0.702, 0.695, 0.711, 0.699, 0.704],
                "top-2": [0.741, 0.752, 0.744, 0.739, 0.750],
                "full": [0.793, 0.788, "diverged", 0.801, 0.785],
                "full-l2sp": [0.781, 0.795, 0.790, 0.779, 0.783],
            },
        },
        baseline="full",
    )


def hostile(root: Path) -> ResultPaths:
    """Names and reasons that would break out of a page, a table or a path, a failed run, a broken record."""
    scores = {
        HOSTILE: [0.8, 0.81, 0.83],
        LATEX: [0.7, 0.72, "diverged"],
        PIPES: [0.6, 0.61, 0.66],
        "": [0.1] * 3,
    }
    paths = Sweep({HOSTILE: scores, LATEX: scores, "../..": scores}, baseline=LATEX, name=HOSTILE).write(root)
    record = json.loads(paths.trial("c0000-confirm-0001").read_text())
    record["provenance"]["versions"] = {HOSTILE: PIPES}
    put(paths.trial("c0000-confirm-0001"), {**record, "status": "failed", "reason": HOSTILE + PIPES + LATEX})
    paths.trial("c0000-confirm-0000").write_text(HOSTILE)
    return paths
