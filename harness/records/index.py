"""An index of the records: their text in a few Parquet files, so that a large sweep is read without opening
a file per trial, and resumed without reading whole records.

`trials/<id>.json` stays the truth. A row of the index stands for its file as long as the file has the size
and the time of change that it had when it was indexed; whatever has no such row is read from its file. A
part whose checksum, which is in its name, is not that of its content is passed over, so an index may be lost,
stale or deleted at any time: the next run of the sweep indexes again what has no row.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from harness.cache import checksum
from harness.records.paths import ResultPaths, replace_file, void
from harness.records.record import brief, parse_record

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

# What Arrow raises for a file that is damaged; its own errors are among these.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, NotImplementedError)
_STAMP = ("trial_id", "size", "mtime_ns")

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds: what tells one content of a file from another."""


def stamps(paths: ResultPaths) -> dict[str, Stamp]:
    """Every file of a record that there is, by trial id."""
    try:
        with os.scandir(paths.trials) as entries:
            found = [(entry.name[:-5], entry.stat()) for entry in entries if entry.name.endswith(".json")]
    except FileNotFoundError:
        return {}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found}


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
        try:
            for trial_id, size, changed, text in _rows(part, *_STAMP, column):
                if left.get(trial_id) == (size, changed):
                    del left[trial_id]
                    yield trial_id, text
        except _DAMAGE:
            if damaged is not None:
                damaged.append(part)


def copies(paths: ResultPaths, trial_ids: Collection[str]) -> dict[str, str]:
    """The latest text that the index holds of these records, whatever their files are like now."""
    found: dict[str, str] = {}
    for part in sorted(paths.index.glob("*.parquet")):
        try:
            for trial_id, text in _rows(part, "trial_id", "record"):
                if trial_id in trial_ids:
                    found[trial_id] = text
        except _DAMAGE:
            continue
    return found


def _rows(part: Path, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Raises: what is in `_DAMAGE`."""
    _, said = _name(part)
    if said and said != checksum(part):  # Arrow would believe some flipped bits
        raise ValueError("its checksum is not that of its content")
    for batch in parquet.ParquetFile(part).iter_batches(BATCH, columns=list(columns)):
        yield from zip(*(values.to_pylist() for values in batch.columns), strict=True)


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
