"""The verb `plan`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from harness.errors import InputError
from harness.verbs.common import complain, out, sweep_file, terminal

HELP = "show what a sweep would run, and check everything it names"


def options(found: argparse.ArgumentParser) -> None:
    sweep_file(found)
    found.add_argument("--json", action="store_true")


def run(chosen: argparse.Namespace) -> int:
    from harness import spec

    sweep = spec.load(chosen.spec, chosen.assignments)  # told before torch is imported, which takes seconds
    from harness.importing import unwatched

    with unwatched():
        from harness.outline import as_dict
        from harness.plan import make_plan
        from harness.prepare import prepare

    try:
        made = make_plan(sweep, prepare(sweep))
    except InputError as error:
        raise sweep.document.located(error) from error
    if chosen.json:
        out(as_dict(made))
        return 0
    from harness import console

    console.show_plan(terminal(), made, *speed(made, None))
    return 0


def speed(made: Any, address: str | None, local: bool = False) -> tuple[dict[str, float] | None, float]:
    """FLOP/s of one trial here by its precision (None if trials run elsewhere) and the number of trials at a
    time; tells of a precision that this machine is slow at."""
    from harness.outline import work
    from harness.training.rate import training_rate

    resources = made.sweep.resources
    if address is not None or resources.gpus > 0:
        return None, 1.0
    at_once = 1 if local else resources.at_once(os.cpu_count() or 1)
    used = sorted({load.precision for load in work(made)})
    rates = {name: training_rate(max(1, int(resources.cpus)), name) for name in {*used, "fp32"}}
    for name in used:
        if (share := rates[name] / rates["fp32"]) < 0.5:
            complain(f"training.precision: {name} has {share:.1%} of the rate of fp32 on this machine")
    return rates, at_once
