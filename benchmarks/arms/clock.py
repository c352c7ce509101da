"""What an arm takes, in seconds and in core-seconds of all that it starts; what the machine does at best."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Seconds between two looks at the processes. What a process runs between the last look and its end is lost;
# ten looks a second took 2.6 % of a core.
_INTERVAL = 0.5
# How long Ray's own processes may go on after the arm has ended.
_GRACE = 20.0
_MARK = "SWEEP_VS_TRAINER_ARM"
_TICK = os.sysconf("SC_CLK_TCK")
_RATE_SECONDS = 2.0


@dataclass(frozen=True)
class Usage:
    """Attributes: seconds from start to exit of the command; user and system time of it and of all that
    descends from it; its exit code; how many processes were seen."""

    wall_s: float
    core_s: float
    exit_code: int
    processes: int


class Family:
    """The processes that descend from one command, and the CPU time that each was last seen with.

    Neither `getrusage` nor walking down from the command will do: the raylet ignores SIGCHLD, so that nobody
    is told what its workers took, and whoever outlives its parent becomes another's child. So processes are
    known by a mark in their environment, or by a parent that is known. psutil reads the same files, and takes
    several times as long.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self.ticks: dict[tuple[int, str], int] = {}  # by (pid, start): a pid may be used again
        self._strangers: set[tuple[int, str]] = set()

    def look(self) -> set[int]:
        """Take the times; returns the pids that are alive."""
        found: dict[int, tuple[tuple[int, str], list[str]]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "stat").read_text()
            except (OSError, UnicodeDecodeError):
                continue  # gone meanwhile
            fields = text[text.rindex(")") + 2 :].split()  # a name may hold spaces and brackets
            found[int(folder.name)] = (int(folder.name), fields[19]), fields
        alive = set()
        for pid, (key, fields) in sorted(found.items()):  # parents come before children
            parent, _ = found.get(int(fields[1]), (None, None))
            if key not in self.ticks and key not in self._strangers:
                if parent in self.ticks or self._marked(pid):
                    self.ticks[key] = 0
                else:
                    self._strangers.add(key)
            if key in self.ticks:
                self.ticks[key] = int(fields[11]) + int(fields[12])
                if fields[0] != "Z":
                    alive.add(pid)
        return alive

    def _marked(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    @property
    def core_s(self) -> float:
        return sum(self.ticks.values()) / _TICK


def clocked(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> Usage:
    """Run a command in `folder` to its end, and wait for what it leaves behind; its words go to `log`."""
    mark = uuid.uuid4().hex
    family = Family(f"{_MARK}={mark}")
    with log.open("w") as file:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env={**environment, _MARK: mark}, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        while process.poll() is None:
            family.look()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_INTERVAL)
        wall = time.monotonic() - started
        deadline = time.monotonic() + _GRACE
        while family.look() and time.monotonic() < deadline:
            time.sleep(_INTERVAL)
    finally:
        for pid in family.look():  # of an arm that was interrupted, or a Ray that does not end
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return Usage(wall, family.core_s, process.returncode, len(family.ticks))


def matmul_rate(precision: str, width: int, inner: int, rows: int) -> float:
    """FLOP/s that this machine reaches in matrix products [rows, width] × [width, inner], one process of one
    thread per core, all at once: the ceiling of trials that run so."""
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(cores)
    with context.Pool(cores, _get_ready, (ready,)) as pool:
        return float(sum(pool.starmap(_rate, [(precision, width, inner, rows)] * cores, chunksize=1)))


def _get_ready(ready: Any) -> None:
    import torch

    torch.set_num_threads(1)
    ready.wait()


def _rate(precision: str, width: int, inner: int, rows: int) -> float:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(rows, width).to(dtype), torch.randn(width, inner).to(dtype)
    torch.mm(a, b)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < _RATE_SECONDS:
        torch.mm(a, b)
        rounds += 1
    return rounds * 2 * rows * width * inner / (time.perf_counter() - started)
