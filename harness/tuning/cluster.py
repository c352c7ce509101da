"""Ray, started behind the scenes: it takes seconds in which torch is imported and a sweep is planned.

Nothing of ours is imported behind the scenes: two threads that import modules which import each other may
meet half of one.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from harness.errors import bad
from harness.records.patience import PATIENCE_VARIABLE
from harness.registry import PLUGINS_VARIABLE
from harness.sections import Resources
from harness.tuning import environment
from harness.tuning.gate import Gate


@contextmanager
def opened(resources: Resources, address: str | None, local: bool) -> Iterator[Cluster | None]:
    """Where trials run, for the length of the block: None for this process (`local`)."""
    if local:
        environment.settle(None)
        yield None
        return
    cluster = Cluster(address, resources)
    try:
        yield cluster
    finally:
        cluster.stop()


def check_address(address: str) -> None:
    """Raises: InputError if `HOST:PORT` is where nobody listens, which Ray takes minutes to find out."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise bad("--address", f"no cluster answers at {address}: {error}") from error


class Cluster:
    """Ray on this machine (`local`), or a running cluster's.

    Args:
        address: of a running cluster; None starts Ray here.
    """

    def __init__(self, address: str | None, resources: Resources) -> None:
        environment.settle(address)
        if address is not None:
            check_address(address)
        self.local = address is None
        self._here = environment.Here() if self.local else None
        self._resources = resources
        # With GPUs, what looks for one during an import would find all, before Ray says which is whose.
        self._gate = Gate() if self.local and resources.gpus == 0 else None
        import ray  # reads the environment: after `settle`

        self._ray = ray
        # This thread lives as long as Ray: the processes that it starts are killed when it ends.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._started: Future[None] = self._pool.submit(self._start, address)
        self._stopped = False

    def _start(self, address: str | None) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:  # its workers inherit the environment
            self._ray.init(address="local", include_dashboard=False, **options)
        else:
            # Not the cache's: each node keeps its own where its own environment says.
            handed_down = (PLUGINS_VARIABLE, PATIENCE_VARIABLE, "RAY_CHDIR_TO_TRIAL_DIR")
            variables = {name: os.environ[name] for name in handed_down if name in os.environ}
            self._ray.init(address=address, runtime_env={"env_vars": variables}, **options)

    def expect(self, workers: int) -> None:
        """Say how many trials there will be at a time, as soon as it is known."""
        if self._gate is not None:
            self._gate.open(workers)

    def ready(self, results: str | None = None) -> None:
        """Wait until Ray runs.

        Args:
            results: the folder or URI that trials write to; None if there will be none.

        Raises: InputError for resources that no node has, from a cluster that refuses, and for nodes of a
            running cluster that do not see the results; what Ray raises if it does not start.
        """
        from harness.tuning import ray_tune, shared

        try:
            self._started.result()
        except ConnectionError as error:  # all that Ray says, whatever it was
            hint = "if it needs a token: RAY_AUTH_MODE=token, and the token in ~/.ray/auth_token"
            raise bad("--address", f"the cluster does not let this program in: {error}", hint) from error
        ray_tune.check_resources(self._resources)
        if not self.local and results is not None:
            shared.check_results(results)

    def stop(self) -> None:
        """Nothing will run any more. Here and not behind the scenes: what still holds a reference to one of
        Ray's objects while Ray is shut down in another thread ends the process."""
        self._started.exception()  # has started, or could not
        if not self._stopped:
            self._stopped = True
            self._ray.shutdown()  # before the thread ends, and Ray's head with it: it would be asked in vain
            if self._gate is not None:
                self._gate.remove()
            if self._here is not None:
                self._here.end()
        self._pool.shutdown()
