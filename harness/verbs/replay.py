"""The verb `replay`."""

from __future__ import annotations

import argparse

from harness.errors import bad
from harness.verbs.common import below, find, out, terminal

HELP = "what racing and a scheduler would have saved a recorded sweep"


def options(found: argparse.ArgumentParser) -> None:
    found.add_argument("sweep", metavar="RESULTS", help="a full grid's results folder, or its name")
    below(found)
    found.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", dest="assignments",
        help="what the replays change, e.g. racing.level=0.01 or search.scheduler=asha; repeatable",
    )  # fmt: skip
    found.add_argument("--orders", type=int, default=10, help="number of replays (default: 10)")
    found.add_argument(
        "--train", action="store_true", help="train the confirm trials that replays ask for and nobody ran"
    )
    found.add_argument("--json", action="store_true")


def run(chosen: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from harness import console
    from harness.tuning import environment

    if chosen.orders < 1:
        raise bad("--orders", f"takes a number from 1 on, not {chosen.orders}")
    environment.settle(None)
    from harness.tuning.replay import replays, training

    paths = find(chosen)
    trained = training(paths, chosen.assignments) if chosen.train else nullcontext()
    with trained as train:
        found = replays(paths, chosen.assignments, chosen.orders, train)
    if chosen.json:
        out(found.as_dict())
    else:
        console.show_replays(terminal(), found)
    return 0
