"""What a command is given to report on: sweeps' results folders and tables, and what is wanted of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis import choose
from harness.analysis.merge import merge
from harness.analysis.sheet import SUFFIXES
from harness.analysis.study import Study, load_study
from harness.analysis.table import Reading, read_table
from harness.errors import Mistakes, bad
from harness.records import remote
from harness.records.paths import ResultPaths, opened
from harness.records.pull import pull
from harness.report.blocks import printable, slug


@dataclass(frozen=True)
class View:
    """What is wanted of results; nothing: all, as it was planned. See `analysis.choose`."""

    tasks: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    baseline: str | None = None
    metric: str | None = None
    direction: str | None = None
    delta: float | None = None

    def words(self, of_table: bool) -> str:
        """What makes it another report than that of the same results without a view, for a file's name."""
        said: dict[str, object] = {"task": ",".join(self.tasks), "strategy": ",".join(self.strategies)}
        if not of_table:  # which has no baseline, headline and δ of its own
            said |= {"baseline": self.baseline, "metric": self.metric, "delta": self.delta}
        return " ".join(f"{key}={value}" for key, value in said.items() if value not in ("", None))


@dataclass(frozen=True)
class Given:
    """One results folder or table, read; `paths` is the folder's, None for a table."""

    study: Study
    place: Path
    paths: ResultPaths | None = None


def is_table(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).is_dir()


def read(
    names: Sequence[str], find: Callable[[str], ResultPaths], view: View, known: Mapping[str, str]
) -> dict[str, Given]:
    """What was given, by what to call it, with the view's metric and δ.

    Args:
        find: the results folder that a name means.
        known: the directions of metrics.

    Raises: InputError with all that is wrong in any of them.
    """
    mistakes = Mistakes()
    if view.delta is not None and not (math.isfinite(view.delta) and view.delta >= 0):
        mistakes.add("--delta", f"takes a number from 0 on, not {view.delta:g}")
    if view.direction and not view.metric and not any(map(is_table, names)):
        mistakes.add("--direction", "belongs to a table, or to a metric chosen by --metric; here is neither")
    found: dict[str, Given] = {}
    for name in names:
        with mistakes.collecting():
            one = _read(name, find, view, known)
            if any(one.place == other.place for other in found.values()):
                raise bad(name, "is given twice")
            found[_label(_called(one), found)] = one
    mistakes.raise_any()
    return found


def _read(name: str, find: Callable[[str], ResultPaths], view: View, known: Mapping[str, str]) -> Given:
    if is_table(name):
        path = Path(name)
        study, paths = read_table(path, Reading(view.metric, view.direction, known, view.tasks)), None
    else:
        paths = find(name)
        path, study = paths.root, load_study(paths)
        if view.metric is not None:
            study = choose.with_metric(study, view.metric, known, view.direction, view.tasks)
    if view.delta is not None:
        study = choose.with_delta(study, view.delta)
    return Given(study, path.resolve(), paths)


def _called(one: Given) -> str:
    if one.paths is None:
        return one.place.stem
    return (
        one.place.name if remote.mirror(one.paths.root) is None else Path(remote.shown(one.paths.root)).name
    )


def _label(name: str, taken: Mapping[str, Given]) -> str:
    label, number = name, 2
    while label in taken:
        label, number = f"{name}-{number}", number + 1
    return label


def viewed(given: Mapping[str, Given], view: View, name: str | None = None) -> Study:
    """One study of all that was given, as it is wanted.

    Raises: InputError for tasks and strategies that are not there, naming the nearest.
    """
    study = merge({label: one.study for label, one in given.items()})
    mistakes = Mistakes()
    if view.baseline is not None:
        with mistakes.collecting():
            study = choose.with_baseline(study, view.baseline)
    with mistakes.collecting():
        study = choose.only(study, view.tasks, view.strategies)
    mistakes.raise_any()
    return study if name is None else dataclasses.replace(study, plan={**study.plan, "name": name})


def _empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def destination(given: Mapping[str, Given], view: View, results: Path | str, name: str | None) -> ResultPaths:
    """Where the report goes: a sweep's own into its folder, any other into one of its own below `results`.

    Raises: InputError if a sweep, or a table that was given, lives there.
    """
    (first, *others) = given.values()
    words = view.words(of_table=not others and first.paths is None)
    if name is None and not others and not words and first.paths is not None:
        return first.paths
    own = "+".join(given)
    own = own if len(own) <= 100 else slug(own)
    folder = name if name is not None else f"{own}-{slug(words)}" if words else own
    if folder in ("", ".", "..") or Path(folder).name != folder or printable(folder) != folder:
        raise bad("--name", f"'{printable(folder)}' cannot be the name of a folder", "name another one")
    paths = opened(results, folder, view=True)
    pull(paths, records=False)
    if paths.plan.exists():
        raise bad(str(paths.root), "holds the results of a sweep", "--name gives the report another folder")
    if any(one.paths is None and one.place.parent == paths.root.resolve() for one in given.values()):
        raise bad(str(paths.root), "is where the table lies", "--name gives the report another folder")
    if paths.root.exists() and not (paths.verdicts.exists() or (paths.root.is_dir() and _empty(paths.root))):
        raise bad(str(paths.root), "holds something else than a report", "--name gives it another folder")
    return paths
