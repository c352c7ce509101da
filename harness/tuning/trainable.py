"""One trial on a Ray worker. The actor stays warm: imports, weights and data outlive the trial."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from ray import tune

from harness.records.record import FINAL, Record, read_record
from harness.training.run import run_trial
from harness.training.workspace import Workspace


class TrialRunner(tune.Trainable):
    """Each step is one evaluation of the trial; the last one says `done`.

    Everything that one trial leaves behind is in the generator, which `reset_config` replaces. Tune saves
    no checkpoints: a trial keeps its own and finds it again wherever it is restarted.
    """

    _run: Generator[Record, None, Record]
    _ended: str | None

    def setup(self, config: dict[str, Any], workspace: Workspace | None = None) -> None:
        assert workspace is not None
        self._workspace = workspace
        self._start(config)

    def _start(self, config: dict[str, Any]) -> None:
        trial = json.loads(config["trial"])
        self._run = run_trial(trial, self._workspace)
        # Tune starts a trial again when its worker was lost, even if its record had been written by then.
        record = read_record(self._workspace.paths.trial(trial["trial_id"]))
        self._ended = record["status"] if record is not None and record["status"] in FINAL else None

    def step(self) -> dict[str, Any]:
        if self._ended is not None:
            return {"done": True, "status": self._ended}
        try:
            draft = next(self._run)
        except StopIteration as ended:
            return {"done": True, "status": ended.value["status"]}
        return {"done": False, "draft": json.dumps(draft)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.close()
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        self._run.close()
