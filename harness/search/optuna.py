from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.search.base import Asker, Outcome, Search, SearchSpace, Values
from harness.space import Space

if TYPE_CHECKING:
    import optuna


class Optuna(Search):
    """One Optuna study per cell, in `optuna.db` below the results, which optuna-dashboard opens.

    Trials that the scheduler stopped are told as pruned, failed and diverged ones as failed.

    Attributes:
        sampler: `tpe` (multivariate, with constant liar, pinned here because Optuna's defaults changed in
            version 5) or `random`.
    """

    name: ClassVar[str] = "optuna"
    source: ClassVar[str] = "Akiba et al. 2019, arXiv 1907.10902; TPE: Bergstra et al. 2011"

    sampler: Literal["tpe", "random"] = "tpe"

    def reason_against(self, space: SearchSpace) -> str:
        return "" if self.trials or not space.axes else "optuna needs `trials`, its budget per cell"

    def open(self, space: SearchSpace, cell: str, higher_is_better: bool, folder: FilePath) -> Asker:
        return _Study(self, space, cell, higher_is_better, folder)


class _Study:
    def __init__(
        self, settings: Optuna, space: SearchSpace, cell: str, higher_is_better: bool, folder: FilePath
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # A sampler restarted in a resumed sweep must not repeat its first draws: the seed moves on with
        # the number of trials that the study already has.
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
        known = [s.study_name for s in storage.get_all_studies()]
        done = len(storage.get_all_trials(storage.get_study_id_from_name(cell))) if cell in known else 0
        seed = settings.seed + 1_000_003 * done
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        self._study = optuna.create_study(
            storage=storage,
            study_name=cell,
            direction="maximize" if higher_is_better else "minimize",
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._sign = 1.0 if higher_is_better else -1.0
        self._space = space
        self._budget = settings.budget(space)
        self._axes = {".".join(path): (path, axis) for path, axis in space.axes.items()}
        if not self._study.trials and space.axes:
            self._study.enqueue_trial(
                {name: self._stored(space.default[path]) for name, (path, _) in self._axes.items()}
            )
        # What a run that ended asked for and was never told: asked again first.
        self._again = [t for t in self._study.trials if t.state == optuna.trial.TrialState.RUNNING]
        # every trial of this run that is not told yet, by its values
        self._open: dict[str, list[int]] = {}

    @staticmethod
    def _stored(value: Any) -> Any:
        """Optuna's categories are plain values; lists and mappings go through JSON."""
        return json.dumps(value) if isinstance(value, (list, dict)) else value

    def _suggest(self, trial: optuna.Trial, name: str, axis: Space) -> Any:
        if axis.how in ("grid", "choice"):
            stored = [self._stored(option) for option in axis.values]
            return axis.values[stored.index(trial.suggest_categorical(name, stored))]
        low, high = axis.values
        if axis.how == "int":
            return trial.suggest_int(name, low, high)
        return trial.suggest_float(name, low, high, log=axis.how == "loguniform")

    def ask(self) -> Values | None:
        import optuna

        if self._again:
            frozen = self._again.pop(0)
            if set(frozen.params) == set(self._axes):
                stored = {
                    name: [self._stored(v) for v in axis.values] for name, (_, axis) in self._axes.items()
                }
                values = {
                    path: axis.values[stored[name].index(frozen.params[name])]
                    if axis.how in ("grid", "choice")
                    else frozen.params[name]
                    for name, (path, axis) in self._axes.items()
                }
                self._open.setdefault(_key(values), []).append(frozen.number)
                return values
            self._study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)  # killed while it was asked
        spent = [
            t for t in self._study.get_trials(deepcopy=False) if t.state != optuna.trial.TrialState.WAITING
        ]
        if len(spent) >= self._budget:
            return None
        trial = self._study.ask()
        values = {path: self._suggest(trial, name, axis) for name, (path, axis) in self._axes.items()}
        self._open.setdefault(_key(values), []).append(trial.number)
        return values

    def tell(self, values: Values, outcome: Outcome) -> None:
        import optuna

        states = {
            "finished": optuna.trial.TrialState.COMPLETE,
            "stopped": optuna.trial.TrialState.PRUNED,
        }
        for number in self._open.pop(_key(values), []):
            trial = optuna.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)
            for epoch, reached in outcome.curve:
                trial.report(self._sign * reached, round(epoch))
            state = states.get(outcome.state, optuna.trial.TrialState.FAIL)
            score = (
                self._sign * outcome.score
                if outcome.score is not None and outcome.state == "finished"
                else None
            )
            self._study.tell(trial, score, state=state)


def _key(values: Values) -> str:
    return json.dumps([[list(path), value] for path, value in sorted(values.items())])
