"""The command line: `harness plan|run|status|report|replay|list|tensorboard`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.errors import HarnessError, InputError, bad, nearest

KINDS = ("tasks", "backbones", "strategies", "regularizers", "optimizers", "metrics", "search")
INTERRUPTED = 130
SOME_FAILED = 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="harness", description=__import__("harness").__doc__)
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=help_, description=help_)
        found.set_defaults(run=run)
        return found

    def spec(found: argparse.ArgumentParser) -> None:
        found.add_argument("spec", type=Path, metavar="SPEC", help="a sweep file")
        found.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", dest="assignments",
            help="change a setting, e.g. training.epochs=1; repeatable",
        )  # fmt: skip

    def results(found: argparse.ArgumentParser) -> None:
        found.add_argument(
            "--results", type=Path, default=Path("results"), metavar="DIR",
            help="the folder below which each sweep has a folder of its own (default: results)",
        )  # fmt: skip

    found = verb("plan", plan, "show what a sweep would run, and check everything it names")
    spec(found)
    found.add_argument("--json", action="store_true")

    found = verb("run", run, "run what a sweep still owes, then report")
    spec(found)
    results(found)
    found.add_argument(
        "--local", action="store_true", help="in this process, one trial at a time, without Ray"
    )
    found.add_argument("--address", help="a running Ray cluster (`auto` for the one of this machine)")

    for name, action, help_ in (
        ("status", status, "how far a sweep has come"),
        ("report", report, "write the report of a sweep, finished or not"),
        ("tensorboard", tensorboard, "open TensorBoard on a sweep's curves"),
    ):
        found = verb(name, action, help_)
        found.add_argument(
            "sweep", metavar="RESULTS", help="a results folder, or a sweep's name below --results"
        )
        results(found)
        if name == "status":
            found.add_argument("--json", action="store_true")
        if name == "tensorboard":
            found.add_argument("--port", type=int, default=6006)

    found = verb("replay", replay, "what racing and a scheduler would have saved a recorded sweep")
    found.add_argument("sweep", metavar="RESULTS", help="a full grid's results folder, or its name")
    results(found)
    found.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="assignments",
        help="what the replays change, e.g. racing.level=0.01 or search.scheduler=asha; repeatable",
    )  # fmt: skip
    found.add_argument("--orders", type=int, default=10, help="number of replays (default: 10)")
    found.add_argument(
        "--train", action="store_true", help="train the confirm trials that replays ask for and nobody ran"
    )
    found.add_argument("--json", action="store_true")

    found = verb("list", list_, "list what a sweep file can name")
    found.add_argument("kind", choices=KINDS)
    found.add_argument("names", nargs="*", help="for backbones: hub ids or folders to look at")
    found.add_argument("--json", action="store_true")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0 done; 2 bad input, nothing was written; 3 done, some trials failed or a margin was missed;
    4 another run holds the results; 130 interrupted, resumable.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = parser().parse_args(given)
    chosen.again = f"harness {shlex.join(given)}"
    try:
        return int(chosen.run(chosen))
    except InputError as error:
        for mistake in error.mistakes:
            _complain(str(mistake))
        count = len(error.mistakes)
        _complain(f"{count} mistake{'s' if count > 1 else ''}; nothing was run")
        return error.exit_code
    except HarnessError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`harness plan … | head`): that is no fault of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry() -> None:
    sys.exit(main())


def _complain(words: str) -> None:
    print(f"harness: {words}", file=sys.stderr)


def _out(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _console() -> Any:
    from rich.console import Console

    # A pipe or a file gets whole lines: what is too long for 80 columns is not cut.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def plan(chosen: argparse.Namespace) -> int:
    from harness import spec

    sweep = spec.load(chosen.spec, chosen.assignments)  # told before torch is imported, which takes seconds
    from harness.importing import unwatched

    with unwatched():
        from harness.plan import as_dict, make_plan
        from harness.prepare import prepare

    try:
        made = make_plan(sweep, prepare(sweep))
    except InputError as error:
        raise sweep.document.located(error) from error
    if chosen.json:
        _out(as_dict(made))
        return 0
    from harness import console

    console.show_plan(_console(), made, *_speed(made, None))
    return 0


def _speed(made: Any, address: str | None, local: bool = False) -> tuple[float | None, float]:
    """FLOP/s of one trial here (None if trials run elsewhere) and the number of trials at a time."""
    from harness.training.rate import training_rate

    resources = made.sweep.resources
    if address is not None or resources.gpus > 0:
        return None, 1.0
    at_once = 1 if local else resources.at_once(os.cpu_count() or 1)
    return training_rate(max(1, int(resources.cpus))), at_once


def run(chosen: argparse.Namespace) -> int:
    from harness import spec

    if chosen.local and chosen.address:
        raise bad("--local", "runs in this process and takes no --address")
    sweep = spec.load(chosen.spec, chosen.assignments)
    from harness.importing import unwatched
    from harness.tuning import cluster

    with cluster.opened(sweep.resources, chosen.address, chosen.local) as opened:
        with unwatched():
            from harness import console
            from harness.analysis import wording
            from harness.plan import make_plan
            from harness.records.paths import ResultPaths
            from harness.report.build import write_report
            from harness.tuning.launcher import launch, preflight

        paths = ResultPaths(chosen.results / sweep.name)
        try:
            made = make_plan(sweep, preflight(sweep, paths, here=chosen.address is None))
        except InputError as error:
            raise sweep.document.located(error) from error
        screen = _console()
        rate, concurrent = _speed(made, chosen.address, chosen.local)
        console.show_plan(screen, made, rate, concurrent)
        view = console.ProgressView(screen, made, concurrent)
        try:
            with view.showing():
                campaign = launch(made, paths, opened, view)
        except KeyboardInterrupt:
            campaign = None
    view.close()
    if campaign is None or not campaign.done:
        _complain(f"interrupted; every finished trial is kept. Carry on with:\n  {chosen.again}")
        return INTERRUPTED
    verdicts = write_report(paths)
    console.show_verdicts(screen, verdicts, paths)
    missed = wording.missed_margins(verdicts)
    for text in missed:
        _complain(text)
    if view.failures:
        _complain(f"{view.failures} trials failed, see the report; run again by:\n  {chosen.again}")
    return SOME_FAILED if view.failures or missed else 0


def _results(chosen: argparse.Namespace) -> Any:
    from harness.records.paths import ResultPaths

    for root in (Path(chosen.sweep), chosen.results / chosen.sweep):
        if (root / "plan.json").exists():
            return ResultPaths(root)
        inner = [path.parent for path in root.glob("*/plan.json")] if root.is_dir() else []
        if len(inner) == 1:
            return ResultPaths(inner[0])
    there = [path.parent.name for path in chosen.results.glob("*/plan.json")]
    raise bad(chosen.sweep, "holds no results of a sweep", nearest(chosen.sweep, there))


def status(chosen: argparse.Namespace) -> int:
    from harness.analysis import wording
    from harness.analysis.study import SETTLED, load_study

    study = load_study(_results(chosen))
    counts = study.frame.drop_duplicates("trial_id")["status"].value_counts().to_dict()
    by_cell = {str(cell): dict(group.value_counts()) for cell, group in study.frame.groupby("cell")["status"]}
    cells: list[dict[str, Any]] = [
        {
            "task": cell.task,
            "backbone": cell.backbone,
            "strategy": cell.strategy,
            "state": cell.state,
            "winner": cell.winner,
            **({"raced_out": cell.raced_out} if cell.raced_out else {}),
            "trials": {str(name): int(n) for name, n in by_cell.get(cell.id, {}).items()},
        }
        for arena in study.arenas()
        for cell in arena.cells
    ]
    done = all(cell["state"] in SETTLED for cell in cells)
    if chosen.json:
        _out({"sweep": study.plan["name"], "done": done, "trials": counts, "cells": cells})
        return 0
    print(
        f"{study.plan['name']}: {'done' if done else 'not done'}; "
        + ", ".join(f"{n} {s}" for s, n in counts.items())
    )
    for cell in cells:
        trials = ", ".join(f"{n} {s}" for s, n in cell["trials"].items()) or "nothing yet"
        why = f" ({wording.out_of_the_race(cell['raced_out'])})" if "raced_out" in cell else ""
        print(f"  {cell['task']} | {cell['backbone']} | {cell['strategy']}: {cell['state']}{why}; {trials}")
    return 0


def report(chosen: argparse.Namespace) -> int:
    from harness import console
    from harness.report.build import write_report

    paths = _results(chosen)
    console.show_verdicts(_console(), write_report(paths), paths)
    return 0


def replay(chosen: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from harness import console
    from harness.tuning import environment

    if chosen.orders < 1:
        raise bad("--orders", f"takes a number from 1 on, not {chosen.orders}")
    environment.settle(None)
    from harness.tuning.replay import replays, training

    paths = _results(chosen)
    trained = training(paths, chosen.assignments) if chosen.train else nullcontext()
    with trained as train:
        found = replays(paths, chosen.assignments, chosen.orders, train)
    if chosen.json:
        _out(found.as_dict())
    else:
        console.show_replays(_console(), found)
    return 0


def tensorboard(chosen: argparse.Namespace) -> int:
    folder = _results(chosen).tensorboard
    # Replaces this process, so that Ctrl-C and the exit code are TensorBoard's own. Loopback only.
    arguments = ["--logdir", str(folder), "--port", str(chosen.port), "--host", "127.0.0.1"]
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", *arguments])


def list_(chosen: argparse.Namespace) -> int:
    from harness import catalogue

    entries = catalogue.entries(chosen.kind, chosen.names)
    if chosen.json:
        _out(entries)
        return 0
    for entry in entries:
        print(f"{entry['name']}: {entry['summary']}")
        for rung in entry.get("ladder", []):
            print(f"  {rung['rung']} {rung['name']}: {rung['parameters']:,} parameters")
    return 0
