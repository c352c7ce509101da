"""What each test example adds to the score of a trial, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.records.paths import ResultPaths
from harness.records.record import PARTS, predictions_fault
from harness.records.sound import sound

Parts: TypeAlias = NDArray[np.float64]
Examples: TypeAlias = Callable[[str, str], Parts | None]
"""From a trial's id and a metric's name to the parts, (examples, k); None where they are not known."""


def unknown_examples(trial_id: str, metric: str) -> Parts | None:
    return None


def examples_of(paths: ResultPaths, spoilt: Collection[str] = ()) -> Examples:
    """Of the trials in a results folder; a file that cannot be read counts as not there, and so do those of
    the trials that are `spoilt`."""

    def read(trial_id: str, metric: str) -> Parts | None:
        column = f"{PARTS}{metric}"

        def parts(path: Path) -> Parts | None:
            content = pa.BufferReader(path.read_bytes())  # Arrow tells no error of reading from damage
            if column not in pq.read_schema(content).names:
                return None
            table = pq.read_table(content, columns=["example", column]).sort_by("example")
            found = np.array(table[column].to_pylist(), dtype=np.float64)
            return found if found.ndim == 2 else None

        try:
            return None if trial_id in spoilt else sound(paths.predictions(trial_id), parts)
        except (FileNotFoundError, ValueError):
            return None

    return read


def spoilt_predictions(
    paths: ResultPaths, records: Mapping[str, dict[str, Any]], unreadable: list[str]
) -> set[str]:
    """The trials whose predictions are not those that their records speak of; takes the checksums out of
    `records` (columns by trial id), and adds a line for each to `unreadable`."""
    spoilt = set()
    for trial_id, columns in records.items():
        said = columns.pop("predictions", None)
        if why := predictions_fault(paths, trial_id, said):
            spoilt.add(trial_id)
            unreadable.append(f"{paths.predictions(trial_id).relative_to(paths.root)}: {why}")
    return spoilt
