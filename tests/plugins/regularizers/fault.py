"""A regulariser that breaks a trial on purpose, at a chosen optimiser step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psutil
import ray
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from harness.moments import Setting
from harness.regularizers.base import Penalty, Regularizer
from harness.weights import Weight


class Fault(Regularizer):
    """Breaks in `bind`, in `shrink`, or at step `at`: `raise`, `nan`, `explode`, `blow up` (the weights),
    `oom`, and once per `marker` file `kill` (the worker) or `stop` it (SIGSTOP: it hangs). `hungry` fails to
    allocate whenever the model gets more than `most` examples at a time, `poor` wherever Ray has reserved
    less than `most` CPUs. `seconds` are slept at every step. Appends a line to the file `log` at the first
    step, so that runs can be counted, and to the file `process` the job for which Ray started this process
    and its node. Where `meet` names a folder, the first step waits until two processes have come to one.
    """

    name: ClassVar[str] = "fault"

    strength: float = 1.0
    what: str = "none"
    at: int = 1
    seconds: float = 0.0
    most: int = 0
    marker: str = ""
    log: str = ""
    process: str = ""
    meet: str = ""

    def bind(self, weights: Sequence[Weight], setting: Setting | None = None) -> Any:
        if self.what == "bind":
            raise LookupError("broken in bind")
        return _Penalty(self, weights)


class _Penalty(Penalty):
    def __init__(self, fault: Fault, weights: Sequence[Weight]) -> None:
        self.fault, self.weights, self.step = fault, weights, 0
        if fault.what == "hungry":
            register_module_forward_pre_hook(self.look)

    def look(self, module: Any, inputs: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and module.training and len(inputs[0]) > self.fault.most:
            torch.empty(1 << 50)  # the allocator's own error

    def value(self) -> Any:
        fault = self.fault
        self.step += 1
        if self.step == 1 and fault.log:
            with Path(fault.log).open("a") as file:
                file.write(f"{fault.what}\n")
        if self.step == 1 and fault.process and ray.is_initialized():
            with Path(fault.process).open("a") as file:
                found = psutil.Process().environ()
                file.write(f"{found['RAY_JOB_ID']} {ray.get_runtime_context().get_node_id()}\n")
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
        if fault.what == "explode":  # and stay finite
            return zero + 1e9
        if fault.what == "blow up":  # after loss and gradient have been taken
            with torch.no_grad():
                for weight in self.weights:
                    weight.value.fill_(float("nan"))
        if fault.what == "oom":
            torch.empty(1 << 50)
        if fault.what == "poor":
            if ray.get_runtime_context().get_assigned_resources()["CPU"] < fault.most:
                torch.empty(1 << 50)
        if fault.what in ("kill", "stop") and not Path(fault.marker).exists():
            Path(fault.marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL if fault.what == "kill" else signal.SIGSTOP)
        return zero * 1.0

    def shrink(self, rates: Mapping[Any, float]) -> None:
        if self.fault.what == "shrink":
            raise LookupError("broken in shrink")


def _meet(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody else came")
        time.sleep(0.05)
