"""`harness doctor`: what it finds here, that it tells what is wrong, and that a failing check is a line."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.doctoring import cluster, devices, machine
from harness.doctoring.check import Check, guarded
from harness.errors import bad


def test_what_does_not_need_torch(tmp_path: Path) -> None:
    found = {check.name: check for check in machine.look(tmp_path / "not" / "there")}
    assert list(found) == [
        "python", "packages", "extras", "tensorboard", "cpu", "memory", "shared memory", "open files",
        "results", "cache", "hub",
    ]  # fmt: skip
    assert not [check for check in found.values() if check.state == "wrong"]
    assert found["results"].said.startswith(str(tmp_path / "not" / "there"))
    assert "HF_HUB_OFFLINE is set" in found["hub"].said
    assert not list(tmp_path.iterdir())  # neither made nor left anything


def test_a_check_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted0123456789")

    def broken() -> list[Check]:
        raise ZeroDivisionError("with hf_planted0123456789")

    (check,) = guarded("x", broken)
    assert check == Check("x", "wrong", "could not be looked at: ZeroDivisionError: with [redacted]")

    def told() -> list[Check]:
        raise bad("resources", "no node holds a trial")

    assert guarded("x", told) == [Check("x", "wrong", "resources: no node holds a trial")]


def test_a_folder_that_cannot_be_written_to() -> None:
    (check,) = machine.disk("results", Path("/proc/nothing/here"))
    assert check.state == "wrong"
    assert "/proc cannot be written to" in check.said


def test_results_on_a_uri() -> None:
    found = {check.name: check for check in machine.look("memory://bucket/doctor")}
    assert found["results"].state == "ok", found["results"].said
    assert found["results"].said.startswith("memory://bucket/doctor: ")
    (check,) = guarded("results", machine.storage, "nowhere://bucket")
    assert check.state == "wrong"
    assert "no storage is called 'nowhere'" in check.said


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text(f"{1 << 28}\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._memory()[1] > 1 << 30
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    (check,) = machine.memory()
    assert (check.state, check.said) == ("warning", "0.8 of 1.0 GiB free")


def test_packages_are_held_against_requirements_and_constraints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (check,) = machine.packages()
    assert check.state != "wrong"
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# note\nnumpy==0.1\ntorch>=1 ; python_version < '3'\nnot-installed-here==1\n")
    monkeypatch.setattr(machine, "_CONSTRAINTS", constraints)
    (check,) = machine.packages()
    assert check.state == "warning"
    assert re.search(r"not as tested: numpy \S+ \(==0.1\)$", check.said)
    monkeypatch.setattr(machine, "installed", lambda package: {"torch": "2.0"}.get(package))
    (check,) = machine.packages()
    assert check.state == "wrong"
    assert "numpy is missing" in check.said
    assert "torch 2.0 (wants >=2.6)" in check.said


class _Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_the_hub_is_asked_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine._OFFLINE:
        monkeypatch.delenv(name, raising=False)
    server = HTTPServer(("127.0.0.1", 0), _Refuses)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert machine.hub() == [Check("hub", "ok", f"{address} answers (403)")]
    thread.join()
    server.server_close()
    (check,) = machine.hub()  # nobody listens any more
    assert (check.state, check.name) == ("warning", "hub")
    for nonsense in ("nonsense", "http://host:port", "https://user:planted@127.0.0.1:1"):
        monkeypatch.setenv("HF_ENDPOINT", nonsense)
        (check,) = machine.hub()
        assert check.state == "warning"
        assert "planted" not in str(check)


def test_the_verb_says_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted0123456789")
    leaky = [Check("x", "ok", "at https://user:planted@host", "use hf_planted0123456789")]
    monkeypatch.setattr(machine, "look", lambda results: leaky)
    monkeypatch.setattr(devices, "look", list)
    monkeypatch.setattr(cluster, "look", lambda address, results: [])
    for form in ([], ["--json"]):
        assert main(["doctor", "--results", str(tmp_path), *form]) == 0
        said = capsys.readouterr().out
        assert "[redacted]@host" in said
        assert "planted" not in said


def test_a_build_without_cuda_beside_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan\n")
    monkeypatch.setattr(devices, "_DRIVER", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (check,) = devices.torch_build()
    assert check.state == "wrong"
    assert "a build for the CPU" in check.said and "570.86.15" in check.said
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (check,) = devices.torch_build()
    assert check.state == "wrong"
    assert "CUDA_VISIBLE_DEVICES" in check.advice


def test_precisions_and_a_trial_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_CACHE", os.environ["HARNESS_CACHE"])  # set back afterwards
    (check,) = devices.precision("cpu")
    assert check.state != "wrong"
    assert re.search(r"fp32 [\d.]+ GFLOP/s", check.said)
    (check,) = devices.training("cpu")
    assert (check.state, check.name) == ("ok", "cpu: training")
    assert "it gave the same result" in check.said


def test_nodes_are_compared_with_this_machine() -> None:
    from harness.records.provenance import versions
    from harness.tuning.nodes import Node

    answer = {"versions": versions(), "checks": [Check("memory", "ok", "1 GiB")]}
    found = cluster._compared(Node("n", 0.1, 0.05, True, answer))
    assert {check.state for check in found} == {"ok"}
    assert found[-1].name == "n: memory"
    other = {**answer, "versions": {**versions(), "torch": "1.0", "ray": "1.0"}}
    wrong = {check.name: check for check in cluster._compared(Node("n", 60.0, 0.05, False, other))}
    assert wrong["n: versions"].state == wrong["n: storage"].state == "wrong"
    assert "torch 1.0 (here " in wrong["n: versions"].said
    assert wrong["n: clock"].state == "warning"
    for package, state in (("python", "warning"), ("timm", "warning"), ("torch", "wrong"), ("ray", "wrong")):
        near = ".".join([*versions()["python"].split(".")[:2], "99"]) if package == "python" else "1.0"
        other = {**answer, "versions": {**versions(), package: near}}
        assert cluster._compared(Node("n", 0.1, 0.05, True, other))[0].state == state
    names = {check.name for check in cluster._compared(Node("n", 0, 0, False, answer), shares=False)}
    assert "n: storage" not in names
    (silent,) = cluster._compared(Node("n", 0, 0, False, None, "ModuleNotFoundError: harness"))
    assert silent.state == "wrong"


def test_a_token_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    path.chmod(0o644)
    (check,) = cluster._token()
    assert (check.state, check.advice) == ("warning", f"chmod 600 {path}")
    path.chmod(0o600)
    assert cluster._token() == []


@pytest.mark.parametrize(
    ("code", "error", "state", "words"),
    [
        (0, "", "warning", "authentication: none"),
        (1, "ray.exceptions.AuthenticationError: InvalidAuthToken", "ok", "a wrong token is refused"),
        (1, "ImportError: no such thing", "warning", "could not be tried: ImportError"),
    ],
)
def test_a_cluster_is_guarded_if_it_refuses_a_wrong_token(
    monkeypatch: pytest.MonkeyPatch, code: int, error: str, state: str, words: str
) -> None:
    tried: list[Any] = []

    def run(command: Any, env: dict[str, str], **_: Any) -> Any:
        tried.append(env)
        return subprocess.CompletedProcess(command, code, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "own")
    (check,) = cluster._guard("auto", 1.0, "")
    assert check.state == state
    assert words in check.said
    assert tried[0]["RAY_AUTH_MODE"] == "token" and tried[0]["RAY_AUTH_TOKEN"] != "own"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.3", False), ("node7", False)],
)  # fmt: skip
def test_what_is_this_machine(host: str, loopback: bool) -> None:
    from harness.tuning.nodes import is_loopback

    assert is_loopback(host) == loopback


def test_who_listens_beyond_this_machine() -> None:
    from harness.tuning.nodes import exposed

    with socket.socket() as inside, socket.socket() as outside:
        inside.bind(("127.0.0.1", 0))
        inside.listen()
        before = exposed()
        outside.bind(("0.0.0.0", 0))
        outside.listen()
        assert "127.0.0.1" not in before
        assert "0.0.0.0" in exposed()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_the_verb_on_this_machine(tmp_path: Path, capfd: Any) -> None:
    assert main(["doctor", "--results", str(tmp_path), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    names = [check["name"] for check in said["checks"]]
    assert {"python", "torch", "cpu: precision", "cpu: training", "ray"} <= set(names)
    assert said["wrong"] == 0


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_the_verb_on_a_cluster(tmp_path: Path, capfd: Any) -> None:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    try:
        assert main(["doctor", "--results", str(tmp_path), "--json", "--address", nodes.address]) == 0
    finally:
        nodes.shutdown()
    checks = json.loads(capfd.readouterr().out)["checks"]
    assert sum(check["name"].endswith(": storage") for check in checks) == 2
    assert sum(check["name"].endswith("): cpu: training") for check in checks) == 2
    assert not list(tmp_path.iterdir())
