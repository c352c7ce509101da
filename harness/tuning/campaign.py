"""The campaign: what a plan still owes, handed out trial by trial, until every cell has a verdict.

The records on disk say what is done; a campaign is rebuilt from them whenever a sweep is run again. It knows
nothing of Ray: both executors ask it for the next trial and tell it how each one ended.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.racing import Out
from harness.plan import SOURCE, Cell, Plan, Trial
from harness.records import index, remote
from harness.records.paths import ResultPaths, remove_file
from harness.records.record import FINAL, Brief, Record, read_record, write_record
from harness.search.base import Asker, Listed
from harness.tuning import recorded
from harness.tuning.bundles import bundle_key, size, steps
from harness.tuning.cell_files import CellFiles
from harness.tuning.cells import CellState, Summary, Tried
from harness.tuning.losses import outgrown
from harness.tuning.racing import Race


@dataclass(frozen=True)
class Event:
    """Something that a view of the running sweep may show."""

    what: Literal["known", "started", "point", "ended"]
    trial: Trial
    record: Brief | None = None


Watch = Callable[[Event], None]


class Campaign:
    """Hands out trials and takes their records.

    Args:
        replay: told of the trials that earlier runs recorded, so that a scheduler's rungs survive a restart.
        freed: told of a task and a backbone on which nothing more will run.
    """

    def __init__(
        self,
        plan: Plan,
        paths: ResultPaths,
        watch: Watch,
        replay: Callable[[Trial, Summary], None] = lambda trial, summary: None,
        freed: Callable[[str, str], None] = lambda task, backbone: None,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self.running: dict[str, Trial] = {}
        self._watch = watch
        self._replay = replay
        self._freed = freed
        self._left = Counter((cell.task, cell.backbone) for cell in plan.cells)
        self._closed: set[str] = set()  # cells that are settled
        self._signs = {name: 1.0 if task.higher_is_better else -1.0 for name, task in plan.tasks.items()}
        self._waiting: dict[str, list[tuple[CellState, Tried, int]]] = {}
        self._known: dict[str, Summary] = {}
        recorded.set_aside_cells(paths)
        self._files = CellFiles(paths, self._settle)
        self._index = index.IndexWriter(paths)
        self._recorded = recorded.briefs(paths, self._index)
        recorded.remove_checkpoints(paths, self._recorded)
        self._listed = all(cell.configurations is not None for cell in plan.cells)
        self._remembers = self._listed or recorded.search_remembers(plan, paths)
        self._asked = False  # a search, since its storage was sent to the URI
        self._settled = 0  # so many of the first cells are
        racing = plan.sweep.racing
        self._race = Race(plan, racing.level, self._refill, self._drop_out) if racing else None
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
            # On a URI its storage may be older than the cell's file.
            whole = self._remembers and remote.mirror(self.paths.root) is None
            known = [] if whole else recorded.asked_for(self.plan, self.paths, cell)
            asker = search.open(cell.space, name, task.higher_is_better, self.paths.root, known)
        else:
            asker = Listed(cell.configurations)
        state = CellState(cell, asker, confirms=len(self.plan.confirm_seeds) > 0)
        if self._race is not None:
            self._race.enter(state)
        return state

    def _open_sources(self) -> dict[str, Trial]:
        """The source trials that are still to be trained, by trial id."""
        owed = {}
        for trial in {trial.trial_id: trial for trial in self.plan.sources.values()}.values():
            record = read_record(self.paths.trial(trial.trial_id))
            settled = record is not None and record["status"] in FINAL
            if record is not None and record["status"] == "finished":
                settled = recorded.source_whole(self.paths, trial.trial_id)
            if record is not None and settled:
                self._watch(Event("known", trial, record))
                self._source_ended(trial, record)
            else:
                owed[trial.trial_id] = trial
        return owed

    # -- handing out -----------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        while self._settled < len(self.cells) and self.cells[self._settled].settled:
            self._settled += 1
        return self._settled == len(self.cells)

    def next(self) -> Trial | None:
        """The next trial to run now; None if everything left waits for a running one, or all is done."""
        found = None if self.done else self._next()
        while found is None and self._race is not None and self._race.moved():
            found = self._next()  # a cell that waited need not wait any more
        if self._asked:  # before its trial runs: were it lost with this process, another would be asked for
            self._asked = False
            remote.push_database(self.paths.studies)
        self._files.write_changed()
        return found

    def _next(self) -> Trial | None:
        for trial in self._sources.values():
            if trial.trial_id not in self.running:
                self.running[trial.trial_id] = trial
                self._watch(Event("started", trial))
                return trial
        for state in itertools.islice(self.cells, self._settled, None):
            source = self.plan.sources.get(state.cell.backbone)
            if state.blocked or (source is not None and source.trial_id in self._sources):
                continue
            while True:
                while state.queue and not (self._race and self._race.holds(state)):
                    trial = state.queue.popleft()
                    # another cell that shares the trial may have run it meanwhile
                    if trial.trial_id not in self.running and trial.trial_id not in self._known:
                        self.running[trial.trial_id] = trial
                        self._watch(Event("started", trial))
                        return trial
                if not self._refill(state):
                    break
        return None

    def next_bundle(self, slots: int = 1) -> list[Trial]:
        """The next trials to run together, mostly one; none where `next` would give none.

        Args:
            slots: so many bundles run at a time.
        """
        first = self.next()
        if first is None:
            return []
        key = bundle_key(self.plan, first)
        most = self.plan.sweep.resources.bundle
        racing = self._race is not None and first.phase == "confirm"  # seed by seed
        if key is None or most == 1 or racing or self._stoppable(first):
            return [first]
        found = [
            (state, trial)
            for state in itertools.islice(self.cells, self._settled, None)
            if (state.cell.task, state.cell.backbone) == (first.task, first.backbone)
            for trial in self._take(state, key, most * slots)
        ]
        at_work = sum(bundle_key(self.plan, trial) == key for trial in self.running.values())
        count = (
            size(len(found) + at_work, steps(self.plan, first), most, slots) - 1
        )  # `first` is at work already
        for state, trial in reversed(found[count:]):
            state.queue.appendleft(trial)
        for _, trial in found[:count]:
            self.running[trial.trial_id] = trial
            self._watch(Event("started", trial))
        self._files.write_changed()
        return [first, *(trial for _, trial in found[:count])]

    def _stoppable(self, trial: Trial) -> bool:
        return self.plan.sweep.scheduler is not None and self.may_stop(trial)

    def _take(self, state: CellState, key: Hashable, most: int) -> list[Trial]:
        """Take trials of this key out of a cell's queue, which grows for it where the search does not wait
        for results."""
        found: dict[str, Trial] = {}
        while not state.blocked and not (self._race and self._race.holds(state)):
            for trial in list(state.queue):
                known = any(trial.trial_id in seen for seen in (self.running, self._known, found))
                if known or (bundle_key(self.plan, trial) == key and not self._stoppable(trial)):
                    state.queue.remove(trial)
                    if not known and len(found) < most:
                        found[trial.trial_id] = trial
            ahead = isinstance(state.asker, Listed) and not state.exhausted
            if state.queue or len(found) >= most or not (ahead and self._refill(state)):
                break
        return list(found.values())

    def _refill(self, state: CellState) -> bool:
        """Put a cell's next trials into its queue; False if it has none to give now."""
        if not state.exhausted:
            values = state.ask()
            self._asked = self._asked or not isinstance(state.asker, Listed)
            if values is None:
                state.exhausted = True
                self._files.write(state)
                return True
            trials = self.plan.trials(state.cell, values, self.plan.tune_seeds, "tune")
            tried = Tried(values, {trial.seed: trial.trial_id for trial in trials})
            state.tried.append(tried)
            state.unfinished += 1
            self._owe(state, tried, trials)
            return True
        if state.phase != "confirming" or state.confirm is not None:
            return False
        assert state.best is not None  # or the phase were another
        trials = self.plan.trials(state.cell, state.best.values, self.plan.confirm_seeds, "confirm")
        state.confirm = Tried(state.best.values, {trial.seed: trial.trial_id for trial in trials})
        self._files.write(state)
        self._owe(state, state.confirm, trials)
        return True

    def _owe(self, state: CellState, tried: Tried, trials: list[Trial]) -> None:
        """Queue what is not recorded; take what is."""
        for trial in trials:
            self._waiting.setdefault(trial.trial_id, []).append((state, tried, trial.seed))
        self._files.changed(state)
        for trial in trials:
            if trial.seed not in tried.trials:
                continue  # an earlier seed was stopped, see `_drop_rest`
            if trial.trial_id not in self._known:
                text = self._recorded.get(trial.trial_id)
                record: Brief | None = None if text is None else json.loads(text)
                if record is None or not self._counts(record):
                    state.queue.append(trial)
                    continue
                del self._recorded[trial.trial_id]
                self._replay(trial, self._note(trial, record))
                self._watch(Event("known", trial, record))
            self._deliver(trial.trial_id)

    def _counts(self, record: Brief) -> bool:
        """Whether a record of an earlier run settles its trial: a failed one is tried again, and so is one
        that a scheduler stopped when the sweep no longer has a scheduler, or several cells share it now."""
        shared = record["trial_id"] in self.plan.merged
        if record["status"] == "stopped" and (shared or self.plan.sweep.scheduler is None):
            return False
        if outgrown(record, self.plan.sweep.resources):
            return False
        return record["status"] in FINAL and recorded.predictions_whole(self.paths, record)

    # -- taking back -----------------------------------------------------------------------------

    def point(self, trial: Trial, record: Record) -> None:
        """A running trial has been evaluated."""
        self._watch(Event("point", trial, record))
        self._files.write_changed()

    def may_stop(self, trial: Trial) -> bool:
        """Whether a scheduler may end a trial early.

        Not one that several cells asked for: what one cell can spare another may need. And of a
        configuration's tune seeds only the first competes; were each to compete on its own, hardly any
        configuration would keep all its seeds, and none could win.
        """
        shared = trial.trial_id in self.plan.merged or len(self._waiting.get(trial.trial_id, [])) > 1
        return not shared and trial.phase == "tune" and trial.seed == self.plan.tune_seeds[0]

    def stops(
        self, trial: Trial, draft: Record, judge: Callable[[Trial, tuple[tuple[float, float], ...]], bool]
    ) -> bool:
        """Whether a scheduler, asked where it may be, ends a trial that has just been evaluated."""
        return self.may_stop(trial) and judge(trial, self.curve(trial, draft))

    def finish(self, trial: Trial, record: Record) -> None:
        """A trial has ended; its record is on disk."""
        self.running.pop(trial.trial_id, None)
        self._recorded.pop(trial.trial_id, None)  # of an earlier run, which did not count
        self._index.add(trial.trial_id)
        if trial.phase == SOURCE:
            del self._sources[trial.trial_id]
            self._watch(Event("ended", trial, record))
            self._source_ended(trial, record)
            return
        self._note(trial, record)
        self._watch(Event("ended", trial, record))
        self._deliver(trial.trial_id)

    def _source_ended(self, trial: Trial, record: Record) -> None:
        if record["status"] == "finished":
            return
        for state in self.cells:
            source = self.plan.sources.get(state.cell.backbone)
            if source is not None and source.trial_id == trial.trial_id:
                state.blocked = True
                self._files.write(state)

    def stop(self, trial: Trial, draft: Record) -> None:
        """The scheduler has stopped a trial: its record so far becomes its record."""
        write_record(self.paths, draft)
        remove_file(self.paths.checkpoint(trial.trial_id))
        self.finish(trial, draft)

    def score(self, trial: Trial, validation: dict[str, float] | None) -> float | None:
        """The primary metric, oriented so that higher is better."""
        if validation is None:
            return None
        value = validation.get(self.plan.tasks[trial.task].primary_metric)
        # a record on disk has null where the metric was undefined, one in memory has NaN
        return None if value is None or not math.isfinite(value) else self._signs[trial.task] * value

    def _note(self, trial: Trial, record: Brief) -> Summary:
        """Sum a record up, and keep what is needed of that."""
        finished = record["status"] == "finished"
        final = self.score(trial, record["metrics"]["validation"]) if finished else None
        summary = Summary(record["status"], final, self.curve(trial, record))
        # Curves are told to searches that decide as they go; a large grid has no use for them.
        self._known[trial.trial_id] = replace(summary, curve=()) if self._listed else summary
        return summary

    def curve(self, trial: Trial, record: Brief) -> tuple[tuple[float, float], ...]:
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
                state.tell(tried)
            if state.phase == "done":
                self._files.write(state)

    def _drop_rest(self, state: CellState, tried: Tried) -> None:
        """A configuration that was stopped cannot win: its seeds that have not started are not run."""
        for seed, trial_id in list(tried.trials.items()):
            started = any(trial_id in seen for seen in (self.running, self._known, self._recorded))
            if seed in tried.ended or started:
                continue
            state.queue = deque(trial for trial in state.queue if trial.trial_id != trial_id)
            del tried.trials[seed]
            waiting = self._waiting[trial_id]
            waiting[:] = [entry for entry in waiting if entry[1] is not tried]
        self._files.changed(state)

    def _drop_out(self, state: CellState, why: Out) -> None:
        """A cell is out of the race: what it has not started is not run."""
        assert state.confirm is not None
        self._drop_rest(state, state.confirm)
        state.out = why
        self._files.write(state)

    # -- what the report reads -------------------------------------------------------------------

    def close(self) -> None:
        """Write what is still unwritten; an interrupted campaign is closed like one that is done."""
        self._files.write_changed(now=True)
        remote.push_database(self.paths.studies)
        self._index.flush()
        if self.done:
            recorded.remove_checkpoints(self.paths)

    def _settle(self, state: CellState) -> None:
        """Tell who waits for it when the last cell of a task and a backbone is settled."""
        if state.settled and state.cell.id not in self._closed:
            self._closed.add(state.cell.id)
            pair = (state.cell.task, state.cell.backbone)
            self._left[pair] -= 1
            if self._left[pair] == 0:
                self._freed(*pair)
