"""The campaign: what a plan still owes, handed out trial by trial, until every cell has a verdict.

The records on disk say what is done; a campaign is rebuilt from them whenever a sweep is run again. It knows
nothing of Ray: both executors ask it for the next trial and tell it how each one ended.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from harness.plan import SOURCE, Cell, Plan, Trial
from harness.records.paths import ResultPaths, write_json
from harness.records.record import FINAL, Record, read_record, write_record
from harness.search.base import Asker, Listed, Outcome, Values


@dataclass(frozen=True)
class Event:
    """Something that a view of the running sweep may show."""

    what: Literal["known", "started", "point", "ended"]
    trial: Trial
    record: Record | None = None


Watch = Callable[[Event], None]


@dataclass
class Tried:
    """One configuration of a cell: its trials by seed and how they ended."""

    values: Values
    trials: dict[int, Trial]
    ended: dict[int, Summary] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.ended) == len(self.trials)

    def score(self) -> float | None:
        """Mean score over seeds; None unless every seed finished: a mean over what is left would not be
        comparable."""
        scores = [summary.score for summary in self.ended.values()]
        if not self.complete or any(score is None for score in scores):
            return None
        return fmean(score for score in scores if score is not None)


@dataclass(frozen=True)
class Summary:
    """What the campaign keeps of a record. `score` is oriented so that higher is better."""

    status: str
    score: float | None
    curve: tuple[tuple[float, float], ...]


@dataclass
class CellState:
    cell: Cell
    asker: Asker
    tried: list[Tried] = field(default_factory=list)
    confirm: Tried | None = None
    exhausted: bool = False
    queue: deque[Trial] = field(default_factory=deque)
    confirms: bool = True
    blocked: bool = False  # its backbone could not be trained on its source task

    @property
    def phase(self) -> str:
        if self.blocked:
            return "blocked"
        if not self.exhausted or not all(tried.complete for tried in self.tried):
            return "tuning"
        if self.confirm is None:  # still to be handed out, if there is a winner to confirm
            return "confirming" if self.confirms and winner(self.tried) is not None else "done"
        return "done" if self.confirm.complete else "confirming"


class Campaign:
    """Hands out trials and takes their records.

    Args:
        replay: told of the trials that earlier runs recorded, so that a scheduler's rungs survive a restart.
    """

    def __init__(
        self,
        plan: Plan,
        paths: ResultPaths,
        watch: Watch,
        replay: Callable[[Trial, Summary], None] = lambda trial, summary: None,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self.running: dict[str, Trial] = {}
        self._watch = watch
        self._replay = replay
        self._signs = {name: 1.0 if task.higher_is_better else -1.0 for name, task in plan.tasks.items()}
        self._waiting: dict[str, list[tuple[CellState, Tried, int]]] = {}
        self._known: dict[str, Summary] = {}
        self.cells = [self._open(cell) for cell in self._longest_first()]
        self._sources = self._open_sources()

    def _longest_first(self) -> list[Cell]:
        """Task by task in file order; within a task the cells with the longest trials first."""
        order = list(self.plan.tasks)

        def length(cell: Cell) -> float:
            return self.plan.trial(cell, cell.space.default, 0, "tune").flops

        return sorted(self.plan.cells, key=lambda cell: (order.index(cell.task), -length(cell)))

    def _open(self, cell: Cell) -> CellState:
        search, task = self.plan.sweep.search, self.plan.tasks[cell.task]
        asker: Asker
        if cell.configurations is None:
            self.paths.root.mkdir(parents=True, exist_ok=True)
            # Scores of other data, weights or recipes tell a search nothing: they make another study.
            content = self.plan.trial(cell, cell.space.default, 0, "tune").trial_id[:6]
            name = f"{cell.task} | {cell.backbone} | {cell.strategy} | {content}"
            asker = search.open(cell.space, name, task.higher_is_better, self.paths.root)
        else:
            asker = Listed(cell.configurations)
        return CellState(cell, asker, confirms=len(self.plan.confirm_seeds) > 0)

    def _open_sources(self) -> dict[str, Trial]:
        """The source trials that are still to be trained, by trial id."""
        owed = {}
        for trial in {trial.trial_id: trial for trial in self.plan.sources.values()}.values():
            record = read_record(self.paths.trial(trial.trial_id))
            settled = record is not None and record["status"] in FINAL
            if record is not None and record["status"] == "finished":
                settled = self.paths.source(trial.trial_id).is_dir()  # the weights have not been cleared away
            if record is not None and settled:
                self._watch(Event("known", trial, record))
                self._source_ended(trial, record)
            else:
                owed[trial.trial_id] = trial
        return owed

    # -- handing out -----------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return all(state.phase in ("done", "blocked") for state in self.cells)

    def next(self) -> Trial | None:
        """The next trial to run now; None if everything left waits for a running one, or all is done."""
        for trial in self._sources.values():
            if trial.trial_id not in self.running:
                self.running[trial.trial_id] = trial
                self._watch(Event("started", trial))
                return trial
        for state in self.cells:
            source = self.plan.sources.get(state.cell.backbone)
            if state.blocked or (source is not None and source.trial_id in self._sources):
                continue
            while True:
                while state.queue:
                    trial = state.queue.popleft()
                    # another cell that shares the trial may have run it meanwhile
                    if trial.trial_id not in self.running and trial.trial_id not in self._known:
                        self.running[trial.trial_id] = trial
                        self._watch(Event("started", trial))
                        return trial
                if not self._refill(state):
                    break
        return None

    def _refill(self, state: CellState) -> bool:
        """Put a cell's next trials into its queue; False if it has none to give now."""
        if not state.exhausted:
            values = state.asker.ask()
            if values is None:
                state.exhausted = True
                self._save(state)
                return True
            seeds = self.plan.tune_seeds
            tried = Tried(values, {s: self.plan.trial(state.cell, values, s, "tune") for s in seeds})
            state.tried.append(tried)
            self._owe(state, tried)
            return True
        if state.phase != "confirming" or state.confirm is not None:
            return False
        best = winner(state.tried)
        assert best is not None  # or the phase were another
        seeds = self.plan.confirm_seeds
        state.confirm = Tried(
            best.values, {s: self.plan.trial(state.cell, best.values, s, "confirm") for s in seeds}
        )
        self._owe(state, state.confirm)
        return True

    def _owe(self, state: CellState, tried: Tried) -> None:
        """Queue what is not recorded; take what is."""
        for seed, trial in tried.trials.items():
            self._waiting.setdefault(trial.trial_id, []).append((state, tried, seed))
        self._save(state)
        for seed, trial in list(tried.trials.items()):
            if seed not in tried.trials:
                continue  # an earlier seed was stopped, see `_drop_rest`
            if self._known.get(trial.trial_id) is None:
                record = read_record(self.paths.trial(trial.trial_id))
                if record is None or not self._counts(record):
                    state.queue.append(trial)
                    continue
                self._known[trial.trial_id] = self._summary(trial, record)
                self._replay(trial, self._known[trial.trial_id])
                self._watch(Event("known", trial, record))
            self._deliver(trial.trial_id)

    def _counts(self, record: Record) -> bool:
        """Whether a record of an earlier run settles its trial: a failed one is tried again, and so is one
        that a scheduler stopped when the sweep no longer has a scheduler, or several cells share it now."""
        shared = record["trial_id"] in self.plan.merged
        if record["status"] == "stopped" and (shared or self.plan.sweep.scheduler is None):
            return False
        return record["status"] in FINAL

    # -- taking back -----------------------------------------------------------------------------

    def point(self, trial: Trial, record: Record) -> None:
        """A running trial has been evaluated."""
        self._watch(Event("point", trial, record))

    def may_stop(self, trial: Trial) -> bool:
        """Whether a scheduler may end a trial early.

        Not one that several cells asked for: what one cell can spare another may need. And of a
        configuration's tune seeds only the first competes; were each to compete on its own, hardly any
        configuration would keep all its seeds, and none could win.
        """
        shared = trial.trial_id in self.plan.merged or len(self._waiting.get(trial.trial_id, [])) > 1
        return not shared and trial.phase == "tune" and trial.seed == self.plan.tune_seeds[0]

    def finish(self, trial: Trial, record: Record) -> None:
        """A trial has ended; its record is on disk."""
        self.running.pop(trial.trial_id, None)
        if trial.phase == SOURCE:
            del self._sources[trial.trial_id]
            self._watch(Event("ended", trial, record))
            self._source_ended(trial, record)
            return
        self._known[trial.trial_id] = self._summary(trial, record)
        self._watch(Event("ended", trial, record))
        self._deliver(trial.trial_id)

    def _source_ended(self, trial: Trial, record: Record) -> None:
        if record["status"] == "finished":
            return
        for state in self.cells:
            source = self.plan.sources.get(state.cell.backbone)
            if source is not None and source.trial_id == trial.trial_id:
                state.blocked = True
                self._save(state)

    def stop(self, trial: Trial, draft: Record) -> None:
        """The scheduler has stopped a trial: its record so far becomes its record."""
        write_record(self.paths, draft)
        self.paths.checkpoint(trial.trial_id).unlink(missing_ok=True)
        self.finish(trial, draft)

    def score(self, trial: Trial, validation: dict[str, float] | None) -> float | None:
        """The primary metric, oriented so that higher is better."""
        if validation is None:
            return None
        value = validation.get(self.plan.tasks[trial.task].primary_metric)
        # a record on disk has null where the metric was undefined, one in memory has NaN
        return None if value is None or not math.isfinite(value) else self._signs[trial.task] * value

    def _summary(self, trial: Trial, record: Record) -> Summary:
        finished = record["status"] == "finished"
        final = self.score(trial, record["metrics"]["validation"]) if finished else None
        return Summary(record["status"], final, self.curve(trial, record))

    def curve(self, trial: Trial, record: Record) -> tuple[tuple[float, float], ...]:
        """(epoch, score) of every evaluation so far."""
        # By the trial's task: the record may be of a time when the task had another name.
        scored = ((point["epoch"], self.score(trial, point["validation"])) for point in record["curve"])
        return tuple((epoch, score) for epoch, score in scored if score is not None)

    def _deliver(self, trial_id: str) -> None:
        for state, tried, seed in self._waiting.pop(trial_id, []):
            tried.ended[seed] = self._known[trial_id]
            if tried.ended[seed].status == "stopped":
                self._drop_rest(state, tried)
            if tried is not state.confirm and tried.complete:
                state.asker.tell(tried.values, outcome(tried))
            if state.phase == "done":
                self._save(state)

    def _drop_rest(self, state: CellState, tried: Tried) -> None:
        """A configuration that was stopped cannot win: its seeds that have not started are not run."""
        for seed, trial in list(tried.trials.items()):
            started = trial.trial_id in self.running or self.paths.trial(trial.trial_id).exists()
            if seed in tried.ended or started:
                continue
            if trial in state.queue:
                state.queue.remove(trial)
            del tried.trials[seed]
            self._waiting[trial.trial_id].remove((state, tried, seed))
        self._save(state)

    # -- what the report reads -------------------------------------------------------------------

    def _save(self, state: CellState) -> None:
        """Which trials belong to the cell, and what won."""

        def listed(tried: Tried) -> Iterator[dict[str, Any]]:
            for seed, trial in tried.trials.items():
                yield {"trial_id": trial.trial_id, "hyperparameters": trial.hyperparameters, "seed": seed}

        best = winner(state.tried) if state.exhausted else None
        content = {
            "id": state.cell.id,
            "task": state.cell.task,
            "backbone": state.cell.backbone,
            "strategy": state.cell.strategy,
            "tune": [entry for tried in state.tried for entry in listed(tried)],
            "confirm": list(listed(state.confirm)) if state.confirm else [],
            "winner": next(iter(best.trials.values())).hyperparameters if best is not None else None,
            "state": state.phase,
        }
        write_json(self.paths.cell(state.cell.id), content)


def winner(tried: list[Tried]) -> Tried | None:
    """The configuration with the best mean validation score over all its tune seeds; the earlier one wins
    a tie. Only trials that ran to their end count: a stopped trial's score is one of a shorter training."""
    scored = [(score, candidate) for candidate in tried if (score := candidate.score()) is not None]
    return max(scored, key=lambda entry: entry[0])[1] if scored else None


def outcome(tried: Tried) -> Outcome:
    """What a search is told of a configuration."""
    statuses = {summary.status for summary in tried.ended.values()}
    score = tried.score()
    state = (
        "finished" if score is not None else "stopped" if statuses <= {"finished", "stopped"} else "failed"
    )
    first = next(iter(tried.ended.values()))
    return Outcome(state, score, first.curve)
