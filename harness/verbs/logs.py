"""The verb `logs`."""

from __future__ import annotations

import argparse

from harness.verbs.jobs import found_job, job_name, show_followed, shown

HELP = "what a submitted sweep has printed"


def options(found: argparse.ArgumentParser) -> None:
    job_name(found)
    found.add_argument("--follow", action="store_true", help="go on until it ends, and exit as it does")


def run(chosen: argparse.Namespace) -> int:
    client, job = found_job(chosen, chosen.job)
    if chosen.follow:
        return show_followed(client, job)
    from harness.tuning import jobs

    print(shown(jobs.logs(client, job).rstrip("\n")))
    return 0
