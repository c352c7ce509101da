"""What can be said of Ray and of the nodes of a cluster."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from harness.apart import command
from harness.doctoring import devices, machine
from harness.doctoring.check import Check, State, guarded
from harness.records.provenance import versions
from harness.redaction import redact

_SKEW = 5.0  # seconds: files would seem to come from the future
# A stranger's first question to a cluster.
_KNOCK = """\
from ray._private.services import canonicalize_bootstrap_address_or_die as found; import ray._raylet; \
ray._raylet.GcsClient(address=found(sys.argv[1])).internal_kv_keys(b"harness", b"doctor", timeout=20)"""


def local() -> list[Check]:
    """Ray on this machine alone, started as a sweep starts it."""
    from harness.tuning import nodes

    with nodes.connected(None) as seconds:
        said = f"starts in {seconds:.1f} s; authentication: {os.environ.get('RAY_AUTH_MODE')}"
        exposed = nodes.exposed()
    if exposed:
        advice = "unset RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, or put a firewall before the machine"
        return [
            Check("ray", "warning", f"{said}; listens on {', '.join(sorted(exposed))}", advice),
            *_token(),
        ]
    return [Check("ray", "ok", f"{said}; listens on this machine only"), *_token()]


def _token() -> list[Check]:
    """Ray's own file of the token, which sweeps on one machine do not use."""
    from harness.tuning import nodes

    found = nodes.token_file()
    if found is None or not found[1] & 0o077:
        return []
    path, mode = found
    return [Check("ray token", "warning", f"{path} can be read by others ({mode:04o})", f"chmod 600 {path}")]


def cluster(address: str, results: Path | str) -> list[Check]:
    """A running cluster: how it is guarded, and every node of it."""
    from harness.tuning import nodes

    with nodes.connected(address) as seconds:
        found = [*_guard(address, seconds, nodes.dashboard()), *_token()]
        if isinstance(results, str):
            found += guarded("storage", _storage, results)
            with tempfile.TemporaryDirectory(prefix="harness-doctor-") as folder:
                for node in nodes.ask(partial(_node, results), Path(folder)):
                    found += _compared(node, shares=False)
            return found
        results.mkdir(parents=True, exist_ok=True)
        for node in nodes.ask(partial(_node, results.resolve()), results.resolve()):
            found += _compared(node)
    return found


def _storage(uri: str) -> list[Check]:
    """Whether every node sees what is written to a URI here."""
    from harness.tuning import shared

    shared.check_results(uri)
    return [Check("storage", "ok", f"every node sees {uri}")]


def _guard(address: str, seconds: float, dashboard: str) -> list[Check]:
    from harness.tuning import nodes

    said, faults = f"connected in {seconds:.1f} s; ", []
    answer = _stranger(address)
    if answer is None:
        said += "authentication: none, a token that nobody was given is let in"
        faults.append("start every node and the driver with RAY_AUTH_MODE=token")
    elif "AuthenticationError" in answer:
        said += "authentication: a wrong token is refused"
    else:
        said += f"authentication: could not be tried: {answer}"
        faults.append("make sure that every node was started with RAY_AUTH_MODE=token")
    if dashboard and not nodes.is_loopback(dashboard.rpartition(":")[0].strip("[]")):
        said += f"; dashboard on {dashboard}"
        faults.append("ray start --dashboard-host=127.0.0.1")
    return [Check("ray", "warning" if faults else "ok", said, "; ".join(faults))]


def _stranger(address: str) -> str | None:
    """What the cluster's head says to somebody with a wrong token; None if it lets them in. What this process
    is told to use says nothing of that: a cluster without authentication ignores tokens."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        ran = subprocess.run(
            command(_KNOCK, address), env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer within a minute"
    if ran.returncode == 0:
        return None
    return (ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1]


def _node(results: Path | str) -> dict[str, Any]:
    """On a node: its versions and checks, as plain data."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides the GPUs from what reserves none
        del os.environ["CUDA_VISIBLE_DEVICES"]
    return {"versions": versions(), "checks": [*machine.look(results), *devices.look()]}


def _matters(name: str, here: str, there: str) -> bool:
    """Whether sweeps fail where a version differs: that of an extra or of a patch of Python may."""
    if name == "python":
        return here.split(".")[:2] != there.split(".")[:2]
    return name in (machine.DISTRIBUTION, "ray", *machine.required())


def _compared(node: Any, shares: bool = True) -> list[Check]:
    """Args: `shares`, whether the nodes are to see a folder of this machine, and not a URI."""
    if node.answer is None:
        advice = "the harness has to be installed there, in the same version"
        return [Check(node.name, "wrong", redact(f"says nothing: {node.fault}"), advice)]
    found = []
    here, there = versions(), node.answer["versions"]
    other = {
        name: f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    }
    if other:
        advice = "install from the same constraints.txt everywhere"
        matters = any(_matters(name, here.get(name, ""), there.get(name, "")) for name in other)
        state: State = "wrong" if matters else "warning"
        found.append(Check(f"{node.name}: versions", state, ", ".join(other.values()), advice))
    else:
        found.append(Check(f"{node.name}: versions", "ok", "those of this machine"))
    late = abs(node.skew) - node.uncertainty > _SKEW
    said = f"its clock is {node.skew:+.2f} s from this one (± {node.uncertainty:.2f})"
    found.append(Check(f"{node.name}: clock", "warning" if late else "ok", said, "run NTP" if late else ""))
    if shares:
        said, advice = ("sees the results folder", "") if node.shared else (
            "does not see the results folder", "put --results on storage that every node mounts at one place"
        )  # fmt: skip
        found.append(Check(f"{node.name}: storage", "ok" if node.shared else "wrong", said, advice))
    return [*found, *(check._replace(name=f"{node.name}: {check.name}") for check in node.answer["checks"])]


def look(address: str | None, results: Path | str) -> list[Check]:
    """Ray here, or the cluster at `address`."""
    return guarded("ray", local) if address is None else guarded("ray", cluster, address, results)
