"""One trial on a Ray worker. The actor stays warm: imports, weights and data outlive the trial."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from ray import tune

from harness.cache import cache_folder
from harness.errors import NoSpaceError, StorageError
from harness.pulse import Halted
from harness.records.patience import ending
from harness.records.record import Record
from harness.training.run import run_bundle
from harness.training.workspace import Terms, Workspace
from harness.tuning.losses import NOT_SEEN
from harness.tuning.pulse import Voice

# A node that has just joined may still mount its storage. One that never does is not to take trial after
# trial from those that could train them: it fails slowly.
_MOUNT_SECONDS = 30.0


def wait_for(workspace: Workspace) -> None:
    """Raises: StorageError if the node, which has joined since the nodes were looked at, does not see the
    results."""
    deadline = time.monotonic() + _MOUNT_SECONDS
    while not workspace.sees_results():
        if time.monotonic() > deadline:
            raise StorageError(f"{workspace.results}: {NOT_SEEN}")
        time.sleep(1.0)


class TrialRunner(tune.Trainable):
    """Each step is one evaluation of a bundle; the last one says `done`.

    Everything that one bundle leaves behind is in the generator, which `reset_config` replaces. Tune saves
    no checkpoints: a trial keeps its own and finds it again wherever it is restarted.
    """

    _run: Generator[list[Record], None, list[Record]]

    def setup(
        self, config: dict[str, Any], workspace: Workspace | None = None, run: str = "", silence: float = 0.0
    ) -> None:
        assert workspace is not None
        wait_for(workspace)
        # the nodes of a cluster have caches of their own
        self._workspace = replace(workspace, cache=str(cache_folder()))
        self._voice = Voice(run, silence)
        self._voice.start()
        self._start(config)

    def _start(self, config: dict[str, Any]) -> None:
        self._voice.work_on(config["bundle"])
        terms = Terms(**json.loads(config["terms"]))
        self._run = run_bundle(json.loads(config["trials"]), self._workspace, terms)

    def step(self) -> dict[str, Any]:
        try:
            return {"done": False, "drafts": json.dumps(next(self._run))}
        except StopIteration as ended:
            return {"done": True, "ended": [record["trial_id"] for record in ended.value]}
        except Halted:
            return {"done": True, "halted": True}
        except Exception as error:
            # Raised, it would be taken for a lost worker, and the trial tried again.
            if end := ending(error):
                full = isinstance(end, NoSpaceError)
                return {"done": True, "halted": True, "ends": str(end), "full": full}
            raise

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.close()
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        self._run.close()
