"""The verb `list`."""

from __future__ import annotations

import argparse

from harness.verbs.common import out

KINDS = ("tasks", "backbones", "strategies", "regularizers", "optimizers", "metrics", "search")


HELP = "list what a sweep file can name"


def options(found: argparse.ArgumentParser) -> None:
    found.add_argument("kind", choices=KINDS)
    found.add_argument("names", nargs="*", help="for backbones: hub ids or folders to look at")
    found.add_argument("--json", action="store_true")


def run(chosen: argparse.Namespace) -> int:
    from harness import catalogue

    entries = catalogue.entries(chosen.kind, chosen.names)
    if chosen.json:
        out(entries)
        return 0
    for entry in entries:
        print(f"{entry['name']}: {entry['summary']}")
        for rung in entry.get("ladder", []):
            print(f"  {rung['rung']} {rung['name']}: {rung['parameters']:,} parameters")
    return 0
