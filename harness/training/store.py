"""What frozen rungs give for every example of a split, on disk: written once, memory-mapped by all who train.

A folder holds `values.bin`, the values one example after the other, each in its own shape (no padding);
`index.npy`, where they start and what shape they have; and `leaves.json`, what they are, with checksums.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.training.cut import Given, Kind, Leaf

_VALUES, _INDEX, _LEAVES = "values.bin", "index.npy", "leaves.json"
_ALIGNED = 16  # bytes; where a tensor may start, whatever its type


class Damaged(Exception):
    """A stored file is not what was written."""


class Writer:
    """Takes examples in any order, in groups of equal shape.

    Args:
        kinds: every leaf; those in `needed` are stored with values, the others with their shape.
    """

    def __init__(self, folder: Path, examples: int, kinds: dict[Leaf, Kind], needed: Sequence[Leaf]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._kinds, self._needed = folder, kinds, list(needed)
        self._shapes, width = _columns(kinds)
        self._index = np.full((examples, len(needed) + width), -1, dtype=np.int64)
        self._file = (folder / _VALUES).open("wb")
        self._checksum = 0

    def add(self, indices: Sequence[int], leaves: dict[Leaf, torch.Tensor]) -> None:
        """Args: every leaf of the examples at `indices`, shape (examples, …)."""
        for leaf, columns in self._shapes.items():
            shift = len(self._needed)
            self._index[indices, columns.start + shift : columns.stop + shift] = tuple(leaves[leaf].shape[1:])
        for column, leaf in enumerate(self._needed):
            values = leaves[leaf].detach().to("cpu").contiguous()
            for index, value in zip(indices, values, strict=True):
                self._index[index, column] = self._file.tell()
                content = value.reshape(-1).view(torch.uint8).numpy().tobytes()
                self._write(content + bytes(-len(content) % _ALIGNED))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._checksum = zlib.crc32(content, self._checksum)

    def close(self) -> None:
        self._write(bytes(_ALIGNED))  # an empty file cannot be mapped
        self._file.close()
        np.save(self._folder / _INDEX, self._index)
        leaves = [
            {"leaf": list(leaf), "dtype": str(kind.dtype).removeprefix("torch."), "rank": kind.rank}
            for leaf, kind in self._kinds.items()
        ]
        content = {
            "leaves": leaves,
            "needed": [list(leaf) for leaf in self._needed],
            "checksums": {
                _VALUES: self._checksum,
                _INDEX: zlib.crc32((self._folder / _INDEX).read_bytes()),
            },
        }
        (self._folder / _LEAVES).write_text(json.dumps(content))


@dataclass(frozen=True)
class Store:
    """What was written, open for reading.

    Attributes:
        data: all bytes, mapped, or in the accelerator's memory.
        starts: byte offsets, shape (examples, needed leaves).
        shapes: of every leaf, shape (examples, rank).
    """

    kinds: dict[Leaf, Kind]
    needed: list[Leaf]
    data: torch.Tensor
    starts: np.ndarray[Any, Any]
    shapes: dict[Leaf, np.ndarray[Any, Any]]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def read(self) -> list[np.ndarray[Any, Any]]:
        """The shapes of what is stored with values, each of shape (examples, rank)."""
        return [self.shapes[leaf] for leaf in self.needed]

    @property
    def bytes(self) -> float:
        """Per example, on average."""
        return self.data.numel() / max(1, len(self))

    def fits(self, indices: Sequence[int], alike: dict[Leaf, tuple[int, ...]] | None) -> bool:
        """Whether the leaves of these examples have the shapes `alike`, if they have to have some."""
        if alike is None:
            return True
        rows = np.asarray(indices)
        return all(bool((found[rows] == alike[leaf]).all()) for leaf, found in self.shapes.items())

    def given(self, indices: Sequence[int]) -> Given:
        """What the frozen rungs gave for these examples, padded to the largest."""
        rows = np.asarray(indices)
        shapes = {leaf: tuple(found[rows].max(axis=0).tolist()) for leaf, found in self.shapes.items()}
        values = {
            leaf: self._padded(rows, self.starts[rows, column], leaf, shapes[leaf])
            for column, leaf in enumerate(self.needed)
        }
        return Given(len(rows), shapes, values)

    def _padded(
        self, rows: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], leaf: Leaf, shape: tuple[int, ...]
    ) -> torch.Tensor:
        dtype = self.kinds[leaf].dtype
        own = self.shapes[leaf][rows]
        same = bool((own == shape).all())
        make = torch.empty if same else torch.zeros
        padded = make((len(rows), *shape), dtype=dtype, device=self.data.device)
        for row, start, sizes in zip(padded, starts.tolist(), own.tolist(), strict=True):
            size = int(np.prod(sizes)) * dtype.itemsize
            value = self.data[start : start + size].view(dtype).view(sizes)
            (row if same else row[tuple(slice(size) for size in sizes)]).copy_(value)
        return padded

    def to(self, device: torch.device) -> Store:
        """The same in an accelerator's memory, if a quarter of what is free there holds it."""
        if device.type != "cuda" or self.data.numel() > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return Store(self.kinds, self.needed, self.data.to(device), self.starts, self.shapes)


def open_store(folder: Path) -> Store:
    """Raises: Damaged if the files are not what was written; OSError if they cannot be read."""
    try:
        content = json.loads((folder / _LEAVES).read_text(encoding="utf-8"))
        for name, checksum in content["checksums"].items():
            content_of: Any = np.memmap(folder / name, dtype=np.uint8, mode="r")
            if zlib.crc32(content_of) != checksum:
                raise Damaged(f"{folder / name} is not what was written")
        index = np.load(folder / _INDEX)
        kinds = {
            Leaf(*entry["leaf"]): Kind(getattr(torch, entry["dtype"]), entry["rank"])
            for entry in content["leaves"]
        }
        needed = [Leaf(*leaf) for leaf in content["needed"]]
        # Copy on write: torch wants memory that it could write to, and nothing is ever written.
        data = torch.from_numpy(np.memmap(folder / _VALUES, dtype=np.uint8, mode="c"))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder} cannot be read: {error}") from error
    columns, _ = _columns(kinds)
    shift = len(needed)
    shapes = {leaf: index[:, span.start + shift : span.stop + shift] for leaf, span in columns.items()}
    return Store(kinds, needed, data, index[:, :shift], shapes)


def _columns(kinds: dict[Leaf, Kind]) -> tuple[dict[Leaf, slice], int]:
    """Where the shape of each leaf stands in a row of shapes, and the length of a row."""
    spans: dict[Leaf, slice] = {}
    width = 0
    for leaf, kind in kinds.items():
        spans[leaf] = slice(width, width + kind.rank)
        width += kind.rank
    return spans, width


def groups(shapes: Iterable[tuple[Any, ...]], size: int) -> list[list[int]]:
    """Indices of equal shapes together, at most `size` of them."""
    by_shape: dict[tuple[Any, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(index)
    return [found[at : at + size] for found in by_shape.values() for at in range(0, len(found), size)]
