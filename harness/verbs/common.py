"""What several verbs need: the arguments that they share, the folder that is meant, and how they print."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from harness.errors import bad, nearest

INTERRUPTED = 130
SOME_FAILED = 3


def sweep_file(found: argparse.ArgumentParser) -> None:
    found.add_argument("spec", type=Path, metavar="SPEC", help="a sweep file")
    found.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="assignments",
        help="change a setting, e.g. training.epochs=1; repeatable",
    )  # fmt: skip


def below(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR",
        help="the folder below which each sweep has a folder of its own (default: results)",
    )  # fmt: skip


def results_folder(found: argparse.ArgumentParser) -> None:
    found.add_argument("sweep", metavar="RESULTS", help="a results folder, or a sweep's name below --results")
    below(found)


def find(chosen: argparse.Namespace, sweep: str | None = None) -> Any:
    """The results that are meant by `sweep`, by default the verb's own argument.

    Raises: InputError if there are none, or several.
    """
    name = chosen.sweep if sweep is None else sweep
    from harness.records.paths import ResultPaths

    for root in (Path(name), chosen.results / name):
        if (root / "plan.json").exists():
            return ResultPaths(root)
        inner = sorted(path.parent for path in root.glob("*/plan.json")) if root.is_dir() else []
        if len(inner) == 1:
            return ResultPaths(inner[0])
        if inner:
            several = ", ".join(path.name for path in inner[:12]) + (", …" if len(inner) > 12 else "")
            raise bad(name, f"holds the results of {len(inner)} sweeps", f"name one of {several}")
    there = [path.parent.name for path in chosen.results.glob("*/plan.json")]
    raise bad(name, "holds no results of a sweep", nearest(name, there))


def complain(words: str) -> None:
    from harness.redaction import redact
    from harness.report.blocks import printable

    print("\n".join(printable(line) for line in redact(f"harness: {words}").split("\n")), file=sys.stderr)


def out(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def terminal() -> Any:
    from rich.console import Console

    # A pipe or a file gets whole lines: what is too long for 80 columns is not cut.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)
