"""A regulariser that breaks a trial on purpose, at a chosen optimiser step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psutil

from harness.regularizers.base import Penalty, Regularizer, Weight


class Fault(Regularizer):
    """Breaks at step `at`: `raise`, `nan`, `blow up` (the weights), `oom`, or `kill` (the worker, once per
    `marker` file). Sleeps `seconds` at every step. Appends a line to the file `log` at the first step,
    so that runs can be counted, and to the file `process` the job for which Ray started this process. Where
    `meet` names a folder, the first step waits until two processes have come to one there.
    """

    name: ClassVar[str] = "fault"

    strength: float = 1.0
    what: str = "none"
    at: int = 1
    seconds: float = 0.0
    marker: str = ""
    log: str = ""
    process: str = ""
    meet: str = ""

    def bind(self, weights: Sequence[Weight]) -> Any:
        return _Penalty(self, weights)


class _Penalty(Penalty):
    def __init__(self, fault: Fault, weights: Sequence[Weight]) -> None:
        self.fault, self.weights, self.step = fault, weights, 0

    def value(self) -> Any:
        import torch

        fault = self.fault
        self.step += 1
        if self.step == 1 and fault.log:
            with Path(fault.log).open("a") as file:
                file.write(f"{fault.what}\n")
        if self.step == 1 and fault.process:
            with Path(fault.process).open("a") as file:
                file.write(f"{psutil.Process().environ()['RAY_JOB_ID']}\n")
        if self.step == 1 and fault.meet:
            _meet(Path(fault.meet))
        time.sleep(fault.seconds)
        zero = torch.zeros((), requires_grad=True)
        if self.step != fault.at:
            return zero * 1.0
        if fault.what == "raise":
            raise RuntimeError("this plug-in is broken on purpose")
        if fault.what == "nan":
            return zero * float("nan")
        if fault.what == "blow up":  # after loss and gradient have been taken
            with torch.no_grad():
                for weight in self.weights:
                    weight.value.fill_(float("nan"))
        if fault.what == "oom":
            return torch.empty(1 << 50)  # the allocator's own error
        if fault.what == "kill" and not Path(fault.marker).exists():
            Path(fault.marker).write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return zero * 1.0

    def shrink(self, rates: Mapping[Any, float]) -> None:
        pass


def _meet(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody else came")
        time.sleep(0.05)
