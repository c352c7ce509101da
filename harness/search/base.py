"""What a search algorithm is."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, ClassVar, Protocol

from pydantic import Field

from harness import axes
from harness.axes import Axes
from harness.axes import Values as Values
from harness.registry import Plugin


def key(values: Values) -> str:
    """Equal for the same configuration only: unlike `==`, it tells 1 (a rung) from 1.0 (the whole ladder)."""
    return json.dumps([[list(path), value] for path, value in sorted(values.items())], sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """How a configuration fared.

    Attributes:
        state: finished, stopped (by the scheduler), or failed.
        score: primary validation metric, mean over tune seeds, oriented so that higher is better; None
            unless finished.
        curve: (epoch, score) of the first seed, for searches that use intermediate values.
    """

    state: str
    score: float | None
    curve: tuple[tuple[float, float], ...] = ()


class Asker(Protocol):
    """The search of one cell while a sweep runs."""

    def ask(self) -> Values | None:
        """The next configuration to try, or None when the budget is spent. The first is the default."""

    def tell(self, values: Values, outcome: Outcome) -> None:
        """How a configuration that was asked for fared. Telling one twice changes nothing."""


@dataclass(frozen=True)
class SearchSpace:
    """The axes of a cell, and the published default on each that it has, moved into the axis."""

    axes: Axes
    default: Values

    @property
    def size(self) -> int | None:
        """Number of configurations; None if some axis is continuous."""
        return axes.size(self.axes)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Every axis by its name: the values that configurations have on it, and what must be chosen for it
        to be there."""
        return {
            ".".join(path): {
                axis.how: list(axis.values),
                **({} if axis.when is None else {"when": {".".join(axis.when[0]): axis.when[1]}}),
            }
            for path, axis in self.axes.items()
        }


class Search(Plugin):
    """Settings shared by all search algorithms.

    Attributes:
        trials: configurations per cell, the same for every cell; the whole grid by default where there is
            one. A cell whose space is smaller uses all of it.
        seed: of the search itself.
    """

    trials: int | None = Field(default=None, ge=1)
    seed: int = 0

    def reason_against(self, space: SearchSpace) -> str:
        """Why this search cannot serve the space; empty if it can."""
        return ""

    def budget(self, space: SearchSpace) -> int:
        """Configurations that a cell with this space gets."""
        if space.size is None:
            assert self.trials is not None, "reason_against refuses this"
            return self.trials
        return space.size if self.trials is None else min(self.trials, space.size)

    def configurations(self, space: SearchSpace, cell: str) -> list[Values] | None:
        """All configurations of a cell if they are known beforehand, the default first; else None."""
        return None

    @abstractmethod
    def open(
        self,
        space: SearchSpace,
        cell: str,
        higher_is_better: bool,
        folder: FilePath,
        known: Sequence[Values] = (),
    ) -> Asker:
        """Start or resume the search of a cell; what it must remember it keeps below `folder`.

        Args:
            known: what the cell had asked for, as far as a search may not remember it: those that it does
                not it asks for first.
        """

    def remembers(self, folder: FilePath) -> bool:
        """Whether what it keeps below `folder` is there. Raises: ValueError if that is damaged."""
        return True


class Listed:
    """The asker of a search whose configurations are known beforehand."""

    def __init__(self, configurations: list[Values]) -> None:
        self._left = iter(configurations)

    def ask(self) -> Values | None:
        return next(self._left, None)

    def tell(self, values: Values, outcome: Outcome) -> None:
        pass


class Scheduler(Plugin):
    """Base of the schedulers, which stop trials of a cell early."""


class Asha(Scheduler):
    """Asynchronous successive halving within each cell: at epochs grace·reductionᵏ only the best
    1/reduction of the trials of the *same cell* that came so far go on.

    Attributes:
        grace: epochs before a trial may be stopped.
        reduction: the share that goes on is 1/reduction.
    """

    name: ClassVar[str] = "asha"
    source: ClassVar[str] = "Li et al. 2020, arXiv 1810.05934"

    grace: int = Field(default=1, ge=1)
    reduction: int = Field(default=3, ge=2)
