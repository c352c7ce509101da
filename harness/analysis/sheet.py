"""A file of tidy rows as typed columns; every row that cannot be used is named with its line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.analysis.frame import COSTS, number
from harness.errors import Mistakes, bad, nearest
from harness.records.record import STATUSES

SUFFIXES = (".csv", ".tsv", ".parquet")
REQUIRED = ("task", "strategy", "seed", "score")
WORDS = {
    "status": STATUSES,
    "phase": ("tune", "confirm"),
    "split": ("validation", "test"),
    "direction": ("max", "min"),
}
"""Columns that hold one of a few words, or nothing."""
OPTIONAL = (*WORDS, "backbone", "metric", "example", "reason", *COSTS)
AXIS = "hp."

LARGEST = 1e50
"""Of a score or a cost: fourth powers are taken on the way to a verdict."""

_SHOWN = 3  # lines and values that a mistake shows


@dataclass(frozen=True)
class Sheet:
    """A file as text.

    Attributes:
        frame: a column of text per column of the file, "" where there is nothing; its index says in which
            line of the file (of a Parquet file: in which row) an entry stands.
        place: what mistakes call the file.
        unit: "line" or "row".
    """

    frame: pd.DataFrame
    place: str
    unit: str

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.frame.columns]

    @property
    def axes(self) -> list[str]:
        """The columns of hyper-parameters."""
        return [name for name in self.names if name.startswith(AXIS) and name != AXIS]

    @property
    def unused(self) -> list[str]:
        known = {*REQUIRED, *OPTIONAL, *self.axes}
        return [name for name in self.names if name not in known]

    def at(self, lines: Iterable[Any]) -> str:
        """`scores.csv: lines 3, 5 and 9`."""
        found = list(dict.fromkeys(lines))
        return f"{self.place}: {self.unit}{'s' if len(found) > 1 else ''} {listed(list(map(str, found)))}"


def listed(values: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, c and 4 more`."""
    shown, rest = list(values[:_SHOWN]), len(values) - _SHOWN
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def load_sheet(path: Path) -> Sheet:
    """Raises: InputError if the file is no table, with every row of another length than the header."""
    if path.suffix.lower() not in SUFFIXES:
        raise bad(str(path), f"is no table: its name ends on none of {', '.join(SUFFIXES)}")
    try:
        frame, unit = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    except FileNotFoundError:
        raise bad(str(path), "there is no such file") from None
    except UnicodeDecodeError as error:
        raise bad(str(path), f"is not UTF-8 text: {error}") from error
    except (OSError, csv.Error, pa.ArrowException, ValueError) as error:
        raise bad(str(path), f"cannot be read as a table: {error}") from error
    sheet = Sheet(frame, str(path), unit)
    names, mistakes = sheet.names, Mistakes()
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        mistakes.add(sheet.place, f"has {names.count(name)} columns called '{name}'")
    if "" in names:
        mistakes.add(sheet.place, "has a column without a name")
    if not len(frame):
        mistakes.add(sheet.place, "holds no rows")
    mistakes.raise_any()
    return sheet


