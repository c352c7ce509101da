"""Racing across the cells of a task: what `analysis.racing` decides, told to a campaign.

A cell can be judged once it is tuned, not before: a strategy is as good as its best configuration, and what
the first ones score bounds in no way what the next one will. So every cell is tuned, and then the cells of a
task confirm seed by seed, side by side. Before each seed there is a look, as soon as all cells that are still
in the race have finished the seeds before; decisions thus depend on the records and not on who was first, and
a resumed run comes to the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import comb
from typing import TYPE_CHECKING, TypeAlias

from harness.analysis.racing import Contest, Out, Runner, raced_out
from harness.metrics.scorer import bounds
from harness.plan import Plan

if TYPE_CHECKING:
    from harness.tuning.cells import CellState

Arena: TypeAlias = tuple[str, str]
"""Task and backbone."""


class Race:
    """Says which cells wait for their rivals, and takes out those that are beaten.

    Args:
        level: chance of taking out a cell that belongs in the tie set.
        confirm: puts the confirm trials of a tuned cell into its queue.
        drop: takes a cell out of the race.
    """

    def __init__(
        self,
        plan: Plan,
        level: float,
        confirm: Callable[[CellState], object],
        drop: Callable[[CellState, Out], None],
    ) -> None:
        self._plan, self._level, self._confirm, self._drop = plan, level, confirm, drop
        self._seeds = list(plan.confirm_seeds)
        self._cells: dict[Arena, list[CellState]] = {}
        self._looks: dict[Arena, int] = {}
        self._moved = False

    def enter(self, state: CellState) -> None:
        """A cell takes part."""
        self._cells.setdefault((state.cell.task, state.cell.backbone), []).append(state)

    def moved(self) -> bool:
        """Whether there was a look since this was last asked."""
        moved, self._moved = self._moved, False
        return moved

    def holds(self, state: CellState) -> bool:
        """Whether the first trial in a cell's queue is not to run now: its cell is out, or the cells that it
        races against have not come so far."""
        if state.out is not None:
            return True
        if state.confirm is None or not state.queue:
            return False
        arena = (state.cell.task, state.cell.backbone)
        if len(self._racing(arena)) == 1:
            return False
        wanted = self._seeds.index(state.queue[0].seed)
        while self._looks.get(arena, 0) <= wanted and self._may_look(arena):
            self._look(arena)
        return state.out is not None or self._looks.get(arena, 0) <= wanted

    def _racing(self, arena: Arena) -> list[CellState]:
        states = [s for s in self._cells[arena] if s.out is None and not s.blocked]
        for state in states:
            if state.phase == "confirming" and state.confirm is None:
                self._confirm(state)
        return [state for state in states if state.confirm is not None or state.phase != "done"]

    def _may_look(self, arena: Arena) -> bool:
        """Whether everybody is tuned and has finished the seeds before the next look."""
        before = self._seeds[: self._looks.get(arena, 0)]
        return all(
            state.confirm is not None and all(seed in state.confirm.ended for seed in before)
            for state in self._racing(arena)
        )

    def _look(self, arena: Arena) -> None:
        number = self._looks.get(arena, 0)
        self._looks[arena] = number + 1
        self._moved = True
        racing = {state.cell.strategy: state for state in self._racing(arena)}
        runners = {name: _runner(state, self._seeds[:number]) for name, state in racing.items()}
        baseline = self._plan.sweep.baseline
        spared = [] if baseline is None else [baseline]  # every difference is taken against it
        for name, why in raced_out(runners, contest(self._plan, arena), self._level, spared).items():
            self._drop(racing[name], why)


def _runner(state: CellState, seeds: list[int]) -> Runner:
    assert state.best is not None and state.confirm is not None
    phases = {"tune": state.best.ended, "confirm": {s: state.confirm.ended[s] for s in seeds}}
    scores = {
        (phase, seed): summary.score
        for phase, ended in phases.items()
        for seed, summary in ended.items()
        if summary.score is not None
    }
    return Runner(scores, sum(tried.score() is not None for tried in state.tried))


def contest(plan: Plan, arena: Arena) -> Contest:
    """What the cells of an arena race for."""
    arenas = [(cell.task, cell.backbone) for cell in plan.cells]
    pairs = sum(comb(cells, 2) for cells in Counter(arenas).values())
    task, sizes = plan.tasks[arena[0]], plan.prepared.tasks[arena[0]].sizes
    reach = bounds(task.primary_metric)
    if reach is not None and not task.higher_is_better:
        reach = (-reach[1], -reach[0])
    return Contest(len(plan.confirm_seeds), pairs, task.delta, sizes["validation"], sizes["test"], reach)
