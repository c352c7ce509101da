"""The command line: `harness plan|run|status|report|compare|tensorboard|dashboard|replay|list`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from harness import __version__, reports
from harness.errors import HarnessError, InputError, Mistakes, bad, nearest

KINDS = ("tasks", "backbones", "strategies", "regularizers", "optimizers", "metrics", "search")
INTERRUPTED = 130
SOME_FAILED = 3
FAILED = 1


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
        ("tensorboard", tensorboard, "open TensorBoard on a sweep's curves"),
        ("dashboard", dashboard, "open optuna-dashboard on a sweep's studies"),
    ):
        found = verb(name, action, help_)
        found.add_argument(
            "sweep", metavar="RESULTS", help="a results folder, or a sweep's name below --results"
        )
        results(found)
        if name == "status":
            found.add_argument("--json", action="store_true", help="with --watch an object per line and look")
            found.add_argument(
                "--watch", nargs="?", type=_interval, const=2.0, metavar="SECONDS",
                help="look again every so many seconds (default: 2) until the sweep is done",
            )  # fmt: skip
        if name in ("tensorboard", "dashboard"):
            port = 6006 if name == "tensorboard" else 8080
            found.add_argument("--port", type=int, default=port, help=f"on this machine (default: {port})")

    for name, action, help_ in (
        ("report", report, "write the report of sweeps, finished or not, or of tables of scores"),
        ("compare", compare, "what each strategy gained or lost from one sweep (or table) to another"),
    ):
        found = verb(name, action, help_)
        reports.options(found, name)
        results(found)

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

    0 done; 1 a file or folder cannot be read or written; 2 bad input, nothing was written; 3 done, some
    trials failed or a margin was missed; 4 another run holds the results; 130 interrupted, resumable.
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
    except OSError as error:
        if error.filename is None:
            raise
        _complain(f"{error.filename}: {error.strerror}")
        return FAILED


def entry() -> None:
    sys.exit(main())


def _interval(text: str) -> float:
    """Seconds between two looks."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"takes seconds, from 0.1 on, after RESULTS; not {text!r}")
    return seconds


def _complain(words: str) -> None:
    from harness.report.blocks import printable

    print("\n".join(printable(line) for line in f"harness: {words}".split("\n")), file=sys.stderr)


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
            from harness.boards import write_boards
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
    write_boards(paths, verdicts)
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
        inner = sorted(path.parent for path in root.glob("*/plan.json")) if root.is_dir() else []
        if len(inner) == 1:
            return ResultPaths(inner[0])
        if inner:
            several = ", ".join(path.name for path in inner[:12]) + (", …" if len(inner) > 12 else "")
            raise bad(chosen.sweep, f"holds the results of {len(inner)} sweeps", f"name one of {several}")
    there = [path.parent.name for path in chosen.results.glob("*/plan.json")]
    raise bad(chosen.sweep, "holds no results of a sweep", nearest(chosen.sweep, there))


def status(chosen: argparse.Namespace) -> int:
    from harness import watch
    from harness.status import Watcher

    watcher = Watcher(_results(chosen))
    if chosen.watch is not None:
        try:
            watch.watch(watcher, _console(), chosen.watch, chosen.json)
        except KeyboardInterrupt:  # how one stops watching: nothing to be told of
            return INTERRUPTED
        return 0
    found = watcher.look()
    if chosen.json:
        _out(found.as_dict())
    else:
        print("\n".join(watch.lines(found)))
    return 0


def report(chosen: argparse.Namespace) -> int:
    from harness import console

    paths, verdicts = reports.report(chosen, lambda name: _results(_named(chosen, name)))
    console.show_verdicts(_console(), verdicts, paths)
    return 0


def compare(chosen: argparse.Namespace) -> int:
    found = reports.compare(chosen, lambda name: _results(_named(chosen, name)))
    if chosen.json:
        _out(found)
    else:
        from harness import console

        console.show_contrast(_console(), found)
    return 0


def _named(chosen: argparse.Namespace, sweep: str) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(chosen), "sweep": sweep})


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
    paths = _results(chosen)
    _check_port(chosen.port)
    from harness.boards import write_boards

    with suppress(OSError):  # results that one may only read show what the last report wrote
        write_boards(paths)
    # TensorBoard shows no run by itself where there are more than 40: these pages choose those that sum up.
    page = f"http://127.0.0.1:{chosen.port}/"
    print(f"strategies: {page}#custom_scalars&regexInput=report%2F")
    print(f"verdict:    {page}#text&regexInput=report%24", flush=True)
    _serve(
        "-m", "tensorboard.main", "--logdir", str(paths.tensorboard), "--port", str(chosen.port),
        "--host", "127.0.0.1",
    )  # fmt: skip


def dashboard(chosen: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, distribution

    paths = _results(chosen)
    studies = paths.root / "optuna.db"
    mistakes = Mistakes()
    if not studies.exists():
        reason = "holds no studies of Optuna"
        mistakes.add(str(paths.root), reason, "only a sweep with `search: {algorithm: optuna}` makes them")
    try:
        [script] = distribution("optuna-dashboard").entry_points.select(name="optuna-dashboard")
    except PackageNotFoundError:
        mistakes.add("optuna-dashboard", "is not installed", "pip install optuna-dashboard")
    mistakes.raise_any()
    _check_port(chosen.port)
    start = f"from {script.module} import {script.attr} as main; main()"  # it has no `python -m`
    _serve("-c", start, f"sqlite:///{studies}", "--port", str(chosen.port), "--host", "127.0.0.1")


def _check_port(port: int) -> None:
    """Raises: InputError if nobody can listen there."""
    import socket

    if not 0 <= port < 65536:
        raise bad("--port", f"takes a number from 0 to 65535, not {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = f"nothing can listen on port {port}: {os.strerror(error.errno or 0)}"
            raise bad("--port", reason, f"try --port {port + 1 if port < 65535 else 0}") from error


def _serve(*arguments: str) -> NoReturn:
    # Replaces this process, so that Ctrl-C and the exit code are the server's own.
    os.execv(sys.executable, [sys.executable, *arguments])


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
