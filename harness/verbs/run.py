"""The verb `run`."""

from __future__ import annotations

import argparse

from harness import pulse
from harness.errors import InputError, Mistake, bad
from harness.verbs.common import INTERRUPTED, SOME_FAILED, below, complain, sweep_file, terminal
from harness.verbs.plan import speed

HELP = "run what a sweep still owes, then report"


def options(found: argparse.ArgumentParser) -> None:
    sweep_file(found)
    below(found)
    found.add_argument(
        "--local", action="store_true", help="in this process, one trial at a time, without Ray"
    )
    found.add_argument(
        "--strict",
        action="store_true",
        help="refuse to go on where code or packages are not those of the run before",
    )
    found.add_argument("--address", help="a running Ray cluster (`auto` for the one of this machine)")


def run(chosen: argparse.Namespace) -> int:
    from harness import spec

    if chosen.local and chosen.address:
        raise bad("--local", "runs in this process and takes no --address")
    sweep = spec.load(chosen.spec, chosen.assignments)
    from harness.records import provenance, quarantine, remote
    from harness.records.paths import opened as results

    paths = results(chosen.results, sweep.name)
    remote.check(paths.root)
    remote.latest(paths.plan)
    changes = provenance.changes(paths)
    if chosen.strict and changes:
        raise InputError(Mistake(name, f"not as in the run before: {change}") for name, change in changes)
    for name, change in changes:
        complain(f"not as in the run before: {name} {change}")
    quarantine.fetch_notes(paths)
    noted = quarantine.remarks(paths)
    from harness.importing import unwatched
    from harness.tuning import cluster

    with cluster.opened(sweep.resources, chosen.address, chosen.local) as opened:
        with unwatched():
            from harness import console
            from harness.analysis import wording
            from harness.boards import write_boards
            from harness.plan import make_plan
            from harness.report.build import write_report
            from harness.tuning.launcher import launch, preflight

        try:
            made = make_plan(sweep, preflight(sweep, paths, here=chosen.address is None))
        except InputError as error:
            raise sweep.document.located(error) from error
        screen = terminal()
        rates, concurrent = speed(made, chosen.address, chosen.local)
        console.show_plan(screen, made, rates, concurrent)
        view = console.ProgressView(screen, made, rates, concurrent)
        try:
            with view.showing():
                campaign = launch(made, paths, opened, view)
        except (KeyboardInterrupt, pulse.Halted):
            campaign = None
        finally:
            for found in quarantine.since(noted, quarantine.remarks(paths)):
                complain(f"damaged: {quarantine.worded(found)}")
    view.close()
    if campaign is None or not campaign.done:
        complain(f"interrupted; every finished trial is kept. Carry on with:\n  {chosen.again}")
        return INTERRUPTED
    verdicts = write_report(paths)
    write_boards(paths, verdicts)
    console.show_verdicts(screen, verdicts, paths)
    missed = wording.missed_margins(verdicts)
    for text in missed:
        complain(text)
    if view.failures:
        complain(f"{view.failures} trials failed, see the report; run again by:\n  {chosen.again}")
    broken = [state for state in campaign.cells if state.problem]
    for state in broken:
        cell = state.cell
        complain(f"the search of {cell.strategy} on {cell.task} failed and was given up: {state.problem}")
    return SOME_FAILED if view.failures or missed or broken else 0
