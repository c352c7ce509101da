"""The verb `compare`."""

from __future__ import annotations

import argparse

from harness import reports
from harness.verbs.common import below, find, out, terminal

HELP = "what each strategy gained or lost from one sweep (or table) to another"


def options(found: argparse.ArgumentParser) -> None:
    reports.options(found, "compare")
    below(found)


def run(chosen: argparse.Namespace) -> int:
    found = reports.compare(chosen, lambda name: find(chosen, name))
    if chosen.json:
        out(found)
    else:
        from harness import console

        console.show_contrast(terminal(), found)
    return 0
