"""Do two results folders of one sweep hold the same trials with the same results?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

# Largest difference of a loss that counts as rounding, absolute, or relative above 1. Sums in another order
# differ in the last of float32's seven digits, and training magnifies that; under bf16 the inputs of every
# matrix product have three digits.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class Differences:
    """Largest differences over all trials.

    Attributes:
        trials: how many are in both folders.
        missing: how many are in one only, or did not finish in both.
        train_loss, validation_loss: of the last point of the curves, relative to max(1, loss).
        metrics: of any validation metric at any point of the curves.
        predictions: compared, of confirm trials; `other` of them differ, and `scores` is the largest
            difference of a score.
    """

    trials: int
    missing: int
    train_loss: float
    validation_loss: float
    metrics: float
    predictions: int
    other: int
    scores: float

    def holds(self, precision: str) -> bool:
        """Losses within tolerance, and equal predictions: no metric differs, nor a recorded prediction."""
        within = max(self.train_loss, self.validation_loss) <= TOLERANCE[precision]
        return self.trials > 0 and not self.missing and within and self.metrics == 0 and not self.other


def records(results: Path) -> dict[str, dict[str, Any]]:
    """The records of a results folder by trial."""
    found = (json.loads(path.read_text()) for path in sorted(results.glob("trials/*.json")))
    return {record["trial_id"]: record for record in found}


def differences(one: Path, two: Path) -> Differences:
    """Compare two results folders, trial by trial."""
    a, b = records(one), records(two)
    both = sorted(
        trial for trial in a.keys() & b.keys() if a[trial]["status"] == b[trial]["status"] == "finished"
    )
    losses: dict[str, list[float]] = {"train_loss": [0.0], "validation_loss": [0.0]}
    metrics, other, scores, predictions = [0.0], 0, [0.0], 0
    for trial in both:
        left, right = a[trial]["curve"], b[trial]["curve"]
        for name, found in losses.items():
            x, y = left[-1][name], right[-1][name]
            found.append(abs(x - y) / max(1.0, abs(x)))
        for x, y in zip(left, right, strict=True):
            metrics += [abs(value - y["validation"][name]) for name, value in x["validation"].items()]
        files = [root / "predictions" / f"{trial}.parquet" for root in (one, two)]
        if all(file.exists() for file in files):
            x, y = (pd.read_parquet(file) for file in files)
            predictions += len(x)
            other += int((x["prediction"] != y["prediction"]).sum())
            scores += _apart(x["scores"], y["scores"])
    return Differences(
        trials=len(both), missing=len(a.keys() | b.keys()) - len(both),
        train_loss=max(losses["train_loss"]), validation_loss=max(losses["validation_loss"]),
        metrics=max(metrics), predictions=predictions, other=other, scores=max(scores),
    )  # fmt: skip


def _apart(one: Iterable[Any], two: Iterable[Any]) -> list[float]:
    return [float(abs(x - y).max()) for x, y in zip(one, two, strict=True)]
