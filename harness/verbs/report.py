"""The verb `report`."""

from __future__ import annotations

import argparse

from harness import reports
from harness.verbs.common import below, find, terminal

HELP = "write the report of sweeps, finished or not, or of tables of scores"


def options(found: argparse.ArgumentParser) -> None:
    reports.options(found, "report")
    below(found)


def run(chosen: argparse.Namespace) -> int:
    from harness import console

    paths, verdicts = reports.report(chosen, lambda name: find(chosen, name))
    console.show_verdicts(terminal(), verdicts, paths)
    return 0
