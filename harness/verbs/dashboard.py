"""The verb `dashboard`."""

from __future__ import annotations

import argparse

from harness.errors import Mistakes
from harness.verbs.common import find, results_folder
from harness.verbs.serving import check_port, port, serve

HELP = "open optuna-dashboard on a sweep's studies"


def options(found: argparse.ArgumentParser) -> None:
    results_folder(found)
    port(found, 8080)


def run(chosen: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, distribution

    from harness.records.remote import shown

    paths = find(chosen, needs=["optuna.db"])
    studies = paths.studies
    mistakes = Mistakes()
    if not studies.exists():
        reason = "holds no studies of Optuna"
        mistakes.add(shown(paths.root), reason, "only a sweep with `search: {algorithm: optuna}` makes them")
    try:
        [script] = distribution("optuna-dashboard").entry_points.select(name="optuna-dashboard")
    except PackageNotFoundError:
        mistakes.add("optuna-dashboard", "is not installed", "pip install optuna-dashboard")
    mistakes.raise_any()
    check_port(chosen.port)
    from harness.search.optuna import address

    start = f"from {script.module} import {script.attr} as main; main()"  # it has no `python -m`
    serve(start, address(studies), "--port", str(chosen.port), "--host", "127.0.0.1")
