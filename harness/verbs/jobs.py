"""What the verbs that speak with a cluster's job server share."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import Any

from harness.verbs.common import INTERRUPTED, complain

_MEANS = {
    0: "done",
    1: "a file or folder cannot be read or written",
    2: "bad input, nothing was run",
    3: "done; some trials failed, or a margin was missed",
    4: "another run holds the results",
    INTERRUPTED: "interrupted; submit again to carry on",
}
_STATES = {"PENDING": "waits for the cluster", "RUNNING": "at work"}


def address(found: argparse.ArgumentParser, required: bool = True) -> None:
    found.add_argument(
        "--address", required=required, metavar="URL",
        help="the cluster's dashboard, e.g. http://127.0.0.1:8265",
    )  # fmt: skip


def job_name(found: argparse.ArgumentParser) -> None:
    found.add_argument("job", metavar="NAME", help="a sweep's name, or the id of a job")
    address(found)


def found_job(chosen: argparse.Namespace, name: str) -> tuple[Any, Any]:
    """The job server, and the job that is meant.

    Raises: InputError if there is none.
    """
    from harness.tuning import jobs

    client = jobs.connect(chosen.address)
    return client, jobs.find(client, name)


def described(job: Any) -> list[str]:
    """What there is to say of a job, in lines."""
    if job.state in _STATES:
        fate = _STATES[job.state]
    elif job.exit_code is None:
        fate = "ended without a code: " + (job.message or "no reason is known")
    else:
        fate = f"ended with code {job.exit_code}: {_MEANS.get(job.exit_code, 'not a code of the harness')}"
    lines = [f"{job.id} (attempt {job.attempt}): {fate}", f"  results: {job.results}"]
    stamps = [
        f"{word} {datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}"
        for word, at in (("started", job.started), ("ended", job.ended))
        if at is not None
    ]
    return [shown(line) for line in ([*lines, f"  {', '.join(stamps)}"] if stamps else lines)]


def fields(job: Any) -> dict[str, Any]:
    """The same for programs."""
    return {key: shown(value) if isinstance(value, str) else value for key, value in job.as_dict().items()}


def shown(text: str) -> str:
    """What a cluster says, fit for a terminal and without this user's secrets."""
    from harness.redaction import redact
    from harness.report.blocks import printable

    return "\n".join(map(printable, redact(text).split("\n")))


def code(job: Any) -> int:
    """The exit code for who waited for a job: the harness's own."""
    return 1 if job.exit_code is None else int(job.exit_code)


def show_followed(client: Any, job: Any) -> int:
    """Print what a job prints until it ends; Ctrl-C ends the printing and not the job."""
    from harness.tuning import jobs

    def write(text: str) -> None:
        sys.stdout.write(shown(text))
        sys.stdout.flush()

    try:
        job = jobs.follow(client, job, write)
    except KeyboardInterrupt:
        complain(f"{job.id} runs on; `harness stop` ends it")
        return INTERRUPTED
    for line in described(job):
        complain(line)
    return code(job)
