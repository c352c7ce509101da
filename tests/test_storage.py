"""Results on a URI: on an S3 server on this machine, and in memory where no other process looks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.cli import main
from harness.errors import InputError, ResultsLockedError, StorageError
from harness.records import index, lease, patience, remote
from harness.records.lock import hold
from harness.records.paths import opened, replace_file, write_json, write_text
from harness.records.pull import pull
from harness.records.reader import at_work_since
from harness.records.record import read_record
from harness.records.stores import Store, store

moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

# A run as a user starts it, but for a lease that is renewed more often than is worth paying for.
RUN = """
import sys
from harness.records import lease
lease.RENEW_SECONDS = 0.3
from harness.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Server:
    """S3 on a port of its own, which can be stopped and started with what it holds."""

    def __init__(self) -> None:
        self._server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def again(self) -> None:
        self._server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port)
        self._server.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    import logging

    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = Server()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{started.port}",
        "AWS_ACCESS_KEY_ID": "harness",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in settings.items():
            patched.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield started
        started.stop()


def until(true: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def fresh() -> Iterator[Callable[[str], Store]]:
    """`fresh(uri)`, of a client that has not connected yet: one keeps the server that it has found."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield Store
    s3fs.S3FileSystem.clear_instance_cache()


def outcomes(there: Store) -> dict[str, Any]:
    found = {}
    for key in there.listed("trials"):
        record = json.loads(there.read(key) or b"")
        names = ("status", "metrics", "curve", "drift", "seed", "hyperparameters")
        found[record["trial_id"]] = {name: record[name] for name in names}
    return found


# -- whole sweeps ------------------------------------------------------------------------------------------


@pytest.fixture
def slow_sweep(sweep: Any) -> Path:
    """Five trials of some tenths of a second."""
    regularizer = {"name": "fault", "seconds": 0.02}
    path: Path = sweep(
        baseline=None,
        strategies={"a": {"regularizer": regularizer}},
        seeds={"tune": 1, "confirm": 3},
        resources={"cpus": 1, "checkpoint_seconds": 0},
    )
    return path


@pytest.mark.long
@pytest.mark.slow
def test_a_run_that_was_killed_is_carried_on_by_another_machine_through_an_outage(
    slow_sweep: Path, server: Server, machine: Any, tmp_path: Path, capfd: Any
) -> None:
    place, there = "s3://bucket/killed", store("s3://bucket/killed/small")
    machine("a")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "run", str(slow_sweep), "--local", "--results", place],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(there.names("trials")) >= 2 or process.poll() is not None)
    process.kill()
    process.wait()
    before = outcomes(there)
    stamps = there.listed("trials")
    assert 2 <= len(before) < 5

    outage: list[int] = []

    def interrupt() -> None:
        until(lambda: len(there.names("trials")) > len(before))
        server.stop()
        time.sleep(1.5)
        server.again()
        outage.append(len(there.names("trials")))

    cache = machine("b")
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(["run", str(slow_sweep), "--local", "--results", place]) == 0
    thread.join()
    assert outage and outage[0] < 5  # while it ran
    said = capfd.readouterr()
    assert "Traceback" not in said.err and "not-to-be-seen" not in said.out + said.err
    after = there.listed("trials")
    assert {key: after[key] for key in stamps} == stamps  # what had ended was not run again

    machine("c")
    assert main(["run", str(slow_sweep), "--local", "--results", str(tmp_path / "undisturbed")]) == 0
    folder = tmp_path / "undisturbed" / "small"
    alone = {path.stem: read_record(path) for path in folder.glob("trials/*.json")}
    found = outcomes(there)
    assert found.keys() == alone.keys()
    for trial, record in alone.items():
        assert record is not None and found[trial] == {name: record[name] for name in found[trial]}
    assert not there.names("checkpoints")
    kinds = {
        "sweep.yaml",
        "plan.json",
        "cells",
        "records",
        "predictions",
        "tb",
        "report.html",
        "verdicts.json",
    }
    assert kinds | {"figures", "trials.parquet"} <= set(there.names())
    runs = {key.rpartition("/")[0] for key in there.listed("tb") if any(trial in key for trial in found)}
    assert len(runs) == len(found)
    secret = b"not-to-be-seen"
    assert not any(secret in path.read_bytes() for path in cache.rglob("*") if path.is_file())

    # Whoever looks on fetches what the report needs, and nothing into the folder of a run.
    machine("d")
    capfd.readouterr()
    assert main(["status", f"{place}/small", "--json"]) == 0
    looked = json.loads(capfd.readouterr().out)
    assert looked["trials"]["finished"] == 5
    assert main(["report", "small", "--results", place, "--strategy", "a"]) == 0
    assert any(name.startswith("small-strategy-a") for name in store(place).names())
    assert main(["compare", f"{place}/small", str(folder), "--json"]) == 0


@pytest.mark.slow
def test_a_storage_that_stays_away_ends_the_run_which_can_be_resumed(
    slow_sweep: Path, server: Server, machine: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    monkeypatch.setenv(patience.PATIENCE_VARIABLE, "0.5")
    there = store("s3://bucket/gone/small")

    def end() -> None:
        until(lambda: len(there.names("trials")) >= 2)
        server.stop()

    thread = threading.Thread(target=end)
    thread.start()
    try:
        assert main(["run", str(slow_sweep), "--local", "--results", "s3://bucket/gone"]) == 1
    finally:
        thread.join()
        server.again()
    said = capfd.readouterr().err
    assert "s3://bucket/gone/small" in said and "cannot be reached" in said and "Traceback" not in said
    store.cache_clear()  # what has failed once is not waited for again
    assert {record["status"] for record in outcomes(store("s3://bucket/gone/small")).values()} == {"finished"}


@pytest.mark.chaos
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("what", "code", "words"), [("gone", 1, "cannot be reached"), ("taken", 4, "taken this")]
)
def test_on_ray_a_run_ends_as_in_process(
    slow_sweep: Path, server: Server, machine: Any, monkeypatch: Any, what: str, code: int, words: str
) -> None:
    """Ray Tune makes errors of its own of what is raised inside it, and goes on after an interrupt."""
    machine("a")
    monkeypatch.setenv(patience.PATIENCE_VARIABLE, "1")
    place, there = f"s3://bucket/ray-{what}", store(f"s3://bucket/ray-{what}/small")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "run", str(slow_sweep), "--results", place],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until(lambda: len(there.names("trials")) >= 2 or process.poll() is not None, 100)
    if what == "gone":
        server.stop()
    else:
        taken = {"machine": "n", "token": "t", "pid": 7, "host": "other", "since": 0.0, "every": 60}
        there.write(".lock/9.json", json.dumps(taken).encode())
    try:
        said, _ = process.communicate(timeout=150)
    finally:
        if what == "gone":
            server.again()
    assert process.returncode == code, said
    assert words in said and "Traceback" not in said


# -- what cannot be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("s3://user:secret@bucket/x", "holds a password"),
        ("s3://bucket/x?X-Amz-Signature=secret", "plain address"),
        ("s33://bucket/x", "did you mean 's3'"),
        ("s3://no-such-bucket/x", "make the bucket first"),
    ],
)
def test_a_uri_that_cannot_be_used_is_told_before_anything_runs(
    sweep: Any, server: Server, machine: Any, capfd: Any, place: str, reason: str
) -> None:
    cache = machine("a")
    assert main(["run", str(sweep()), "--local", "--results", place]) == 2
    said = capfd.readouterr().err
    assert reason in said and "secret" not in said and "Traceback" not in said
    assert not list(cache.glob("results/*/*.json"))


def test_without_credentials_it_says_so(
    server: Server, fresh: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="credentials"):
        fresh("s3://bucket/without").check()


class Refusing(BaseHTTPRequestHandler):
    """Answers every request as a server does that has too much to do."""

    asked: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.asked.append(self.command)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        pass


def test_how_often_is_tried_and_for_how_long_is_ours_to_say(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients of S3, one above the other, would try 25 times before we do a second time."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{busy.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "harness")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
        there = fresh("s3://bucket/busy")
        for attempt in (
            lambda: there.read("x", seconds=0.0),
            lambda: there.write("x", b"content", seconds=0.0),
            lambda: there.listed("x", seconds=0.0),
        ):
            Refusing.asked.clear()
            with pytest.raises(StorageError, match="cannot be reached"):
                attempt()
            assert len(Refusing.asked) == 1, Refusing.asked
        busy.shutdown()
    began = time.monotonic()  # and nobody listens
    with pytest.raises(StorageError, match="cannot be reached"):
        there.read("x", seconds=1.0)
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_run_tries_once_whether_it_can_write_there(
    sweep: Any, memory: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    checks: list[Store] = []
    plain = Store.check
    monkeypatch.setattr(Store, "check", lambda self: (checks.append(self), plain(self))[1])
    path = sweep(strategies={"a": {"freeze": "all"}}, baseline=None, seeds={"tune": 1, "confirm": 0})
    assert main(["run", str(path), "--local", "--results", memory]) == 0
    assert len(checks) == 1


def test_a_package_that_is_not_installed_is_named() -> None:
    pytest.importorskip("fsspec")
    try:
        import gcsfs  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="pip install gcsfs"):
            Store("gs://bucket/x")


# -- who runs a sweep --------------------------------------------------------------------------------------


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)


def test_of_two_machines_one_holds_the_results(
    server: Server, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    machine("a")
    with hold(opened("s3://bucket/held", "small")):
        machine("b")
        paths = opened("s3://bucket/held", "small")
        said = rf"s3://bucket/held/small: process {os.getpid()} on "
        with pytest.raises(ResultsLockedError, match=said), hold(paths):
            pass
        view = opened("s3://bucket/held", "small", view=True)
        pull(view)
        assert at_work_since(view) is not None
    with hold(paths):  # at once: it was let go of
        pass
    pull(view)
    assert at_work_since(view) is None


def test_a_lease_that_nobody_renews_is_taken_over(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    there = store(memory)
    dead = {"machine": "m", "token": "t", "pid": 1, "host": "h", "since": 0.0, "every": 0.1}
    there.write(".lock/4.json", json.dumps(dead).encode())
    with lease.lease(there, "n"):
        assert list(there.listed(".lock")) == [".lock/5.json"]
    with lease.lease(there, "n"):
        assert list(there.listed(".lock")) == [".lock/6.json"]


def test_the_lease_of_a_killed_run_of_this_machine_is_taken_at_once(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = {"machine": "m", "token": "t", "pid": 1, "host": "h", "since": 0.0, "every": 3600.0}
    store(memory).write(".lock/0.json", json.dumps(dead).encode())
    with lease.lease(store(memory), "m"):
        pass


@pytest.mark.chaos
def test_a_run_whose_lease_is_taken_over_stops(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    there = store(memory)
    said = "process 7 on other has taken this sweep over"
    with pytest.raises(ResultsLockedError, match=said), lease.lease(there, "m"):
        taken = {"machine": "n", "token": "t", "pid": 7, "host": "other", "since": 0.0, "every": 0.1}
        assert there.create(".lock/1.json", json.dumps(taken).encode())
        with contextlib.suppress(KeyboardInterrupt):
            until(lambda: False, 20)  # ended by an interrupt
        for change in (there.write, there.create):
            with pytest.raises(StorageError, match=said):
                change("late", b"")
        with pytest.raises(StorageError, match=said):
            there.remove(".lock/1.json")
    assert sorted(there.listed("")) == [".lock/0.json", ".lock/1.json"]
    with lease.lease(there, "n"):  # a later run of this process
        there.write("mine", b"")


@pytest.mark.parametrize("place", ["memory", "s3", "file"])
def test_of_many_who_create_at_once_one_succeeds(
    place: str, server: Server, memory: str, tmp_path: Path
) -> None:
    uri = {"memory": memory, "s3": "s3://bucket/create", "file": f"file://{tmp_path}/create"}[place]
    there, won = store(uri), []
    start = threading.Barrier(4)

    def attempt(number: int) -> None:
        start.wait()
        if there.create("one", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and there.read("one") == str(won[0]).encode()


# -- copies ------------------------------------------------------------------------------------------------


@pytest.fixture
def record(slow_sweep: Path) -> dict[str, Any]:
    return {
        "format": 1, "trial_id": "t0", "phase": "tune", "task": "words", "kind": "text-classification",
        "backbone": "tiny", "strategy": "a", "hyperparameters": {}, "recipe": {}, "stages": [], "seed": 0,
        "status": "finished", "reason": "", "metrics": {"validation": {"accuracy": 0.5}, "test": None},
        "curve": [], "cost": {}, "drift": {}, "retention": None, "sharing": {}, "attempts": 1, "notes": [],
        "provenance": {},
    }  # fmt: skip


@pytest.mark.parametrize("place", ["memory", "s3", "file"])
def test_records_come_from_the_index_and_else_one_by_one(
    place: str, server: Server, memory: str, machine: Any, tmp_path: Path, record: dict[str, Any]
) -> None:
    uri = {"memory": memory, "s3": "s3://bucket/index", "file": f"file://{tmp_path}/index"}[place]
    machine("a")
    paths = opened(uri, "small")
    writer = index.IndexWriter(paths)
    for number in range(6):
        write_json(paths.trial(f"t{number}"), {**record, "trial_id": f"t{number}", "seed": number})
        if number < 4:
            writer.add(f"t{number}")
    writer.flush()
    time.sleep(1.1 if place == "s3" else 0.01)  # S3 tells times by the second
    write_json(paths.trial("t1"), {**record, "trial_id": "t1", "seed": 7})  # as long as it was
    there = store(f"{uri}/small")
    there.remove("trials/t2.json")
    write_json(paths.trial("gone"), {**record, "trial_id": "gone"})

    machine("b")
    copy = opened(uri, "small")
    assert copy.root != paths.root
    fetched: list[str] = []
    plain = there.fetch
    there.fetch = lambda wanted, root: (fetched.extend(wanted), plain(wanted, root))[1]  # type: ignore[assignment, func-returns-value]
    pull(copy)
    found = {path.stem: json.loads(path.read_text())["seed"] for path in copy.trials.glob("*.json")}
    assert found == {"t0": 0, "t1": 7, "t3": 3, "t4": 4, "t5": 5, "gone": 0}
    assert {key for key in fetched if key.startswith("trials/")} == {
        f"trials/{name}.json" for name in ("t1", "t4", "t5", "gone")
    }
    left = index.stamps(copy)
    assert {trial for trial, _ in index.covered(copy, "record", left)} == {"t0", "t3"}  # rows still count

    fetched.clear()
    there.remove("trials/gone.json")
    pull(copy)
    assert not copy.trial("gone").exists()
    assert not fetched  # what is here is known again


def test_what_this_machine_wrote_is_not_fetched_again(memory: str, machine: Any) -> None:
    machine("a")
    paths = opened(memory, "small")
    write_text(paths.plan, "{}")
    write_text(paths.cell("c"), "{}")
    there = store(f"{memory}/small")
    there.fetch = lambda wanted, root: pytest.fail(str(wanted)) if wanted else None  # type: ignore[assignment]
    pull(paths)


def test_the_latest_file_and_folder_are_those_of_whoever_wrote_last(memory: str, machine: Any) -> None:
    machine("a")
    one = opened(memory, "small")
    write_text(one.checkpoint("t"), "first")
    (one.source("s") / "sub").mkdir(parents=True)
    (one.source("s") / "sub" / "weights").write_text("first")
    remote.push_folder(one.source("s"))
    machine("b")
    other = opened(memory, "small")
    assert remote.latest(other.checkpoint("t")).read_text() == "first"
    assert remote.present(other.source("s")) and not remote.present(other.source("none"))
    assert (remote.latest_folder(other.source("s")) / "sub" / "weights").read_text() == "first"
    time.sleep(0.01)
    write_text(other.checkpoint("t"), "other")  # as long
    (other.source("s") / "sub" / "weights").write_text("other")
    (other.source("s") / "sub" / "more").write_text("more")
    remote.push_folder(other.source("s"))
    assert remote.latest(one.checkpoint("t")).read_text() == "other"
    files = (path for path in remote.latest_folder(one.source("s")).rglob("*") if path.is_file())
    found = {path.name: path.read_text() for path in files}
    assert found == {"weights": "other", "more": "more"}
    remote.remove(other.checkpoint("t"))
    assert not remote.latest(one.checkpoint("t")).exists()


def test_a_database_is_pushed_as_it_stands(memory: str, machine: Any) -> None:
    import sqlite3

    machine("a")
    paths = opened(memory, "small")
    paths.root.mkdir(parents=True)
    with sqlite3.connect(paths.studies) as database:
        database.execute("create table trials (number int)")
        database.execute("insert into trials values (1)")
        database.commit()
        database.execute("insert into trials values (2)")  # not committed: no part of it
        remote.push_database(paths.studies)
    machine("b")
    copy = opened(memory, "small")
    pull(copy, "optuna.db")
    assert sqlite3.connect(copy.studies).execute("select number from trials").fetchall() == [(1,)]


# -- patience with a folder --------------------------------------------------------------------------------


def test_a_folder_that_is_away_is_waited_for_and_a_full_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [errno.ESTALE, errno.EIO]

    def write(path: Path) -> None:
        if said:
            raise OSError(said.pop(0), "away")
        path.write_text("here")

    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.05)
    replace_file(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "here" and not said

    tries: list[int] = []

    def full(path: Path) -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        replace_file(tmp_path / "file", full)
    assert len(tries) == 1

    monkeypatch.setenv(patience.PATIENCE_VARIABLE, "0.2")
    said = [errno.ESTALE] * 1000
    with pytest.raises(StorageError, match="cannot be reached for 0 s"):
        replace_file(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "here"


def test_what_is_said_of_an_error_holds_no_secret() -> None:
    error = OSError("GET https://user:word@host/x?signature=abc 'https://host/y?sig=1' failed")
    assert patience.said(error) == "GET https://host/x 'https://host/y' failed"
