"""The verb `status`."""

from __future__ import annotations

import argparse

from harness.errors import bad
from harness.verbs import jobs
from harness.verbs.common import INTERRUPTED, find, out, results_folder, terminal

HELP = "how far a sweep has come, or what became of a submitted one"


def options(found: argparse.ArgumentParser) -> None:
    results_folder(found)
    jobs.address(found, required=False)
    found.add_argument("--json", action="store_true", help="with --watch an object per line and look")
    found.add_argument(
        "--watch", nargs="?", type=_interval, const=2.0, metavar="SECONDS",
        help="look again every so many seconds (default: 2) until the sweep is done",
    )  # fmt: skip


def _interval(text: str) -> float:
    """Seconds between two looks."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"takes seconds, from 0.1 on, after RESULTS; not {text!r}")
    return seconds


def run(chosen: argparse.Namespace) -> int:
    if chosen.address is not None:
        return _of_job(chosen)
    from harness import watch
    from harness.status import Watcher

    watcher = Watcher(find(chosen, needs=[]))
    if chosen.watch is not None:
        try:
            watch.watch(watcher, terminal(), chosen.watch, chosen.json)
        except KeyboardInterrupt:  # how one stops watching: nothing to be told of
            return INTERRUPTED
        return 0
    found = watcher.look()
    if chosen.json:
        out(found.as_dict())
    else:
        print("\n".join(watch.lines(found)))
    return 0


def _of_job(chosen: argparse.Namespace) -> int:
    if chosen.watch is not None:
        raise bad("--watch", "looks at a results folder", "follow a job with `harness logs NAME --follow`")
    _, job = jobs.found_job(chosen, chosen.sweep)
    if chosen.json:
        out(jobs.fields(job))
    else:
        print("\n".join(jobs.described(job)))
    return 0
