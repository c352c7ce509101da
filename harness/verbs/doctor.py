"""The verb `doctor`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

from harness.redaction import redact
from harness.verbs.common import below, out

HELP = "say whether this machine, or every node of a cluster, can run sweeps, and what to do about it"


def options(found: argparse.ArgumentParser) -> None:
    below(found)
    found.add_argument("--address", help="a running Ray cluster (`auto` for the one of this machine)")
    found.add_argument("--json", action="store_true")


def run(chosen: argparse.Namespace) -> int:
    from harness.doctoring import cluster, devices, machine
    from harness.doctoring.check import Check
    from harness.report.blocks import printable

    found: list[Check] = []
    steps: list[Callable[[], list[Check]]] = [
        lambda: machine.look(chosen.results),
        devices.look,
        lambda: cluster.look(chosen.address, chosen.results),
    ]
    for step in steps:
        checks = [check._replace(said=redact(check.said), advice=redact(check.advice)) for check in step()]
        found += checks
        for check in [] if chosen.json else checks:
            print(printable(f"{check.state:8}{check.name}: {check.said}"))
            if check.advice:
                print(printable(f"        → {check.advice}"), flush=True)
    counted = Counter(check.state for check in found)
    if chosen.json:
        out(
            {
                "checks": [check._asdict() for check in found],
                **{s: counted[s] for s in ("ok", "warning", "wrong")},
            }
        )
    else:
        print(f"{counted['ok']} ok, {counted['warning']} warnings, {counted['wrong']} wrong")
    return 1 if counted["wrong"] else 0
