"""Tune keeps every trial that has ended until the sweep ends: its settings three times over, its results,
running means of them. That is some 50 KB a trial, and the records hold all that counts."""

from __future__ import annotations

from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

# Where Tune's controller holds on to a trial that has ended. A name that another version of Ray lacks costs
# memory and nothing else.
_HOLDERS = ("_stopped_trials", "_failed_trials", "_live_trials", "_trials_to_cache")


class ForgettingScheduler(FIFOScheduler):
    """First in, first out; makes Tune let go of trials that have ended."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: list[tuple[Any, Any]] = []

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._ended.append((tune_controller, trial))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._ended.append((tune_controller, trial))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        # Tune still works with a trial when it says that the trial ends; in the next step it is done with it.
        ended, self._ended = self._ended, []
        for controller, trial in ended:
            if trial.is_finished():  # or it was lost with its worker, and waits to be started again
                _forget(controller, trial)
        return super().choose_trial_to_run(tune_controller)


class SilentProgress(TrialProgressCallback):
    """In place of Tune's own progress view, which keeps every trial even where it is to print nothing."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        pass

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        pass


def _forget(controller: Any, trial: Any) -> None:
    for name in _HOLDERS:
        getattr(controller, name, set()).discard(trial)
    trials = controller.get_trials()
    if trial in trials and len(trials) > 1:  # Tune cannot end with none
        trials.remove(trial)
