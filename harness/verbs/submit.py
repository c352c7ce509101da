"""The verb `submit`."""

from __future__ import annotations

import argparse

from harness.verbs.common import complain, out, sweep_file
from harness.verbs.jobs import address, described, fields, show_followed

HELP = "hand a sweep to a running cluster, as a job"


def options(found: argparse.ArgumentParser) -> None:
    sweep_file(found)
    address(found)
    found.add_argument(
        "--results", default="/shared/results", metavar="PLACE",
        help="where the nodes put results: a folder that all see, or s3://… (default: /shared/results)",
    )  # fmt: skip
    found.add_argument(
        "--install", action="store_true",
        help="have the nodes install this environment's versions where they lack them",
    )  # fmt: skip
    found.add_argument("--follow", action="store_true", help="show what the job prints, and exit as it does")
    found.add_argument("--json", action="store_true")


def run(chosen: argparse.Namespace) -> int:
    from harness import spec
    from harness.errors import Mistakes
    from harness.tuning import jobs

    sweep = None
    mistakes = Mistakes()
    with mistakes.collecting():
        sweep = spec.load(chosen.spec, chosen.assignments)
    with mistakes.collecting():
        jobs.check_results(chosen.results)
    mistakes.raise_any()
    assert sweep is not None
    client = jobs.connect(chosen.address)
    job, parcel = jobs.submit(client, sweep, chosen.results, chosen.install)
    for path, reason in parcel.left:
        complain(f"{path} was not sent: {reason}")
    if chosen.json:
        out({**fields(job), "files": parcel.files, "bytes": parcel.size})
    else:
        print("\n".join(described(job)))
        print(f"  sent: {parcel.files} files, {parcel.size / 1e6:.1f} MB")
        for verb in ("status", "logs", "stop"):
            print(f"  harness {verb} {sweep.name} --address {chosen.address}", flush=True)
    return show_followed(client, job) if chosen.follow else 0
