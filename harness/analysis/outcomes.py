"""What the headline runs of each strategy came to, seed by seed and where it is known example by example.

A run that diverged is scored as the constant predictor (`imputed`): left out, it would make a strategy that
often fails look as good as one that never does. A finished run keeps its own score, however bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.analysis.cells import CellSummary, Row
from harness.analysis.crossed import Estimate, by_seed, by_seed_and_example, pseudo_values
from harness.analysis.stats import MIN_SEEDS
from harness.analysis.study import Arena, Study
from harness.metrics.forms import FORMS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """The headline of one strategy on one task.

    Attributes:
        scores: by seed, the imputed ones among them.
        values: by seed, as far as known, what each example adds, (n,), with the score as mean.
        imputed: the seeds whose run diverged and counts as the constant predictor.
        poor: how many finished runs are no better than the constant predictor.
        failed: how many runs are poor, diverged, or did not fit into memory.
        runs: how many ended, for whatever reason that lies in the strategy.
    """

    scores: Mapping[int, float]
    values: Mapping[int, Array] = field(default_factory=dict)
    imputed: frozenset[int] = frozenset()
    poor: int = 0
    failed: int = 0
    runs: int = 0

    @property
    def mean(self) -> float | None:
        return float(np.mean(list(self.scores.values()))) if self.scores else None

    @property
    def estimate(self) -> Estimate | None:
        """The mean score with its uncertainty; None below `MIN_SEEDS` seeds."""
        if len(self.scores) < MIN_SEEDS:
            return None
        if self.values.keys() == self.scores.keys():
            return by_seed_and_example(np.stack(list(self.values.values())))
        return by_seed(np.array(list(self.scores.values())))

    def measured(self) -> Outcome:
        """The same without what was imputed."""
        return Outcome(
            {seed: score for seed, score in self.scores.items() if seed not in self.imputed},
            {seed: values for seed, values in self.values.items() if seed not in self.imputed},
            poor=self.poor,
            failed=self.failed,
            runs=self.runs,
        )


def outcomes(study: Study, arena: Arena, summaries: Mapping[str, CellSummary]) -> dict[str, Outcome]:
    """By strategy, in the plan's order."""
    constant = arena.constant(study.split)
    return {name: _outcome(study, arena, summary.headline, constant) for name, summary in summaries.items()}


def _outcome(study: Study, arena: Arena, rows: Sequence[Row], constant: float | None) -> Outcome:
    scores: dict[int, float] = {}
    values: dict[int, Array] = {}
    imputed: set[int] = set()
    poor = 0
    for row in rows:
        score = row.score(study.split)
        if score is not None:
            scores[row.seed] = score
            poor += constant is not None and arena.sign * (score - constant) <= 0
            known = _values(study, row.trial_id, arena)
            if known is not None:
                # the recorded score to the last digit: two ways of computing it may differ by rounding
                values[row.seed] = known + (score - known.mean())
        elif row.status == "diverged" and constant is not None:
            scores[row.seed] = constant
            imputed.add(row.seed)
    size = Counter(len(found) for found in values.values()).most_common(1)
    if size:
        values = {seed: found for seed, found in values.items() if len(found) == size[0][0]}
        values |= {seed: np.full(size[0][0], scores[seed]) for seed in imputed}
    statuses = Counter(row.status for row in rows)
    failed = poor + statuses["diverged"] + statuses["infeasible"]
    return Outcome(
        dict(sorted(scores.items())),
        dict(sorted(values.items())),
        frozenset(imputed),
        poor,
        failed,
        statuses["finished"] + statuses["diverged"] + statuses["infeasible"],
    )


def _values(study: Study, trial_id: str, arena: Arena) -> Array | None:
    form = (arena.task.get("forms") or {}).get(arena.primary)
    if form not in FORMS or study.split != "test":
        return None
    parts = study.examples(trial_id, arena.primary)
    if parts is None or len(parts) < 2 or not np.isfinite(parts).all():
        return None
    return pseudo_values(FORMS[form], parts)


def compared(a: Outcome, b: Outcome) -> tuple[list[int], Estimate | None]:
    """The seeds on which two strategies are compared, and the difference a − b on them; None below
    `MIN_SEEDS`. Where the examples of some runs are known, and of some not, it is on the seeds with examples:
    looking at seeds alone is the bolder way, and records that were lost must not lead to it."""
    shared = sorted(a.scores.keys() & b.scores.keys())
    known = sorted(a.values.keys() & b.values.keys())
    sizes = {len(values) for one in (a, b) for values in one.values.values()}
    if len(sizes) == 1 and len(known) >= MIN_SEEDS:
        return known, by_seed_and_example(np.stack([a.values[seed] - b.values[seed] for seed in known]))
    if len(shared) < MIN_SEEDS:
        return shared, None
    return shared, by_seed(np.array([a.scores[seed] - b.scores[seed] for seed in shared]))
