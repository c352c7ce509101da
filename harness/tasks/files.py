"""The files behind a table: which ones they are, and where the paths in them start."""

from __future__ import annotations

from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import bad

if TYPE_CHECKING:
    from datasets import Dataset

# Formats whose rows are numbered in a file; those of others name their files themselves.
_TABLES = ("csv", "json", "parquet", "text", "arrow")


def files_of(dataset: Mapping[str, Any], split: str) -> list[Path]:
    """The files that a split was read from, where `data_files` says so."""
    files = dataset.get("data_files", [])
    if isinstance(files, Mapping):
        files = files.get(split, [])
    return [
        Path(path)
        for pattern in ([files] if isinstance(files, str) else files)
        for path in (sorted(glob(pattern, recursive=True)) or [pattern])  # noqa: PTH207  absolute ones
    ]


def table_of(dataset: Mapping[str, Any], split: str) -> Path | None:
    """The table whose rows, in order, are those of a split; None where there is none or more than one."""
    files = files_of(dataset, split) if dataset.get("path") in _TABLES else []
    return files[0] if len(files) == 1 else None


def folders_of(dataset: Mapping[str, Any], split: str) -> list[Path]:
    """Where the paths in a table may start: the folders of the files that a split was read from."""
    found = [path.parent for path in files_of(dataset, split)]
    if not found:
        found = [Path(dataset[key]) for key in ("data_dir", "path") if dataset.get(key)]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def located(split: Dataset, column: str, dataset: Mapping[str, Any], name: str) -> Dataset:
    """The split with the paths in a column made absolute; one without such a column as it is.

    Args:
        dataset: what `split` was read from, as its split `name`.

    Raises: InputError for a path that is below several of the folders that it may start from.
    """
    from datasets import Value

    if split.features.get(column) not in (Value("string"), Value("large_string")):
        return split
    folders = folders_of(dataset, name)
    paths = [_absolute(value, folders) if value else value for value in split[column][:]]
    order = split.column_names
    return split.remove_columns(column).add_column(column, paths).select_columns(order)


def _absolute(path: str, folders: list[Path]) -> str:
    """A path that is nowhere is one below the first folder, to be told as a fault."""
    there = [str(folder / path) for folder in folders if (folder / path).is_file()]
    if len(there) > 1:
        raise bad("dataset", f"'{path}' may be {' or '.join(there)}", "give each split's table a folder")
    return there[0] if there else str(Path(*folders[:1], path))
