"""The cells' files, which the report reads: which trials belong to a cell, and what won."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.records import remote
from harness.records.paths import ResultPaths
from harness.records.seal import write_sealed
from harness.tuning.cells import CellState, described

# A cell's file lists all its trials: written for each of them it would cost more with every trial. It is
# written at once where the cell's phase changes, and else after so many seconds, or so many times as long as
# the last writing took.
_SAVE_SECONDS = 5.0
_SAVE_SHARE = 20


class CellFiles:
    """Writes them, and with them what lies on a URI of the searches' storage.

    Args:
        told: of each cell that is written.
    """

    def __init__(self, paths: ResultPaths, told: Callable[[CellState], None]) -> None:
        self._paths, self._told = paths, told
        self._unsaved: dict[str, CellState] = {}
        self._save_at = 0.0

    def changed(self, state: CellState) -> None:
        """To be written some time."""
        self._unsaved[state.cell.id] = state

    def write(self, state: CellState) -> None:
        self._unsaved.pop(state.cell.id, None)
        self._told(state)
        write_sealed(self._paths.cell(state.cell.id), described(state))

    def write_changed(self, now: bool = False) -> None:
        """Write what has changed, but not too often, unless `now`."""
        started = time.monotonic()
        if not self._unsaved or (started < self._save_at and not now):
            return
        for state in list(self._unsaved.values()):
            self.write(state)
        remote.push_database(self._paths.studies)
        ended = time.monotonic()
        self._save_at = ended + max(_SAVE_SECONDS, _SAVE_SHARE * (ended - started))
