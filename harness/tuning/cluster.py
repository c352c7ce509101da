"""Ray, started behind the scenes: it takes seconds in which a sweep can be looked at and planned.

Nothing of ours is imported behind the scenes: two threads that import modules which import each other may
meet half of one.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from harness.cache import CACHE_VARIABLE
from harness.registry import PLUGINS_VARIABLE
from harness.spec import Resources
from harness.tuning import environment


class Cluster:
    """Ray on this machine (`local`), or a running cluster's, for the length of a `with` block.

    Args:
        address: of a running cluster; None starts Ray here.
    """

    def __init__(self, address: str | None, resources: Resources) -> None:
        environment.settle(address)
        self.local = address is None
        self._resources = resources
        import ray  # reads the environment: after `settle`

        self._ray = ray
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._started: Future[None] = self._pool.submit(self._start, address)
        self._stopped = False

    def _start(self, address: str | None) -> None:
        chosen = (PLUGINS_VARIABLE, CACHE_VARIABLE)
        variables = {name: os.environ[name] for name in chosen if name in os.environ}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.local:
            options |= {"include_dashboard": False}
        handed_down = {"env_vars": variables} if variables else None
        self._ray.init(address=address or "local", runtime_env=handed_down, **options)
        if self.local:
            # One worker imports what trials need, which takes seconds; the first trial gets its process then.
            self._ray.remote(num_cpus=self._resources.cpus)(_imports).remote()

    def ready(self) -> None:
        """Wait until Ray runs.

        Raises: InputError for resources that no node has; what Ray raises if it does not start.
        """
        from harness.tuning import ray_tune

        self._started.result()
        ray_tune.check_resources(self._resources)

    def stop(self) -> None:
        """Nothing will run any more. Here and not behind the scenes: what still holds a reference to one of
        Ray's objects while Ray is shut down in another thread ends the process."""
        self._pool.shutdown()
        if not self._stopped:
            self._stopped = True
            self._ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _imports() -> None:
    import harness.tuning.trainable  # noqa: F401
