"""Successive halving within each cell: one ASHA per cell, since accuracy on one task says nothing about
another, and strategies get equal budgets rather than compete for them while they are tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from harness.plan import Trial
from harness.search.base import Asha, Scheduler
from harness.tuning.cells import Summary

# Rungs reach beyond any trial: where epochs are tuned, the trials of one cell differ in length.
LONGEST = 1_000_000


@dataclass(frozen=True)
class _Named:
    """All that Ray's scheduler reads of a trial."""

    trial_id: str


class Halving:
    """Decides which tune trials stop early."""

    def __init__(self, settings: Scheduler | None) -> None:
        self._settings = settings
        self._cells: dict[str, Any] = {}

    def _of(self, trial: Trial) -> Any:
        assert isinstance(self._settings, Asha)
        if trial.cell not in self._cells:
            self._cells[trial.cell] = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="score",
                mode="max",
                max_t=max(LONGEST, self._settings.grace),
                grace_period=self._settings.grace,
                reduction_factor=self._settings.reduction,
                stop_last_trials=False,
            )
        return self._cells[trial.cell]

    def stops(self, trial: Trial, epoch: float, score: float | None) -> bool:
        """Whether a trial that was just evaluated is to stop. Confirm trials never are, nor is a trial that
        has had its last epoch."""
        if self._settings is None or trial.phase != "tune" or score is None:
            return False
        asha, named = self._of(trial), _Named(trial.trial_id)
        if named.trial_id not in asha._trial_info:
            asha.on_trial_add(None, named)
        decision = asha.on_trial_result(None, named, {"epoch": epoch, "score": score})
        return bool(decision == TrialScheduler.STOP) and epoch < trial.recipe["training"]["epochs"]

    def judge(self, trial: Trial, curve: tuple[tuple[float, float], ...]) -> bool:
        """`stops` at the end of a curve. The whole curve is told, since a trial that was resumed from its
        checkpoint reports only what is new; a rung takes a trial's score once."""
        answers = [self.stops(trial, epoch, score) for epoch, score in curve]
        return bool(answers) and answers[-1]

    def replay(self, trial: Trial, summary: Summary) -> None:
        """Fill the rungs with a trial that an earlier run recorded."""
        self.judge(trial, summary.curve)
