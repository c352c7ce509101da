"""Sweeps as jobs of a running cluster: Ray's job server keeps the driver alive on the head, so that nobody's
laptop has to be."""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.cache import digest
from harness.errors import HarnessError, Mistakes, bad, nearest
from harness.records import provenance
from harness.spec import Sweep
from harness.tuning import environment, parcel

# Until a driver that is told to stop is killed. Ray's own three seconds are too short to close a campaign.
_STOP_SECONDS = 120
# Looks, a second apart, for a job server that does not answer while a job is followed.
_LOOKS = 60
_LIVE = ("PENDING", "RUNNING")
_CREDENTIALS = ("key", "secret", "token", "password")
# Versions that a job cannot choose, or that come along.
_GIVEN = ("python", "ray", "finetune-harness")
INTERRUPTED = 130


class JobRunningError(HarnessError):
    """The sweep is already at work as a job."""

    exit_code = 4


class JobServerError(HarnessError):
    """The job server cannot be reached any more, or fails. What it runs goes on."""


@dataclass(frozen=True)
class Job:
    """One attempt to run a sweep as a job.

    Attributes:
        state: what Ray says: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_code: the harness's own; None while it runs, and where Ray knows none.
        message: what Ray says of a failure.
        started, ended: in seconds since the epoch.
    """

    id: str
    sweep: str
    results: str
    attempt: int
    state: str
    exit_code: int | None
    message: str
    started: float | None
    ended: float | None

    @property
    def live(self) -> bool:
        return self.state in _LIVE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def connect(address: str) -> Any:
    """A client of the job server at `http://HOST:PORT`.

    Raises: InputError if nobody answers there, or refuses.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise bad("--address", f"takes the cluster's dashboard, http://127.0.0.1:8265, not '{address}'")
    environment.settle(address)
    own = (os.environ.get("RAY_AUTH_TOKEN_PATH"), Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or any(path and Path(path).is_file() for path in own):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before ray is imported
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # which else would overrule what was asked for
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        hint = "put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
        raise bad("--address", f"{address} does not take this user's token", hint) from error
    except ConnectionError as error:
        hint = "forward the port first: ray dashboard cluster.yaml"
        raise bad("--address", f"no job server answers at {address}", hint) from error
    except (RuntimeError, OSError) as error:  # `OSError`: what `requests` raises
        raise bad("--address", f"{address} is no Ray cluster's dashboard: {error}") from error


@contextmanager
def _asking() -> Iterator[None]:
    """Around every question to a job server.

    Raises: JobServerError for whatever Ray's client raises of an answer that is none.
    """
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except (RuntimeError, OSError, aiohttp.ClientError, AuthenticationError) as error:
        said = str(error).strip()[:500] or type(error).__name__
        raise JobServerError(f"the job server does not answer as it should: {said}") from error


def check_results(results: str) -> None:
    """Raises: InputError unless this is a place that means the same on every node, without a secret in it."""
    mistakes = Mistakes()
    parts = urlsplit(results)
    if not parts.scheme and not results.startswith("/"):
        mistakes.add(
            "--results", f"'{results}' is no place that every node sees", "an absolute path, or s3://…"
        )
    if "@" in parts.netloc or any(word in parts.query.lower() for word in _CREDENTIALS):
        mistakes.add(
            "--results", "holds credentials, which a job would show", "the nodes need access of their own"
        )
    mistakes.raise_any()


def submit(client: Any, sweep: Sweep, results: str, install: bool) -> tuple[Job, parcel.Parcel]:
    """Hand a sweep over. What an earlier attempt did is kept: the results say what is still owed.

    Args:
        results: where they go, as the cluster's nodes see it.
        install: whether nodes that lack the submitter's versions install them first.

    Raises: JobRunningError if the sweep is at work with these results; InputError for a place of results that
        will not do.
    """
    check_results(results)
    results = _normal(results)
    stem = f"{sweep.name}-{digest([sweep.name, results], 8)}"
    earlier = [job for job in jobs(client) if job.id.rpartition("-")[0] == stem]
    for job in earlier:
        if job.live:
            raise JobRunningError(f"{job.id} is at work on {sweep.name} in {results}; `harness stop` ends it")
    attempt = 1 + max((job.attempt for job in earlier), default=0)
    runtime: dict[str, Any] = {
        "env_vars": {**parcel.variables(), "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}
    }
    if install:
        runtime["pip"] = {"packages": pinned(), "pip_check": False}
    with tempfile.TemporaryDirectory(prefix="harness-parcel-") as folder:
        shared = None if urlsplit(results).scheme else str(Path(results).parent)
        packed = parcel.pack(sweep, Path(folder), None if shared == "/" else shared)
        try:
            with _asking():
                found = client.submit_job(
                    # `exec`: what Ray stops is the driver, and not a shell around it
                    entrypoint=f"exec python -m harness.tuning.arrival {shlex.quote(results)}",
                    submission_id=f"{stem}-{attempt}",
                    metadata={"sweep": sweep.name, "results": results, "attempt": str(attempt)},
                    runtime_env={"working_dir": folder, **runtime},
                )
        except JobServerError as error:
            if "already exists" not in str(error.__cause__):
                raise
            raise JobRunningError(f"{stem}-{attempt} has just been submitted by somebody else") from error
    return _look(client, found), packed


def _normal(results: str) -> str:
    """One spelling of a place, so that a sweep is at work there once."""
    scheme, mark, rest = results.partition("://")
    return f"{scheme}{mark}{rest.rstrip('/')}" if mark else "/" + posixpath.normpath(results).lstrip("/")


def pinned() -> list[str]:
    """What `--install` asks for: the versions of this environment. A node that has them installs nothing.

    Ray is not among them: a job cannot have another one than its cluster.
    """
    found = {name: version for name, version in provenance.versions().items() if name not in _GIVEN}
    for name in ("pydantic", "pyyaml", "rich", "filelock", "psutil", "statsmodels", "matplotlib", "jinja2"):
        found.setdefault(name, metadata.version(name))
    # "2.14.1+cpu" is a build of 2.14.1 that the index of packages does not have
    return [f"{name}=={version.partition('+')[0]}" for name, version in found.items()]


def _look(client: Any, name: str) -> Job:
    with _asking():
        return job_of(client.get_job_info(name))


def job_of(details: Any) -> Job:
    given = details.metadata or {}
    state = str(getattr(details.status, "value", details.status))
    code = details.driver_exit_code
    return Job(
        id=str(details.submission_id),
        sweep=given.get("sweep", ""),
        results=given.get("results", ""),
        attempt=int(given.get("attempt", 0)),
        state=state,
        # Ray keeps no code of a job that it was told to stop
        exit_code=INTERRUPTED if state == "STOPPED" else code,
        message="" if state in _LIVE or code is not None else str(details.message or "").strip(),
        started=_seconds(details.start_time),
        ended=_seconds(details.end_time),
    )


def _seconds(stamp: int | None) -> float | None:
    return stamp / 1000 if stamp else None


def jobs(client: Any) -> list[Job]:
    """The harness's jobs on the cluster, newest first."""
    with _asking():
        listed = client.list_jobs()
    return sorted(map(job_of, filter(_ours, listed)), key=lambda job: -(job.started or 0))


