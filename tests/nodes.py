"""Clusters of several nodes on this machine, each with a raylet, a temporary folder and a cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(eq=False)
class Node:
    """A node: `temp` is where Ray keeps its session, `cache` its HARNESS_CACHE."""

    ray: Any
    folder: Path

    @property
    def temp(self) -> Path:
        return self.folder / "ray"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"


class Nodes:
    """A running cluster. Its head comes first; drivers connect to it and outlive the loss of any other."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.all: list[Node] = []
        self._count = 0
        self._cluster = Cluster(shutdown_at_exit=True)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, cpus: float = 1, **options: Any) -> Node:
        """Start one more node; `options` are those of `ray._private.parameter.RayParams`."""
        self._count += 1
        folder = self.folder / str(self._count)
        node = Node(None, folder)
        node.cache.mkdir(parents=True)
        node.ray = self._cluster.add_node(
            num_cpus=cpus,
            temp_dir=str(node.temp),
            env_vars={"HARNESS_CACHE": str(node.cache)},
            include_dashboard=False,
            **options,
        )
        self.all.append(node)
        return node

    def kill(self, node: Node) -> None:
        """As when a spot instance is taken away: all processes of the node get SIGKILL."""
        self._cluster.remove_node(node.ray, allow_graceful=False)
        self.all.remove(node)

    def stop(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes(*cpus: float) -> Iterator[Nodes]:
    """A cluster of nodes with so many CPUs each, the head first.

    Token authentication is on: nodes and drivers take the token of this process's environment (`conftest`
    makes one; subprocesses inherit it). Nothing outside the cluster's own folder is written, and nothing but
    its own processes is ended.
    """
    assert os.environ["RAY_AUTH_MODE"] == "token" and os.environ["RAY_AUTH_TOKEN"]
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))  # not below `tmp_path`: paths of sockets are short
    before = os.environ.get("RAY_TMPDIR")
    (folder / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = str(folder)  # where the address of "the cluster of this machine" is noted
    found = Nodes(folder)
    try:
        for count in cpus:
            found.add(count)
        yield found
    finally:
        found.stop()
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
