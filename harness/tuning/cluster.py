"""Ray, started and stopped behind the scenes: it takes seconds in which a sweep can be looked at, planned and
reported. Imports ray only when it starts."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

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
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._resources = resources
        self._started: Future[None] = self._pool.submit(self._start, address)
        self._stopped: Future[None] | None = None

    def _start(self, address: str | None) -> None:
        from harness.tuning import ray_tune

        ray_tune.connect(address)
        if self.local:
            ray_tune.warm(self._resources)

    def ready(self) -> None:
        """Wait until Ray runs.

        Raises: InputError for resources that no node has; what Ray raises if it does not start.
        """
        from harness.tuning import ray_tune

        self._started.result()
        ray_tune.check_resources(self._resources)

    def stop(self) -> None:
        """Nothing will run any more; does not wait."""
        if self._stopped is None:
            self._stopped = self._pool.submit(self._stop)

    def _stop(self) -> None:
        import ray

        ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._pool.shutdown()
