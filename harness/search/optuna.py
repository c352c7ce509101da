from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path as FilePath
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.axes import configuration
from harness.search.base import Asker, Outcome, Search, SearchSpace, Values, key
from harness.space import Path, Space

if TYPE_CHECKING:
    import optuna


_FILE = "optuna.db"
# Attributes of a trial: checksums of what it was given, and of what it came to.
_ASKED, _TOLD = "checksum_asked", "checksum_told"
# What SQLite says of a storage that is whole.
_NO_FAULT = ("database is locked", "disk is full", "unable to open", "disk I/O error")


class Optuna(Search):
    """One Optuna study per cell, in `optuna.db` below the results, which optuna-dashboard opens.

    Define-by-run: an axis that stands inside an option is suggested in the trials that choose the option.

    Trials that the scheduler stopped are told as pruned, failed and diverged ones as failed.

    Attributes:
        sampler: `tpe` (multivariate, with constant liar, pinned here because Optuna's defaults changed in
            version 5; where axes stand inside options, each group of axes that occur together is modelled by
            itself) or `random`.
    """

    name: ClassVar[str] = "optuna"
    source: ClassVar[str] = "Akiba et al. 2019, arXiv 1907.10902; TPE: Bergstra et al. 2011"

    sampler: Literal["tpe", "random"] = "tpe"

    def reason_against(self, space: SearchSpace) -> str:
        return "" if self.trials or not space.axes else "optuna needs `trials`, its budget per cell"

    def open(
        self,
        space: SearchSpace,
        cell: str,
        higher_is_better: bool,
        folder: FilePath,
        known: Sequence[Values] = (),
    ) -> Asker:
        return _Study(self, space, cell, higher_is_better, folder, known)

    def remembers(self, folder: FilePath) -> bool:
        path = folder / _FILE
        if not path.exists():
            return False
        if why := _fault(path):
            raise ValueError(why)
        return True


def address(database: FilePath) -> str:
    """Of a file of studies, as SQLAlchemy takes it: `?` in a path would begin its options."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(database)).render_as_string()


class _Study:
    """Hands out first what the study already holds, so that a resumed sweep knows what it had tried."""

    def __init__(
        self,
        settings: Optuna,
        space: SearchSpace,
        cell: str,
        higher_is_better: bool,
        folder: FilePath,
        known: Sequence[Values],
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.RDBStorage(address(folder / _FILE))
        # Optuna refuses to change the choices of a study, and old bounds would bias the sampler: another
        # space is another study.
        name = f"{cell} | {_fingerprint(space)}"
        studies = [s.study_name for s in storage.get_all_studies()]
        done = len(storage.get_all_trials(storage.get_study_id_from_name(name))) if name in studies else 0
        # A sampler restarted in a resumed sweep must not repeat its first draws: the seed moves on with
        # the number of trials that the study already has.
        seed = (settings.seed + 1_000_003 * max(done, len(known))) % 2**32
        sampler: optuna.samplers.BaseSampler
        if settings.sampler == "tpe":
            nested = any(axis.when is not None for axis in space.axes.values())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` is one
                sampler = optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, group=nested, constant_liar=True
                )
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
        self._axes = space.axes
        if space.axes:
            studied = [_given(trial) for trial in self._study.trials]
            for named in map(self._named, known or ([] if studied else [space.default])):
                if named not in studied:
                    self._study.enqueue_trial(named)
        waiting = optuna.trial.TrialState.WAITING
        self._again = [t for t in self._study.trials if t.state != waiting][: self._budget]
        self._asked = 0
        self._open: dict[str, list[optuna.Trial]] = {}  # not told yet, by their values

    def _named(self, values: Values) -> dict[str, Any]:
        """A configuration as Optuna knows it."""
        named = {}
        for path, value in values.items():
            choices = self._choices(self._axes[path])
            named[".".join(path)] = choices[self._axes[path].index(value)] if choices else value
        return named

    @staticmethod
    def _choices(axis: Space) -> list[Any]:
        """Optuna's name for each value of a list, empty for a range. Its categories are plain values that
        differ under `==`: what is not (1 and 1.0, lists, mappings) goes by its JSON."""
        if axis.how not in ("grid", "choice"):
            return []
        values = list(axis.values)
        plain = all(isinstance(value, (str, int, float, bool, NoneType)) for value in values)
        return values if plain and len(set(values)) == len(values) else [json.dumps(v) for v in values]

    def _suggest(self, trial: optuna.Trial, path: Path, axis: Space) -> Any:
        label, choices = ".".join(path), self._choices(axis)
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
        values = configuration(self._axes, lambda path, axis: self._suggest(trial, path, axis))
        if known is None or not known.state.is_finished():
            trial.set_user_attr(_ASKED, _seal_of(trial))
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
            trial.set_user_attr(_TOLD, _checksum([state.name, score]))
            self._study.tell(trial, score, state=state)


def _given(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The configuration of a trial, asked for or enqueued."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _fault(path: FilePath) -> str:
    """Why a storage is not what was written; empty if it is, as far as can be known: SQLite verifies how its
    pages hang together, our checksums the parameters and values of trials."""
    import optuna

    try:
        with closing(sqlite3.connect(path)) as base:
            (found,) = base.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok" or path.stat().st_size == 0:
            return f"SQLite says: {found if path.stat().st_size else 'it is empty'}"
        storage = optuna.storages.RDBStorage(address(path))
        for study in storage.get_all_studies():
            for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                asked, told = trial.user_attrs.get(_ASKED), trial.user_attrs.get(_TOLD)
                complete = trial.state == optuna.trial.TrialState.COMPLETE
                ended = [trial.state.name, trial.value if complete else None]
                altered = told is not None and trial.state.is_finished() and told != _checksum(ended)
                if altered or (asked is not None and asked != _seal_of(trial)):
                    return f"trial {trial.number} of '{study.study_name}' is not what was written"
        storage.engine.dispose()
    except Exception as error:  # whatever SQLite, SQLAlchemy and Optuna make of damaged content
        if any(word in str(error) for word in _NO_FAULT):
            raise OSError(errno.EIO, f"cannot be used: {error}", str(path)) from error
        return f"cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})"
    return ""


def _seal_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """Checksum of what a trial was given, and from where."""
    ranges = {name: repr(found) for name, found in trial.distributions.items()}
    return _checksum([sorted(trial.params.items()), sorted(ranges.items())])


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _fingerprint(space: SearchSpace) -> str:
    axes = {".".join(path): axis.as_dict() for path, axis in space.axes.items()}
    return hashlib.sha256(json.dumps(axes, sort_keys=True).encode()).hexdigest()[:6]
