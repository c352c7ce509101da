"""The verb `stop`."""

from __future__ import annotations

import argparse

from harness.verbs.jobs import described, found_job, job_name

HELP = "end a submitted sweep as Ctrl-C would; submitting it again carries on"


def options(found: argparse.ArgumentParser) -> None:
    job_name(found)


def run(chosen: argparse.Namespace) -> int:
    from harness.tuning import jobs

    client, job = found_job(chosen, chosen.job)
    job = jobs.stop(client, job)
    print("\n".join(described(job)))
    return 1 if job.live else 0
