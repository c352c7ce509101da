"""What can be said of Ray before a sweep: whether it starts, who can reach it, what its nodes say."""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from harness.sections import Resources
from harness.tuning.cluster import Cluster

_PATIENCE, _LONG = 120, 900  # seconds for a node's clock, and for what it is asked
TOKEN_FILE = Path("~/.ray/auth_token")


class Node(NamedTuple):
    """A node's answer.

    Attributes:
        skew: seconds that its clock is ahead of this machine's, give or take `uncertainty`.
        shared: whether it sees a file that was just written here.
        answer: what it was asked; None if it said nothing, and `fault` says why.
    """

    name: str
    skew: float
    uncertainty: float
    shared: bool
    answer: Any
    fault: str = ""


@contextmanager
def connected(address: str | None) -> Iterator[float]:
    """Ray, as a sweep would have it, for the length of the block; gives the seconds that it took."""
    started = time.perf_counter()
    cluster = Cluster(address, Resources())
    try:
        cluster.expect(1)
        cluster.ready()
        yield time.perf_counter() - started
    finally:
        cluster.stop()


def dashboard() -> str:
    """Host and port of the connected cluster's dashboard; empty if it has none."""
    import ray

    return str(ray._private.worker.get_dashboard_url() or "")


def exposed() -> set[str]:
    """Addresses beyond this machine on which this process and its children listen."""
    process = psutil.Process()
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            connections = one.net_connections(kind="inet")
        except psutil.Error:
            continue
        found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return {ip for ip in found if not is_loopback(ip)}


def is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.removeprefix("::ffff:"))
    except ValueError:
        return host == "localhost"
    return address.is_loopback


def token_file() -> tuple[Path, int] | None:
    """Ray's own file of the token and its permissions, if there is one."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    try:
        return path, stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def ask(look: Callable[[], Any], shared: Path) -> list[Node]:
    """What `look` says on every node of the connected cluster. A token below `shared` tells whether they see
    the same files."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def there(path: str, token: str) -> tuple[float, bool]:
        try:
            return time.time(), Path(path).read_text() == token
        except OSError:
            return time.time(), False

    remote = ray.remote(num_cpus=0, max_retries=0)
    clock_of, answer_of = remote(there), remote(lambda: look())  # `look` may be no function, but callable
    path, token = shared / f".harness-doctor.{secrets.token_hex(8)}", secrets.token_hex(16)
    path.write_text(token)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [answer_of.options(scheduling_strategy=one).remote() for one in here]  # side by side
    found = []
    try:
        for node, one, said in zip(nodes, here, answers, strict=True):
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
            task = clock_of.options(scheduling_strategy=one)
            try:
                ray.get(task.remote(str(path), token), timeout=_PATIENCE)  # starts a worker
                before = time.time()
                clock, sees = ray.get(task.remote(str(path), token), timeout=_PATIENCE)
                half = (time.time() - before) / 2
                found.append(Node(name, clock - before - half, half, sees, ray.get(said, timeout=_LONG)))
            except Exception as error:  # a node that cannot do it is what is to be told
                reason = (str(error).strip().splitlines() or [""])[-1]
                found.append(Node(name, 0.0, 0.0, False, None, f"{type(error).__name__}: {reason}"))
    finally:
        path.unlink(missing_ok=True)
    return found
