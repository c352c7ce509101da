"""The verbs `report` and `compare`: from what the command line says to studies and back."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, bad

if TYPE_CHECKING:  # start-up: --help and mistakes in other verbs need none of it
    from harness.records.paths import ResultPaths
    from harness.report.given import View

    Find = Callable[[str], ResultPaths]


def options(found: argparse.ArgumentParser, verb: str) -> None:
    """The arguments of `report` or `compare`."""
    what = "a results folder, a sweep's name below --results, or a table (.csv, .tsv, .parquet)"
    if verb == "report":
        found.add_argument("given", nargs="+", metavar="RESULTS", help=f"{what}; several are put together")
        found.add_argument("--name", help="of the folder below --results that this report gets")
        for option in ("task", "strategy"):
            found.add_argument(
                f"--{option}", action="append", default=[], metavar="NAME",
                help="show only these; a pattern such as 'full*' will do; repeatable",
            )  # fmt: skip
        found.add_argument("--baseline", metavar="NAME", help="the strategy that differences are taken to")
    else:
        found.add_argument("given", nargs=2, metavar="RESULTS", help=what)
        found.add_argument("--json", action="store_true")
    found.add_argument("--metric", metavar="NAME", help="the headline metric, instead of the primary one")
    found.add_argument(
        "--direction",
        choices=("max", "min"),
        help="of a metric that the harness does not know (default: max)",
    )
    found.add_argument(
        "--delta", type=float, help="a smaller difference counts as none, in the metric's units"
    )


def report(chosen: argparse.Namespace, find: Find) -> tuple[ResultPaths, dict[str, Any]]:
    """Write the report that is asked for; returns where, and its verdicts.

    Raises: InputError with every mistake; then nothing has been written.
    """
    from harness.boards import write_boards
    from harness.report import given
    from harness.report.build import write_report

    view = _view(chosen, tuple(chosen.task), tuple(chosen.strategy), chosen.baseline)
    found = given.read(chosen.given, find, view, _directions(chosen))
    study = given.viewed(found, view, chosen.name)
    paths = given.destination(found, view, chosen.results, chosen.name)
    verdicts = write_report(paths, study)
    if any(paths == one.paths for one in found.values()):
        write_boards(paths, verdicts)
    return paths, verdicts


def compare(chosen: argparse.Namespace, find: Find) -> dict[str, Any]:
    """What `analysis.contrast` finds of the two that are given.

    Raises: InputError with every mistake.
    """
    from harness import document
    from harness.analysis.contrast import contrast
    from harness.report import given

    found = given.read(chosen.given, find, _view(chosen), _directions(chosen))
    sweeps = {}
    for label, one in found.items():
        try:
            if one.paths is not None:
                path = one.paths.sweep
                sweeps[label] = document.read(path.read_text(encoding="utf-8"), str(path)).content
        except (OSError, UnicodeDecodeError, InputError):
            continue  # then the plans are compared
    return contrast({label: one.study for label, one in found.items()}, sweeps)


def _view(
    chosen: argparse.Namespace, tasks: tuple[str, ...] = (), strategies: tuple[str, ...] = (),
    baseline: str | None = None,
) -> View:  # fmt: skip
    from harness.report.given import View

    for option in ("metric", "baseline"):
        if getattr(chosen, option, None) == "":
            raise bad(f"--{option}", "is empty")
    return View(tasks, strategies, baseline, chosen.metric, chosen.direction, chosen.delta)


def _directions(chosen: argparse.Namespace) -> dict[str, str]:
    """The directions of the harness's metrics, where they matter: asking takes seconds of imports."""
    from harness.report import given

    if chosen.metric is None and not any(given.is_table(name) for name in chosen.given):
        return {}
    from harness.importing import unwatched

    with unwatched():
        from harness.metrics.base import Metric
        from harness.registry import plugins
    return {
        name: "max" if metric.higher_is_better else "min"
        for name, metric in plugins("metrics", Metric).items()
    }
