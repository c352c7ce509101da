"""Rows as one tidy frame, whose columns have one type each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

COSTS = ("wall_s", "device_s", "flops", "steps", "trainable_params", "peak_memory_mb")

_TEXT = ("cell", "task", "backbone", "strategy", "phase", "trial_id", "kind", "status", "reason", "config")
_NUMBERS = (
    "score_validation", "score_test", *COSTS, "drift_relative_l2", "retention_before", "retention_after",
    "frozen", "strength", "asked",
)  # fmt: skip
_FIRST = ("cell", "task", "backbone", "strategy", "phase", "seed", "trial_id", "status")


def number(value: object) -> float | None:
    """A finite number, or None: NaN, infinities, text and booleans are no scores."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as columns of one type each, in an order that depends on names alone."""
    rows = sorted(rows, key=lambda r: (r["cell"], r["phase"], r["seed"], r["trial_id"]))
    fixed = [*_FIRST, *(name for name in (*_TEXT, *_NUMBERS) if name not in _FIRST)]
    names = fixed + sorted({name for row in rows for name in row} - set(fixed))
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in _TEXT:
            columns[name] = pd.Series([value or "" for value in values], dtype="str")
        elif name == "seed":
            columns[name] = pd.Series(values, dtype="int64")
        elif name in _NUMBERS or name.startswith(("validation.", "test.", "l2.", "cka.")):
            columns[name] = pd.Series(values, dtype="float64")
        else:
            columns[name] = _column(values)
    return pd.DataFrame(columns)


def _column(values: Iterable[Any]) -> pd.Series[Any]:
    """Free values (hyper-parameters, settings) as numbers if all are, else as text.

    Mixed columns (`freeze` may be 5 or "all") have no Parquet type.
    """
    values = list(values)
    if all(value is None or number(value) is not None for value in values):
        return pd.Series([number(value) for value in values], dtype="float64")
    text = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pd.Series(text, dtype="object")
