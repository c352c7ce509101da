"""The grids: what every arm trains, as sweep files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan import Trial, make_plan
from harness.prepare import prepare
from harness.spec import load

_TOPICS = {"use": "bbc-topics", "train_size": 256, "validation_size": 128, "test_size": 128}
_TRAINING = {
    "epochs": 3, "batch_size": 16, "evaluation_batch_size": 64, "max_length": 64,
    "schedule": "linear", "warmup": 0.1, "clip": 1.0,
}  # fmt: skip
# Rates of a head, of the top blocks, and of everything; λ is never 0, where no penalty would be computed.
_HEAD_RATES = [1e-3, 5e-3, 2e-2, 5e-2]
_TOP_RATES = [5e-5, 1e-4, 2e-4, 5e-4]
_LAMBDAS = [0.01, 0.1]


def _strategy(freeze: Any, rates: list[float], lambdas: list[float] | None = None) -> dict[str, Any]:
    """A strategy over a grid. A pull towards θ⁰ does nothing where the head alone trains: L2 there."""
    found: dict[str, Any] = {"freeze": freeze, "optimizer": {"learning_rate": {"grid": rates}}}
    if lambdas is not None:
        penalty = "l2" if freeze == "all" else "l2-sp"
        found["regularizer"] = {"name": penalty, "strength": {"grid": lambdas}}
    return found


# Rung 0 is the embeddings: `freeze: k` leaves k - 1 of minilm's 6 blocks as they are.
_GRIDS: Mapping[str, Mapping[str, Any]] = {
    # 12 rates × 4 seeds = 48 trials
    "A": {
        "strategies": {
            "head-only": _strategy(
                "all", [5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2, 1e-1]
            )
        },
        "seeds": {"tune": 4},
    },
    # 3 depths × 4 rates × 2 λ = 24 trials
    "B": {
        "strategies": {
            "head-only": _strategy("all", _HEAD_RATES, _LAMBDAS),
            "top-1": _strategy(6, _TOP_RATES, _LAMBDAS),
            "top-2": _strategy(5, _TOP_RATES, _LAMBDAS),
        }
    },
    # 3 depths × 2 rates × 2 λ = 12 trials
    "C": {
        "strategies": {
            "head-only": _strategy("all", _HEAD_RATES[1:3], _LAMBDAS),
            "top-3": _strategy(4, _TOP_RATES[1:3], _LAMBDAS),
            "full": _strategy(0, _TOP_RATES[:2], _LAMBDAS),
        }
    },
    # 7 trials of seconds, to try this script
    "tiny": {
        "backbones": {"bert": {"use": "untrained", "family": "bert"}},
        "training": {**_TRAINING, "epochs": 6, "max_length": 32},
        "strategies": {
            "head-only": _strategy("all", [1e-2, 3e-2], _LAMBDAS[:1]),
            "top-1": _strategy(2, [2e-3], _LAMBDAS),
            "full": _strategy(0, [2e-3], [1e-4, 1e-3]),
            "full-plain": _strategy(0, [2e-3]),
        },
    },
}
NAMES = tuple(_GRIDS)


def sweep(grid: str, precision: str, confirm: int, share: bool) -> dict[str, Any]:
    """The content of a sweep file. `confirm` seeds make the harness record predictions on test."""
    chosen = _GRIDS[grid]
    return {
        "name": f"grid-{grid.lower()}",
        "backbones": chosen.get("backbones", ["minilm-l6"]),
        "tasks": [_TOPICS],
        "training": {**chosen.get("training", _TRAINING), "precision": precision},
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
        "strategies": chosen["strategies"],
        "search": {"algorithm": "grid"},
        "seeds": {**chosen.get("seeds", {"tune": 1}), "confirm": confirm},
        "resources": {"cpus": 1, "share": share},
    }


@dataclass(frozen=True)
class Work:
    """What the arms are given.

    Attributes:
        job: for the Trainer's arms: the settings that all trials share, `model` and `data` (folders),
            `labels` (number of classes), and `trials`: per trial `trial_id`, `configuration` (in words),
            `frozen` rungs, `learning_rate`, `l2`, `l2_sp`, `seed`.
        ordinary: FLOPs of all trials, each from its inputs.
        shared: FLOPs of all trials, each from what leaves its frozen prefix, and of one pass of every example
            through the deepest of these prefixes.
    """

    job: dict[str, Any]
    ordinary: float
    shared: float


def work(spec: Path, assignments: Sequence[str], folder: Path) -> Work:
    """Plan a sweep file, and write its data below `folder` as the Trainer's arms read them.

    Favours the Trainer's arms: they need not carve, check and number the classes of the corpus.
    """
    import datasets

    datasets.disable_progress_bars()
    sweep = load(spec, assignments)
    plan = make_plan(sweep, prepare(sweep))
    (task, backbone), *more = sweep.pairs
    if more:
        raise ValueError("the arms of the Trainer take one task and one backbone")
    facts, model = plan.prepared.tasks[task.name], plan.prepared.models[task.name, backbone.name]
    splits = {
        name: datasets.Dataset.from_dict(
            {"text": split[task.task.inputs[0]][:], "labels": task.task.references(split, facts)}
        )
        for name, split in task.task.load(task.name).items()
    }
    datasets.DatasetDict(splits).save_to_disk(str(folder / "data"))
    trials = {trial.trial_id: trial for trial in plan.planned()}  # equal ones once
    training = next(iter(trials.values())).recipe["training"]
    settings = (
        "epochs",
        "batch_size",
        "evaluation_batch_size",
        "max_length",
        "warmup",
        "clip",
        "precision",
    )
    job = {
        **{name: training[name] for name in settings},
        "weight_decay": next(iter(trials.values())).recipe["optimizer"]["weight_decay"],
        "model": backbone.backbone.location(),
        "labels": len(facts.classes),
        "trials": [_as_job(trial) for trial in trials.values()],
    }
    depths = [trial.stages[0]["frozen"] for trial in trials.values()]
    examples = facts.sizes["train"] + facts.sizes["validation"]
    above = sum(
        training["epochs"] * sum(model.flops[depth:]) * (3 * facts.sizes["train"] + facts.sizes["validation"])
        for depth in depths
    )
    prefix = examples * sum(model.flops[: max(depths)])
    return Work(job, sum(trial.flops for trial in trials.values()), prefix + above)


def _as_job(trial: Trial) -> dict[str, Any]:
    penalty = trial.recipe.get("regularizer", {"name": "", "strength": 0.0})
    values = ", ".join(f"{name.split('.')[-1]} {value:g}" for name, value in trial.hyperparameters.items())
    return {
        "trial_id": trial.trial_id,
        "configuration": f"{trial.strategy}: {values}" if values else trial.strategy,
        "frozen": trial.stages[0]["frozen"],
        "learning_rate": trial.recipe["optimizer"]["learning_rate"],
        "l2": penalty["strength"] if penalty["name"] == "l2" else 0.0,
        "l2_sp": penalty["strength"] if penalty["name"] == "l2-sp" else 0.0,
        "seed": trial.seed,
    }
