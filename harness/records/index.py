"""An index of the records: their text in a few Parquet files, so that a large sweep is read without opening
a file per trial, and resumed without reading whole records.

`trials/<id>.json` stays the truth. A row of the index stands for its file as long as the file has the size
and the time of change that it had when it was indexed; whatever has no such row is read from its file. A
part whose checksum, which is in its name, is not that of its content is passed over, so an index may be lost,
stale or deleted at any time: the next run of the sweep indexes again what has no row.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zlib
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from harness.records.paths import ResultPaths, replace_file, void
from harness.records.patience import reading
from harness.records.record import brief, parse_record
from harness.records.sound import sound

# Records of one part; so many may have to be read from their files after a kill.
BATCH = 1000
_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("brief", pa.string()),  # JSON, see `records.record.Brief`
        ("record", pa.string()),  # the file as it is
    ]
)

_STAMP = ("trial_id", "size", "mtime_ns")

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds: what tells one content of a file from another."""


def stamps(paths: ResultPaths) -> dict[str, Stamp]:
    """Every file of a record that there is, by trial id."""
    try:
        return reading(paths.trials, lambda: dict(_stamps(paths.trials)))
    except FileNotFoundError:
        return {}


def _stamps(folder: Path) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json"):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    stat = entry.stat()
                    yield entry.name[:-5], (stat.st_size, stat.st_mtime_ns)


def covered(
    paths: ResultPaths,
    column: Literal["brief", "record"],
    left: dict[str, Stamp],
    damaged: list[Path] | None = None,
) -> Iterator[tuple[str, str]]:
    """(trial id, text) of every record in `left` that the index covers, in no order.

    What is yielded is taken from `left`: what stays there is to be read from its file.

    Args:
        damaged: gets the parts that are not what was written.
    """
    for part in sorted(paths.index.glob("*.parquet")):
        for trial_id, size, changed, text in rows(part, *_STAMP, column, damaged=damaged):
            if left.get(trial_id) == (size, changed):
                del left[trial_id]
                yield trial_id, text


def copies(paths: ResultPaths, trial_ids: Collection[str]) -> dict[str, str]:
    """The latest text that the index holds of these records, whatever their files are like now."""
    found: dict[str, str] = {}
    wanted = set(trial_ids)
    for part in sorted(paths.index.glob("*.parquet")):
        found |= {trial_id: text for trial_id, text in rows(part, "trial_id", "record") if trial_id in wanted}
    return found


def rows(part: Path, *columns: str, damaged: list[Path] | None = None) -> list[tuple[Any, ...]]:
    """The rows of a part; none if it is gone, or damaged.

    Args:
        damaged: gets the part if it is not what was written.
    """
    try:
        return sound(part, partial(_rows, columns=columns))
    except FileNotFoundError:
        return []
    except ValueError:
        if damaged is not None:
            damaged.append(part)
        return []


def _rows(part: Path, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Raises: OSError; ValueError and what Arrow raises for a damaged file."""
    content = part.read_bytes()  # Arrow tells no error of reading from damage
    _, said = _name(part)
    if said and said != f"{zlib.crc32(content):08x}":  # Arrow would believe some flipped bits
        raise ValueError("its checksum is not that of its content")
    table = parquet.read_table(pa.BufferReader(content), columns=list(columns))
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def _name(part: Path) -> tuple[str, str]:
    """The number of a part, and its checksum; those of before there were checksums have none."""
    number, _, said = part.stem.partition("-")
    return number, said


class IndexWriter:
    """Adds records to the index, a part at a time."""

    def __init__(self, paths: ResultPaths) -> None:
        self._paths = paths
        self._waiting: list[str] = []
        numbers = [_name(part)[0] for part in paths.index.glob("*.parquet")]
        self._next = max((int(number) for number in numbers if number.isdecimal()), default=-1) + 1

    def add(self, trial_id: str) -> None:
        """A record is on disk. Indexed with the next part."""
        self._waiting.append(trial_id)
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Index what waits."""
        rows = [row for trial_id in self._waiting if (row := _row(self._paths.trial(trial_id))) is not None]
        self._waiting.clear()
        if rows:
            table = pa.Table.from_pylist(rows, schema=_SCHEMA)
            content = io.BytesIO()
            parquet.write_table(table, content, compression="zstd")
            part = self._paths.index / f"{self._next:05}-{zlib.crc32(content.getbuffer()):08x}.parquet"
            replace_file(part, lambda path: void(path.write_bytes(content.getbuffer())))
            self._next += 1


def _row(path: Path) -> dict[str, Any] | None:
    """A row of the index; None where a reader would find no record either."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            text = file.read().decode()
    except (OSError, ValueError):
        return None
    record = parse_record(text, path.stem)
    if record is None:
        return None
    return {
        "trial_id": path.stem,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "brief": json.dumps(brief(record)),
        "record": text,
    }
