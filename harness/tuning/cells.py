"""A cell of a plan on its way: which configurations were tried, how they ended, and what won."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

from harness.analysis.racing import Out
from harness.plan import Cell, Trial, hyperparameters
from harness.search.base import Asker, Outcome, Values
from harness.training.run import explain


@dataclass(slots=True)
class Tried:
    """One configuration of a cell: the ids of its trials by seed, and how they ended."""

    values: Values
    trials: dict[int, str]
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


@dataclass(frozen=True, slots=True)
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
    unfinished: int = 0  # of `tried`
    out: Out | None = None  # of the race, if there is one
    problem: str = ""  # what ended its search early

    def ask(self) -> Values | None:
        """The next configuration; None where there is no other, or where the search fails."""
        try:
            return self.asker.ask()
        except Exception as error:
            self.problem = self.problem or explain(error)
            return None

    def tell(self, tried: Tried) -> None:
        """How a configuration fared. A search that fails here will not be asked again."""
        self.unfinished -= 1
        try:
            self.asker.tell(tried.values, outcome(tried))
        except Exception as error:
            self.problem = self.problem or explain(error)
            self.exhausted = True

    @property
    def phase(self) -> str:
        if self.blocked:
            return "blocked"
        if self.out is not None:
            return "raced out"
        if not self.exhausted or self.unfinished:
            return "tuning"
        if self.confirm is None:  # still to be handed out, if there is a winner to confirm
            return "confirming" if self.confirms and self.best is not None else "done"
        return "done" if self.confirm.complete else "confirming"

    @property
    def settled(self) -> bool:
        return self.phase in ("done", "blocked", "raced out")

    @cached_property
    def best(self) -> Tried | None:
        """The winner. Asked for once tuning has ended: nothing is tried after that."""
        return winner(self.tried)


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


def described(state: CellState) -> dict[str, Any]:
    """Which trials belong to the cell, and what won: what the report reads."""

    def listed(tried: Tried) -> Iterator[dict[str, Any]]:
        for seed, trial_id in tried.trials.items():
            yield {"trial_id": trial_id, "hyperparameters": hyperparameters(tried.values), "seed": seed}

    best = winner(state.tried) if state.exhausted else None
    return {
        "id": state.cell.id,
        "task": state.cell.task,
        "backbone": state.cell.backbone,
        "strategy": state.cell.strategy,
        "tune": [entry for tried in state.tried for entry in listed(tried)],
        "confirm": list(listed(state.confirm)) if state.confirm else [],
        "winner": hyperparameters(best.values) if best is not None else None,
        "state": state.phase,
        **({"problem": state.problem} if state.problem else {}),
        **({"raced_out": state.out.as_dict()} if state.out is not None else {}),
    }
