"""Sweeps as jobs: what is sent, what is said, and a job server of this machine's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import aiohttp
import psutil
import pytest
import requests
import yaml
from conftest import sentences, word_task, write_table

from harness import spec
from harness.cli import main
from harness.errors import InputError
from harness.tuning import arrival, jobs, parcel

SECRET = "s3cr3t-that-nobody-may-see"


def packed(path: Path, folder: Path, **options: Any) -> tuple[parcel.Parcel, dict[str, Any]]:
    folder.mkdir()
    found = parcel.pack(spec.load(path), folder, **options)
    return found, yaml.safe_load((folder / "sweep.yaml").read_text())


def test_a_parcel_gives_the_same_sweep_elsewhere(sweep: Any, tmp_path: Path, models: Any) -> None:
    """Data, weights, plug-ins and the checkout come along, and the places that they came from can go."""
    path = sweep(tasks=[word_task(write_table(tmp_path / "mine" / "w.csv", sentences(240, 1)))])
    found, content = packed(path, tmp_path / "parcel")
    assert found.left == [] and found.files > 100
    [task] = content["tasks"]
    assert task["dataset"]["data_files"] == {"train": "data/1/w.csv"}
    assert content["backbones"][0]["path"].startswith("data/0/")
    assert (found.folder / "harness" / "cli.py").is_file()
    assert (found.folder / "plugins" / "0" / "regularizers" / "fault.py").is_file()
    (tmp_path / "mine" / "w.csv").unlink()
    there = spec.load(found.folder / "sweep.yaml")
    assert there.tasks[0].task.dataset["data_files"]["train"] == str(found.folder / "data" / "1" / "w.csv")


def test_a_parcel_holds_nothing_that_nobody_asked_for(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = tmp_path / "plugins"
    for name in (
        ".env",
        ".git/config",
        "results/x.json",
        "deploy.pem",
        "auth_token",
        "regularizers/__pycache__/a.pyc",
    ):
        (plugins / name).parent.mkdir(parents=True, exist_ok=True)
        (plugins / name).write_text(SECRET)
    (plugins / "regularizers" / "fine.py").write_text("")
    shutil.rmtree(plugins / "results")
    monkeypatch.setenv("HARNESS_PLUGINS", str(plugins))
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HARNESS_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    found, _ = packed(sweep(), tmp_path / "parcel")
    sent = {
        str(path.relative_to(found.folder / "plugins" / "0"))
        for path in (found.folder / "plugins").rglob("*.*")
    }
    assert sent == {"regularizers/fine.py"}
    texts = [path.read_bytes() for path in found.folder.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in text for text in texts)
    assert SECRET not in json.dumps(parcel.variables())
    names = {path.name for path in found.folder.rglob("*")}
    assert not names & {".git", ".venv", "__pycache__", "results", "tests", "docs"}


def test_what_is_large_or_secret_or_shared_is_left_and_said(
    sweep: Any, tmp_path: Path, words_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, key = tmp_path / "shared" / "w.csv", tmp_path / "w.pem"
    shared.parent.mkdir()
    shutil.copy(words_csv, shared)
    shutil.copy(words_csv, key)
    tasks = [word_task(path, f"t{index}") for index, path in enumerate((words_csv, shared, key))]
    path = sweep(tasks=tasks)
    found, content = packed(path, tmp_path / "one", shared=str(shared.parent))
    files = [task["dataset"]["data_files"]["train"] for task in content["tasks"]]
    assert files == ["data/1/words.csv", str(shared), str(key)]
    assert found.left == [(str(key), "is hidden, or has the name of a secret")]
    monkeypatch.setattr(parcel, "MOST", 10)
    monkeypatch.delenv("HARNESS_PLUGINS")  # which count, too
    found, content = packed(path, tmp_path / "two", shared=str(shared.parent))
    assert content["tasks"][0]["dataset"]["data_files"]["train"] == str(words_csv)
    assert {name for name, _ in found.left} == {str(key), str(words_csv), content["backbones"][0]["path"]}


def test_the_cluster_says_how_its_packages_differ() -> None:
    sent = {"python": "3.11.7", "torch": "2.14.1", "timm": "1.0", "finetune-harness": "0.1"}
    here = {"python": "3.11.7", "torch": "2.6.0"}
    missing, other = arrival.compared(sent, here, ["torch", "numpy"])
    assert missing == [] and other == [
        "torch is 2.6.0 on the cluster, and 2.14.1 where the sweep was submitted",
        "timm is not on the cluster, and 1.0 where the sweep was submitted",
    ]
    missing, other = arrival.compared({"torch": "2.14.1", "timm": "1.0"}, {"timm": "1.0"}, ["torch"])
    assert missing == ["torch"] and other == []


def test_what_a_parcel_says_every_sweep_needs(sweep: Any, tmp_path: Path) -> None:
    packed(sweep(), tmp_path / "parcel")
    versions, required = parcel.read_sent(tmp_path / "parcel")
    assert {"torch", "scikit-learn"} <= set(required) and not {"timm", "s3fs", "ruff"} & set(required)
    assert set(required) & set(versions)


def test_only_settings_that_name_files_are_paths(
    sweep: Any, tmp_path: Path, words_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `sep` of `/` is no folder, and a whole disk is not looked through."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "private.txt").write_text(SECRET)
    for index, separator in enumerate(("/", str(folder))):
        task = word_task(words_csv)
        task["dataset"]["sep"] = separator
        found, content = packed(sweep(tasks=[task]), tmp_path / f"parcel{index}")
        assert content["tasks"][0]["dataset"]["sep"] == separator and found.left == []
        assert not list(found.folder.rglob("private.txt"))
    monkeypatch.setattr(parcel, "MOST", 1000)
    sender = parcel._Sender(parcel.Parcel(tmp_path / "none"), None, 0)
    assert sender._named("/") == "/" and "0 MB with it" in sender.parcel.left[0][1]


def test_secrets_are_known_by_every_folder_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / ".cache" / "huggingface" / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    kept = (".aws/config", "gcloud/application_default_credentials.json", ".cache/huggingface/token")
    for name in (*kept, ".cache/huggingface/hub/models--a/snapshots/1/config.json", "data/words.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        assert parcel.secret(tmp_path / name) == (name in kept), name
    data = tmp_path / "data"
    (data / "link.csv").symlink_to(tmp_path / ".aws" / "config")
    (data / "self").symlink_to(data)
    assert parcel.secret(data / "link.csv")
    assert [path.name for path in parcel._files(data)] == ["words.csv"]


def test_plugins_are_sent_whole_or_refused(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins, outside = tmp_path / "plugins", tmp_path / "outside.txt"
    plugins.mkdir()
    outside.write_text(SECRET)
    (plugins / "fine.py").write_text("")
    path = sweep()
    loaded = spec.load(path)
    monkeypatch.setenv("HARNESS_PLUGINS", str(plugins))
    (plugins / "link.txt").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of"):
        parcel.pack(loaded, tmp_path / "one")
    (plugins / "link.txt").unlink()
    (plugins / "large.txt").write_text("x" * 20)
    monkeypatch.setattr(parcel, "MOST", 10)
    with pytest.raises(InputError, match="names folders of more than"):
        parcel.pack(loaded, tmp_path / "two")


# -- a job server that is made up ------------------------------------------------------------------


def details(name: str, state: str = "RUNNING", **changes: Any) -> SimpleNamespace:
    found = re.fullmatch(r"(.*)-\w+-(\w+)", name)
    given = {"sweep": found[1], "attempt": found[2], "results": "/shared/results"} if found else {}
    return SimpleNamespace(
        **{
            "submission_id": name, "metadata": given, "status": state, "driver_exit_code": None,
            "message": "", "start_time": 1000, "end_time": None, **changes,
        }
    )  # fmt: skip


MINE = "small-0123abcd-1"


def test_jobs_of_others_are_passed_over() -> None:
    listed = [
        details(MINE),
        details("small-0123abcd-2", metadata={"sweep": "small", "attempt": "first"}),
        details("train", metadata={"attempt": "first"}),
        details("other-0123abcd-1", metadata={"sweep": "small", "attempt": "1"}),
        details("raysubmit_1", metadata=None),
        details("small-0123abcd-3", metadata={"sweep": "small"}),
        SimpleNamespace(submission_id=None, metadata=None),
    ]
    assert [job.id for job in jobs.jobs(SimpleNamespace(list_jobs=lambda: listed))] == [MINE]


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("Request failed with status code 500"), requests.ConnectionError("Connection aborted")],
)
def test_a_job_server_that_fails_is_told(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    client = mock.Mock()
    client.list_jobs.side_effect = fault
    monkeypatch.setattr(jobs, "connect", lambda address: client)
    for verb in ("status", "logs", "stop"):
        assert main([verb, "small", "--address", "http://127.0.0.1:9"]) == 1
        assert f"the job server does not answer as it should: {fault}" in capsys.readouterr().err
    client.list_jobs.side_effect = None
    client.list_jobs.return_value = [details(MINE)]
    for name in ("get_job_info", "get_job_logs", "stop_job"):
        getattr(client, name).side_effect = fault
    for verb in ("logs", "stop"):
        assert main([verb, "small", "--address", "http://127.0.0.1:9"]) == 1
        assert "does not answer" in capsys.readouterr().err


def test_a_lost_connection_is_made_again_and_given_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    client, calls, written = mock.Mock(), [0], []

    async def tail(name: str) -> AsyncIterator[str]:
        calls[0] += 1
        yield "one\n"
        if calls[0] == 1:
            raise aiohttp.ServerDisconnectedError
        yield "two\n"

    client.tail_job_logs = tail
    client.get_job_info.side_effect = [
        requests.ConnectionError("refused"),
        details(MINE, "SUCCEEDED", driver_exit_code=0),
    ]
    job = jobs.job_of(details(MINE))
    assert jobs.follow(client, job, written.append).exit_code == 0
    assert "".join(written) == "one\ntwo\n"
    client.get_job_info.side_effect = requests.ConnectionError("refused")
    with pytest.raises(jobs.JobServerError, match="refused"):
        jobs.follow(client, job, written.append)

    def gone(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        jobs.follow(client, job, gone)


def test_what_is_said_of_a_job(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HARNESS_TOKEN", SECRET)
    lost = details(MINE, "FAILED", message=f"died \x1b[31m of {SECRET}")
    client = mock.Mock()
    client.list_jobs.return_value = [lost]
    client.get_job_logs.return_value = f"\x1b[2J{SECRET}\nlast\n"
    monkeypatch.setattr(jobs, "connect", lambda address: client)
    for verb in ("status", "logs"):
        assert main([verb, "small", "--address", "http://127.0.0.1:9"]) == 0
    said = capsys.readouterr().out
    assert "ended without a code: died" in said and said.endswith("last\n")
    assert main(["status", "small", "--address", "http://127.0.0.1:9", "--json"]) == 0
    said += capsys.readouterr().out
    assert SECRET not in said and "\x1b" not in said and "\\u001b" not in said


def test_stop_tells_of_a_job_that_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    client = mock.Mock()
    client.list_jobs.return_value = [details(MINE)]
    client.get_job_info.return_value = details(MINE)
    monkeypatch.setattr(jobs, "connect", lambda address: client)
    monkeypatch.setattr(time, "monotonic", mock.Mock(side_effect=range(0, 10_000, 100)))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert main(["stop", "small", "--address", "http://127.0.0.1:9"]) == 1
    client.stop_job.assert_called_once_with(MINE)


def test_one_spelling_of_a_place_and_of_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for spelled in ("/shared/results/", "//shared/./results", "/shared/x/../results"):
        assert jobs._normal(spelled) == "/shared/results"
    assert jobs._normal("s3://bucket/x//") == jobs._normal("s3://bucket/x") == "s3://bucket/x"
    monkeypatch.setattr("harness.records.provenance.versions", lambda: {"torch": "2.14.1+cpu"})
    assert "torch==2.14.1" in jobs.pinned()


def test_nothing_is_submitted_of_a_sweep_with_mistakes(sweep: Any, capsys: Any) -> None:
    """Every mistake at once, and before anybody is connected to: nobody listens at that address."""
    path = sweep(baseline="nobody", seeds={"tune": 0})
    arguments = ["submit", str(path), "--address", "http://127.0.0.1:9"]
    assert main([*arguments, "--results", "s3://user:secret@bucket/x"]) == 2
    said = capsys.readouterr().err
    assert "baseline" in said and "seeds.tune" in said and "credentials" in said and "secret@" not in said
    assert main([*arguments, "--results", "results"]) == 2
    assert "no place that every node sees" in capsys.readouterr().err


@pytest.mark.chaos
@pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop"])
def test_an_address_where_nobody_answers(sweep: Any, capsys: Any, verb: str) -> None:
    pytest.importorskip("aiohttp_cors")
    name = str(sweep()) if verb == "submit" else "small"
    assert main([verb, name, "--address", "http://127.0.0.1:9"]) == 2
    assert "no job server answers at http://127.0.0.1:9" in capsys.readouterr().err
    assert main([verb, name, "--address", "127.0.0.1:6379"]) == 2
    assert "takes the cluster's dashboard" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_told_at_once(sweep: Any, capsys: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert main(["run", str(sweep()), "--results", str(results), "--address", "127.0.0.1:9"]) == 2
    assert "no cluster answers at 127.0.0.1:9" in capsys.readouterr().err and not results.exists()


# -- a job server ----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(session: Path) -> None:
    """Kill the processes whose command line or environment names a folder of the test's own."""
    for process in psutil.process_iter(["cmdline"]):
        try:
            mine = any(str(session) in part for part in process.info["cmdline"] or [])
            if process.pid != os.getpid() and (mine or process.environ().get("RAY_TMPDIR") == str(session)):
                process.kill()
        except psutil.Error:
            continue


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of the job server of a cluster of one node, which needs a token."""
    pytest.importorskip("aiohttp_cors", reason="the job server needs ray[default]")
    session = Path(tempfile.mkdtemp(prefix="jobs-"))
    port = free_port()
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "RAY_TMPDIR": str(session),
        "HARNESS_CACHE": str(session / "cache"),
    }
    del environment["HARNESS_PLUGINS"]  # it is to come with the job
    subprocess.run(
        [
            scripts / "ray", "start", "--head", "--port", "0", "--num-cpus", "2",
            "--temp-dir", session / "ray", "--dashboard-host", "127.0.0.1",
            "--dashboard-port", str(port), "--include-dashboard", "true",
            "--dashboard-agent-listen-port", str(free_port()), "--object-store-memory", "200000000",
            "--disable-usage-stats",
        ],
        env=environment, check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end(session)
        shutil.rmtree(session, ignore_errors=True)


def ask(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def until(done: Any, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_sweep_as_a_job(
    server: str, sweep: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted, refused a second time, stopped, submitted again, carried on and finished; nothing that the
    submitter's environment hides comes to light."""
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HARNESS_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    path = sweep(
        optimizer={"learning_rate": {"grid": [1e-3, 2e-3, 3e-3]}},
        strategies={"a": {"regularizer": {"name": "fault", "seconds": 0.15}}},
        baseline=None,
        seeds={"tune": 1, "confirm": 3},
        resources={"cpus": 1, "checkpoint_seconds": 0},
    )
    results = tmp_path / "results"
    submit = ["submit", str(path), "--address", server, "--results", str(results)]
    at = ["small", "--address", server]
    code, said, error = ask(capsys, *submit, "--json")
    assert code == 0, error
    first = json.loads(said)
    assert first["id"].startswith("small-") and first["id"].endswith("-1") and first["attempt"] == 1

    code, _, error = ask(capsys, *submit)
    assert code == 4 and f"{first['id']} is at work" in error

    done = results / "small" / "trials"
    until(lambda: len(list(done.glob("[!.]*.json"))) >= 1)
    code, said, _ = ask(capsys, "status", *at)
    assert code == 0 and f"{first['id']} (attempt 1): at work" in said and str(results) in said
    code, said, _ = ask(capsys, "stop", *at)
    assert code == 0 and "ended with code 130: interrupted" in said
    kept = {file.name: file.stat().st_mtime_ns for file in done.glob("[!.]*.json")}
    assert 1 <= len(kept) < 6

    code, said, error = ask(capsys, *submit, "--follow")
    assert code == 0, said + error
    assert f"{first['id'][:-2]}-2" in said and "6/6 trials ended" in said and "code 0: done" in error
    after = {file.name: file.stat().st_mtime_ns for file in done.glob("[!.]*.json")}
    assert len(after) == 6 and {name: after[name] for name in kept} == kept
    assert (results / "small" / "report.html").is_file()

    code, said, _ = ask(capsys, "status", *at, "--json")
    last = json.loads(said)
    assert (last["attempt"], last["state"], last["exit_code"]) == (2, "SUCCEEDED", 0)
    code, logs, _ = ask(capsys, "logs", *at)
    assert code == 0 and "6/6 trials ended" in logs
    code, logs, _ = ask(capsys, "logs", first["id"], "--address", server)
    assert "Carry on with" in logs
    code, _, error = ask(capsys, "logs", "smal", "--address", server)
    assert code == 2 and "did you mean 'small'?" in error

    told = [str(details) for details in jobs.connect(server).list_jobs()]
    files = [file.read_bytes() for file in results.rglob("*") if file.is_file()]
    session = Path(psutil.Process().environ().get("RAY_TMPDIR", "/nowhere"))
    assert not any(SECRET in text for text in (*told, logs, said))
    assert not any(SECRET.encode() in text for text in files), session


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_job_ends_with_the_harness_own_code(server: str, sweep: Any, tmp_path: Path, capsys: Any) -> None:
    """A sweep that the cluster finds wrong, and one of whose trials fail."""
    path = sweep("wrong.yaml", name="wrong", resources={"cpus": 64})
    arguments = ["--address", server, "--results", str(tmp_path / "results"), "--follow"]
    code, said, error = ask(capsys, "submit", str(path), *arguments)
    assert code == 2 and "no node holds a trial of 64 CPUs" in said, said + error
    broken = {"name": "fault", "what": "raise", "at": 1}
    path = sweep(
        "broken.yaml", name="broken", strategies={"a": {"regularizer": broken}}, baseline=None,
        seeds={"tune": 1, "confirm": 0},
    )  # fmt: skip
    code, said, error = ask(capsys, "submit", str(path), *arguments)
    assert code == 3 and "some trials failed" in error, said + error


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(120)
def test_a_stranger_may_not_submit(server: str, sweep: Any) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "harness", "submit", str(sweep()), "--address", server],
        env={**os.environ, "RAY_AUTH_TOKEN": "f" * 64}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert found.returncode == 2 and "does not take this user's token" in found.stderr
    assert "Traceback" not in found.stderr
