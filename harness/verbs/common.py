"""What several verbs need: the arguments that they share, the folder that is meant, and how they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
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
        "--results", type=_place, default=Path("results"), metavar="DIR",
        help="the folder, or the URI (s3://bucket/folder), below which each sweep has a folder of its own "
        "(default: results)",
    )  # fmt: skip


def results_folder(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "sweep", metavar="RESULTS", help="a results folder or URI, or a sweep's name below --results"
    )
    below(found)


def _place(text: str) -> Path | str:
    """A folder, or a URI as it is: a path has no `//`."""
    from harness.records.remote import place_of

    return place_of(text)


def find(
    chosen: argparse.Namespace, sweep: str | None = None, needs: Sequence[str] = ("predictions",)
) -> Any:
    """The results that are meant by `sweep`, by default the verb's own argument.

    Args:
        needs: of results on a URI, what is fetched beside plan and records.

    Raises: InputError if there are none, or several; StorageError.
    """
    name = chosen.sweep if sweep is None else sweep
    from harness.records.paths import opened
    from harness.records.pull import pull
    from harness.records.stores import is_uri

    for place, below in ((_place(name), ""), (chosen.results, name)):
        if is_uri(below):
            continue
        inner = _sweeps(place, below)
        if len(inner) == 1:
            paths = opened(place, inner[0], view=True)
            pull(paths, *needs)
            return paths
        if inner:
            several = ", ".join(Path(one).name for one in inner[:12]) + (", …" if len(inner) > 12 else "")
            raise bad(name, f"holds the results of {len(inner)} sweeps", f"name one of {several}")
    there = [] if is_uri(name) else [Path(one).name for one in _sweeps(chosen.results, "")]
    raise bad(name, "holds no results of a sweep", nearest(name, there))


def _sweeps(place: Path | str, below: str) -> list[str]:
    """The sweep at `below` a folder or URI, or those in there; as paths from it."""
    if isinstance(place, Path):
        root = place / below
        if (root / "plan.json").exists():
            return [below]
        return (
            sorted(str(Path(below, p.parent.name)) for p in root.glob("*/plan.json")) if root.is_dir() else []
        )
    from harness.records.stores import store

    there = store(place)
    if there.version(f"{below}/plan.json".lstrip("/")) is not None:
        return [below]
    inner = (f"{below}/{one}".lstrip("/") for one in there.names(below))
    return [one for one in inner if there.version(f"{one}/plan.json") is not None]


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
