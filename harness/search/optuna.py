from __future__ import annotations

import hashlib
import json
from pathlib import Path as FilePath
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.search.base import Asker, Outcome, Search, SearchSpace, Values, key
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


def address(database: FilePath) -> str:
    """Of a file of studies, as SQLAlchemy takes it: `?` in a path would begin its options."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(database)).render_as_string()


class _Study:
    """Hands out first what the study already holds, so that a resumed sweep knows what it had tried."""

    def __init__(
        self, settings: Optuna, space: SearchSpace, cell: str, higher_is_better: bool, folder: FilePath
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(address(folder / "optuna.db"))
        # Optuna refuses to change the choices of a study, and old bounds would bias the sampler: another
        # space is another study.
        name = f"{cell} | {_fingerprint(space)}"
        known = [s.study_name for s in storage.get_all_studies()]
        done = len(storage.get_all_trials(storage.get_study_id_from_name(name))) if name in known else 0
        # A sampler restarted in a resumed sweep must not repeat its first draws: the seed moves on with
        # the number of trials that the study already has.
        seed = (settings.seed + 1_000_003 * done) % 2**32
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize" if higher_is_better else "minimize",
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._sign = 1.0 if higher_is_better else -1.0
        self._budget = settings.budget(space)
        self._axes = {".".join(path): (path, axis) for path, axis in space.axes.items()}
        if not self._study.trials and space.axes:
            default = {}
            for label, (path, axis) in self._axes.items():
                value = space.default[path]
                choices = self._choices(axis)
                default[label] = choices[_index(axis, value)] if choices else value
            self._study.enqueue_trial(default)
        waiting = optuna.trial.TrialState.WAITING
        self._again = [t for t in self._study.trials if t.state != waiting][: self._budget]
        self._asked = 0
        self._open: dict[str, list[optuna.Trial]] = {}  # not told yet, by their values

    @staticmethod
    def _choices(axis: Space) -> list[Any]:
        """Optuna's name for each value of a list, empty for a range. Its categories are plain values that
        differ under `==`: what is not (1 and 1.0, lists, mappings) goes by its JSON."""
        if axis.how not in ("grid", "choice"):
            return []
        values = list(axis.values)
        plain = all(isinstance(value, (str, int, float, bool, NoneType)) for value in values)
        return values if plain and len(set(values)) == len(values) else [json.dumps(v) for v in values]

    def _suggest(self, trial: optuna.Trial, label: str, axis: Space) -> Any:
        choices = self._choices(axis)
        if choices:
            return axis.values[choices.index(trial.suggest_categorical(label, choices))]
        low, high = axis.values
        if axis.how == "int":
            return trial.suggest_int(label, low, high)
        return trial.suggest_float(label, low, high, log=axis.how == "loguniform")

    def ask(self) -> Values | None:
        import optuna

        if self._asked >= self._budget:
            return None
        self._asked += 1
        known = self._again.pop(0) if self._again else None
        trial = self._study.ask() if known is None else optuna.Trial(self._study, known._trial_id)
        # What the trial was given before stays; one that a kill caught half-way gets the rest now.
        values = {path: self._suggest(trial, label, axis) for label, (path, axis) in self._axes.items()}
        self._open.setdefault(key(values), []).append(trial)
        return values

    def tell(self, values: Values, outcome: Outcome) -> None:
        import optuna

        states = {
            "finished": optuna.trial.TrialState.COMPLETE,
            "stopped": optuna.trial.TrialState.PRUNED,
        }
        state = states.get(outcome.state, optuna.trial.TrialState.FAIL)
        score = (
            self._sign * outcome.score if outcome.state == "finished" and outcome.score is not None else None
        )
        # An end that the study knows already stays as it is: Optuna's trials end once.
        for trial in self._open.pop(key(values), []):
            if self._study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                continue
            for step, (_, reached) in enumerate(outcome.curve, start=1):
                trial.report(self._sign * reached, step)
            self._study.tell(trial, score, state=state)


def _index(axis: Space, value: Any) -> int:
    return next(i for i, v in enumerate(axis.values) if type(v) is type(value) and v == value)


def _fingerprint(space: SearchSpace) -> str:
    axes = {".".join(path): axis.as_dict() for path, axis in space.axes.items()}
    return hashlib.sha256(json.dumps(axes, sort_keys=True).encode()).hexdigest()[:6]