def _text(path: Path) -> tuple[pd.DataFrame, str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header = [name.strip() for name in next(reader, [])]
        rows: list[list[str]] = []
        lines: list[int] = []
        ragged: list[int] = []
        start = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                rows.append(row)
                lines.append(start)
            elif row:  # an empty line is none
                ragged.append(start)
            start = reader.line_num + 1
    if ragged:
        place = Sheet(pd.DataFrame(), str(path), "line").at(ragged)
        raise bad(place, f"not as many fields as the header has ({len(header)})", _separator(header))
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    return _columns(header, [[text.strip() for text in column] for column in columns], lines), "line"


def _separator(header: Sequence[str]) -> str:
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        return "fields are separated by commas, in a .tsv file by tabs"
    return ""


def _parquet(path: Path) -> tuple[pd.DataFrame, str]:
    table = pq.read_table(path)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            known = name in (*REQUIRED, *OPTIONAL) or name.startswith(AXIS)
            if known:
                raise ValueError(f"column '{name}' holds {column.type}, not text or numbers")
            columns.append([""] * len(table))
            continue
        texts = column.cast(pa.string()).to_pylist()
        columns.append(["" if text is None else text.strip() for text in texts])
    return _columns(table.column_names, columns, list(range(1, len(table) + 1))), "row"


def _columns(names: Sequence[str], columns: Sequence[list[str]], lines: list[int]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(enumerate(columns)), index=lines, dtype=object)
    frame.columns = pd.Index(names, dtype=object)
    return frame


def typed(sheet: Sheet, mistakes: Mistakes) -> pd.DataFrame:
    """The usable rows, under the sheet's index.

    Columns: of text `task`, `strategy`, `backbone`, `metric`, `example`, `reason`, `status`, and "" where it
    is not said `phase`, `split`, `direction`; `seed`, whole; `score` and the costs, NaN where there is none;
    `config`, the hyper-parameters as JSON.
    """
    text, lines = sheet.frame, sheet.frame.index
    for name in REQUIRED:
        if name not in text:
            mistakes.add(sheet.place, f"has no column '{name}'", _near(name, sheet))
    good = pd.Series(True, index=lines)
    found: dict[str, Any] = {}

    def blame(wrong: pd.Series[bool], reason: str, hint: str = "", values: str = "") -> None:
        if wrong.any():
            shown = f": {listed([repr(v[:40]) for v in text[values][wrong].unique()])}" if values else ""
            mistakes.add(sheet.at(lines[wrong.to_numpy()]), reason + shown, hint)
            good[wrong.to_numpy()] = False

    for name in ("task", "strategy", "backbone", "metric", "example", "reason"):
        found[name] = text[name] if name in text else pd.Series("", index=lines, dtype=object)
        if name in ("task", "strategy", "metric") and name in text:
            blame(found[name] == "", f"no {name}")
    for name, words in WORDS.items():
        found[name] = text[name] if name in text else pd.Series("", index=lines, dtype=object)
        unknown = ~found[name].isin(["", *words])
        first = found[name][unknown].iloc[0] if unknown.any() else ""
        blame(unknown, f"no such {name}", nearest(first, words), name)
    found["status"] = found["status"].where(found["status"] != "", "finished")
    finished = found["status"] == "finished"

    seeds = _mapped(text["seed"], _whole) if "seed" in text else pd.Series(0, index=lines, dtype=object)
    blame(seeds.isna(), "the seed is no whole number", values="seed" if "seed" in text else "")
    found["seed"] = seeds.where(seeds.notna(), 0).astype("int64")

    numbers = ["score", *(name for name in COSTS if name in text)]
    for name in numbers:
        if name not in text:
            found[name] = pd.Series(0.0, index=lines)
            continue
        values = _mapped(text[name], _number).astype("float64")
        none = text[name].str.lower().isin(["", "nan", "none", "null", "na", "n/a", "-", "—"])
        blame(values.isna() & ~none, f"{name} is no number within ±{LARGEST:g}", values=name)
        if name == "score":
            hint = "a run without a score says why in a column 'status': diverged, failed, …"
            blame(none & finished, "no score", hint)
        else:
            blame(values < 0, f"{name} is negative", values=name)
        found[name] = values
    for name in COSTS:
        found.setdefault(name, pd.Series(math.nan, index=lines))
    found["config"] = _configs(text[sheet.axes])
    blame(
        (found["phase"] == "tune") & (found["split"] == "test"),
        "a tune run with a test score: what selects settings must not have seen test",
    )
    return pd.DataFrame(found, index=lines)[good]


def _near(name: str, sheet: Sheet) -> str:
    others = [column for column in sheet.names if column not in (*REQUIRED, *OPTIONAL)]
    if len(sheet.names) == 1:
        return _separator(sheet.names) or nearest(name, others)
    return nearest(name, others) if others else ""


def _mapped(column: pd.Series[Any], parse: Callable[[str], Any]) -> pd.Series[Any]:
    """Each text parsed once, however often it occurs; None where it is no such value."""
    return column.map({text: parse(text) for text in column.unique()}).astype(object)


def _number(text: str) -> float | None:
    try:
        value = None if "_" in text else number(float(text))  # Python would read 1_0 as ten
    except ValueError:
        return None
    return value if value is not None and abs(value) <= LARGEST else None


def _whole(text: str) -> int | None:
    """A whole number that 64 bits hold; `3.0` is one, too."""
    try:
        value = 2**63 if "_" in text else int(text)
    except ValueError:
        real = _number(text)
        value = int(real) if real is not None and real == int(real) and abs(real) < 2**53 else 2**63
    return value if -(2**63) <= value < 2**63 else None


def _configs(axes: pd.DataFrame) -> pd.Series[Any]:
    names = [str(name).removeprefix(AXIS) for name in axes]
    if not names:
        return pd.Series("{}", index=axes.index, dtype=object)
    settings = list(zip(*(axes[name] for name in axes), strict=True))
    known = {
        values: json.dumps(
            {name: _value(text) for name, text in zip(names, values, strict=True) if text != ""},
            sort_keys=True,
        )
        for values in dict.fromkeys(settings)
    }
    return pd.Series([known[values] for values in settings], index=axes.index, dtype=object)


def _value(text: str) -> int | float | str:
    """A hyper-parameter: a number where it reads as one."""
    whole = _whole(text) if text.lstrip("+-").isdigit() else None
    real = _number(text)
    return whole if whole is not None else real if real is not None else text
