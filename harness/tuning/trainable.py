"""One trial on a Ray worker. The actor stays warm: imports, weights and data outlive the trial."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from ray import tune

from harness.errors import no_space
from harness.records.record import FINAL, Record, read_record
from harness.training.run import run_bundle
from harness.training.workspace import Workspace


class TrialRunner(tune.Trainable):
    """Each step is one evaluation of a bundle; the last one says `done`.

    Everything that one bundle leaves behind is in the generator, which `reset_config` replaces. Tune saves
    no checkpoints: a trial keeps its own and finds it again wherever it is restarted.
    """

    _run: Generator[list[Record], None, list[Record]]

    def setup(self, config: dict[str, Any], workspace: Workspace | None = None) -> None:
        assert workspace is not None
        self._workspace = workspace
        self._start(config)

    def _start(self, config: dict[str, Any]) -> None:
        # Tune starts a bundle again when its worker was lost, even if records had been written by then.
        self._run = run_bundle(
            [trial for trial in json.loads(config["trials"]) if not self._ended(trial)], self._workspace
        )

    def _ended(self, trial: dict[str, Any]) -> bool:
        record = read_record(self._workspace.paths.trial(trial["trial_id"]))
        return record is not None and record["status"] in FINAL

    def step(self) -> dict[str, Any]:
        try:
            return {"done": False, "drafts": json.dumps(next(self._run))}
        except StopIteration:
            return {"done": True}
        except Exception as error:
            # Raised, it would be taken for a lost worker, and the trial tried again.
            if full := no_space(error):
                return {"done": True, "no_space": str(full)}
            raise

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.close()
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        self._run.close()