def _ours(details: Any) -> bool:
    """Whether a job was made by `submit`: the cluster may run others, with whatever metadata."""
    given = details.metadata or {}
    found = re.fullmatch(r"(.+)-[0-9a-f]{8}-([0-9]{1,9})", str(details.submission_id), re.ASCII)
    return found is not None and found.groups() == (given.get("sweep"), given.get("attempt"))


def find(client: Any, name: str) -> Job:
    """The job of that id, or the latest of that sweep.

    Raises: InputError if there is none, or if the sweep is at work in several places.
    """
    known = jobs(client)
    for job in known:
        if job.id == name:
            return job
    mine = [job for job in known if job.sweep == name]
    if not mine:
        raise bad(name, "is no job on this cluster", nearest(name, [job.sweep for job in known]))
    live = [job for job in mine if job.live]
    if len(live) > 1:
        several = ", ".join(f"{job.id} ({job.results})" for job in live)
        raise bad(name, f"is at work {len(live)} times", f"name one of {several}")
    return (live or mine)[0]


def stop(client: Any, job: Job, seconds: float = _STOP_SECONDS + 10) -> Job:
    """Tell a job's driver to stop as Ctrl-C would, and wait until it has. A job that has ended stays so.

    Returns: the job as it is then; it is still live if it did not stop in time.
    """
    if job.live:
        with _asking():
            client.stop_job(job.id)
    deadline = time.monotonic() + seconds
    while job.live and time.monotonic() < deadline:
        time.sleep(0.5)
        job = _look(client, job.id)
    return job


def logs(client: Any, job: Job) -> str:
    with _asking():
        return str(client.get_job_logs(job.id))


def follow(client: Any, job: Job, write: Callable[[str], None]) -> Job:
    """Hand on what a job prints until it ends; a lost connection is made again.

    Raises: JobServerError once the server has not answered for a while.
    """
    written = failed = 0

    async def tail() -> None:
        nonlocal written
        skipped = written  # a new connection begins at the beginning
        texts = client.tail_job_logs(job.id)
        while True:
            with _asking():  # and not around `write`, whose reader may be gone
                text = await anext(texts, None)
            if text is None:
                return
            new = text[skipped:]
            skipped -= len(text) - len(new)
            if new:
                write(new)
                written += len(new)

    while True:
        with suppress(JobServerError):  # whether the server is there, the look tells
            asyncio.run(tail())
        try:
            job = _look(client, job.id)
            failed = 0
        except JobServerError:
            failed += 1
            if failed == _LOOKS:
                raise
        if not job.live:
            return job
        time.sleep(1)
