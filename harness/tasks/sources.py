"""Reads the data set that a task names: hub, local files of many formats, saved folders."""

from __future__ import annotations

from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Mistakes, bad, nearest
from harness.tasks import conll
from harness.tasks.splits import SPLITS

if TYPE_CHECKING:
    from datasets import Dataset

# What the builders of `datasets` call local formats, and one that is read here; anything else is a hub id or
# a folder.
LOCAL_FORMATS = ("csv", "json", "parquet", "text", "arrow", "imagefolder", "audiofolder", conll.FORMAT)
# Formats whose reader runs what a file says; releases of `datasets` before 5 still had one.
_UNPICKLED = ("pandas", "pickle", "joblib")
_SECRET = ("token", "secret", "password", "key")
_ALIASES = {"tsv": ("csv", {"sep": "\t"}), "jsonl": ("json", {})}
# Names that data sets commonly give to the three roles.
_USUAL = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test",),
}


def locate(dataset: dict[str, Any], bases: list[Path], place: str) -> dict[str, Any]:
    """`dataset` with local paths made absolute; each is looked for below `bases` in turn.

    Raises: InputError naming every file that does not exist.
    """
    mistakes = Mistakes()

    def absolute(value: Any, where: str) -> Any:
        if isinstance(value, Mapping):
            return {key: absolute(child, f"{where}.{key}") for key, child in value.items()}
        if isinstance(value, list):
            return [absolute(child, f"{where}.{index}") for index, child in enumerate(value)]
        if "://" in str(value):
            return value
        for base in bases:
            path = base / str(value)
            if _exists(path):
                return str(path.resolve())
            if "*" in str(path) and glob(str(path), recursive=True):  # noqa: PTH207  `Path.glob` wants relative ones
                return str(path)
        mistakes.add(where, f"there is no file or folder '{value}'", f"looked below {_shown(bases)}")
        return value

    found = dict(dataset)
    path = found.get("path")
    if isinstance(path, str) and path in _ALIASES:
        found["path"], extra = _ALIASES[path]
        found = {**extra, **found}
    elif (
        isinstance(path, str)
        and path not in LOCAL_FORMATS
        and any(_exists(base / path) and (base / path).is_dir() for base in bases)
    ):
        found["path"] = absolute(path, f"{place}.path")
    if found.get("path") in LOCAL_FORMATS:
        for key in ("data_files", "data_dir"):
            if key in found:
                found[key] = absolute(found[key], f"{place}.{key}")
        if "data_files" not in found and "data_dir" not in found:
            mistakes.add(place, f"the format {found['path']} needs data_files or data_dir")
    if path == conll.FORMAT:
        conll.check(found, place, mistakes)
    else:
        _check_open(found, place, mistakes)
    if not isinstance(path, str):
        mistakes.add(
            f"{place}.path", "is missing", f"a hub id, a folder, or one of {', '.join(LOCAL_FORMATS)}"
        )
    mistakes.raise_any()
    return found


def _check_open(node: Mapping[str, Any], place: str, mistakes: Mistakes) -> None:
    """What a sweep file cannot ask for: that a data set's own code runs; and what it must not hold, since it
    is copied beside its results: secrets."""
    if node.get("path") in _UNPICKLED:
        reason = f"'{node['path']}' files are programs, which run when they are read"
        mistakes.add(f"{place}.path", reason, "save the table as parquet")
    for key, value in node.items():
        if key == "storage_options" and isinstance(value, Mapping):
            _check_open(value, f"{place}.{key}", mistakes)
        elif key == "trust_remote_code" and value is not False:
            mistakes.add(f"{place}.{key}", "code that comes with data is never run")
        elif isinstance(value, str) and any(word in str(key).lower() for word in _SECRET):
            hint = "HF_TOKEN, AWS_… or the like in the environment, which no file here copies"
            mistakes.add(f"{place}.{key}", "looks like a secret, and a sweep file is none", hint)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no file system takes so long a name
        return False


def _shown(bases: list[Path]) -> str:
    return ", ".join(dict.fromkeys(str(base) for base in bases))


def load(dataset: dict[str, Any]) -> Mapping[str, Dataset]:
    """The data set's own splits.

    Raises: InputError if it cannot be read.
    """
    import datasets

    path = str(dataset["path"])
    if path == conll.FORMAT:
        return conll.load(dataset)
    try:
        if Path(path).is_dir() and path not in LOCAL_FORMATS:
            saved = (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists()
            loaded = datasets.load_from_disk(path) if saved else datasets.load_dataset(**dataset)
        else:
            loaded = _sounds(dataset) if path == "audiofolder" else datasets.load_dataset(**dataset)
    except Exception as error:  # the builders raise whatever their readers raise
        reason = str(error.__cause__ or error).strip().splitlines()
        raise bad(
            "dataset", f"'{path}' cannot be read: {reason[0] if reason else type(error).__name__}"
        ) from error
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _sounds(dataset: dict[str, Any]) -> Mapping[str, Dataset]:
    """An `audiofolder`, as the library reads it but for its own decoder, which it asks for even where sounds
    are paths and remain so."""
    import datasets

    class Paths(datasets.Audio):
        def encode_example(self, value: Any) -> dict[str, Any]:
            return {"bytes": None, "path": str(value)}

    builder = datasets.load_dataset_builder(**dataset)
    builder.BASE_FEATURE = Paths
    builder.download_and_prepare()
    loaded: Mapping[str, Dataset] = builder.as_dataset()
    return loaded


def assign(own: Mapping[str, Dataset], roles: Mapping[str, str | None], place: str) -> dict[str, Dataset]:
    """The data set's splits by role; a role without a split is left out, to be carved.

    Raises: InputError for a role that names a split which is not there, a split that would serve two roles,
        or no train split.
    """
    mistakes = Mistakes()
    chosen: dict[str, str] = {}  # role by split
    for role in SPLITS:
        usual = next((name for name in _USUAL[role] if name in own), None)
        name = roles.get(role, usual)
        if name is None:
            continue
        if name not in own:
            mistakes.add(f"{place}.splits.{role}", f"the data has no split '{name}'", nearest(name, own))
        elif name in chosen:  # what is reported would be trained or selected on
            reason = f"the split '{name}' already serves as {chosen[name]}"
            mistakes.add(f"{place}.splits.{role}", reason, "name another one, or null to carve it from train")
        else:
            chosen[name] = role
    if "train" not in chosen.values() and not mistakes:
        mistakes.add(f"{place}.splits.train", "the data has no train split", f"its splits: {', '.join(own)}")
    mistakes.raise_any()
    return {role: own[name] for name, role in chosen.items()}
