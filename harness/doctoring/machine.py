"""What can be said of a machine without torch: versions, memory, disks, limits, the hub."""

from __future__ import annotations

import http.client
import os
import platform
import resource
import shutil
import sys
import time
import urllib.error
import urllib.request
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from harness.cache import cache_folder
from harness.doctoring.check import Check, guarded
from harness.records.provenance import hardware
from harness.records.stores import store
from harness.redaction import REDACTED, redact_addresses

DISTRIBUTION = "finetune-harness"
_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"  # of a checkout, editable installs included
# Instruction sets that matrix products gain from, as Linux calls them on x86 and on Arm.
_INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16",
)  # fmt: skip
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
# What users choose; the others are for developers.
_EXTRAS = ("entities", "vision", "speech", "optimizers", "peft", "dashboard")
_GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")  # of the container, if this is one
_SAMPLE = 64 << 20  # bytes written to measure a disk


def look(results: Path | str) -> list[Check]:
    """Every check of this module. Args: `results`, a folder or a URI."""
    return [
        *guarded("python", python),
        *guarded("packages", packages),
        *guarded("extras", extras),
        *guarded("tensorboard", tensorboard),
        *guarded("cpu", cpu),
        *guarded("memory", memory),
        *guarded("shared memory", shared_memory),
        *guarded("open files", open_files),
        *(
            guarded("results", storage, results)
            if isinstance(results, str)
            else guarded("results", disk, "results", results)
        ),
        *guarded("cache", disk, "cache", cache_folder()),
        *guarded("hub", hub),
    ]


def python() -> list[Check]:
    said = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    from packaging.specifiers import SpecifierSet

    if platform.python_version() not in SpecifierSet(wanted, prereleases=True):
        return [Check("python", "wrong", said, f"the harness wants Python {wanted}")]
    return [Check("python", "ok", said)]


def _requirements(extra: str = "") -> list[tuple[str, str, str | None]]:
    """(package, versions that will do, version installed or None) of what the harness or an extra names."""
    from packaging.requirements import Requirement

    found = []
    for text in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(text)
        named = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        plain = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if named and plain == (not extra) and wanted.name != DISTRIBUTION:
            found.append((wanted.name, str(wanted.specifier), installed(wanted.name)))
    return found


def required() -> set[str]:
    """The packages that the harness does not run without."""
    return {name for name, *_ in _requirements()}


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def packages() -> list[Check]:
    """What is required, as the package's metadata says; and in a checkout, what it was tested with."""
    from packaging.specifiers import SpecifierSet

    needed = _requirements()
    missing = [name for name, _, version in needed if version is None]
    old = [
        f"{name} {version} (wants {wanted})"
        for name, wanted, version in needed
        if version is not None and version not in SpecifierSet(wanted, prereleases=True)
    ]
    if missing or old:
        said = "; ".join([*(f"{name} is missing" for name in missing), *old])
        return [Check("packages", "wrong", said, f"pip install -c constraints.txt {DISTRIBUTION}")]
    other = _unlike_constraints() if _CONSTRAINTS.exists() else []
    said = f"{len(needed)} required packages are there"
    if other:
        shown = ", ".join(other[:6]) + (f" and {len(other) - 6} more" if len(other) > 6 else "")
        return [
            Check("packages", "warning", f"{said}; not as tested: {shown}", "pip install -c constraints.txt")
        ]
    return [Check("packages", "ok", said + (", all as tested" if _CONSTRAINTS.exists() else ""))]


def _unlike_constraints() -> list[str]:
    from packaging.requirements import Requirement

    found = []
    for line in _CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        wanted = Requirement(line)
        version = installed(wanted.name)
        if version is None or (wanted.marker is not None and not wanted.marker.evaluate()):
            continue  # of an extra that is not installed, or for another Python
        if not wanted.specifier.contains(version.partition("+")[0], prereleases=True):  # `2.6.0+cu124`
            found.append(f"{wanted.name} {version} ({wanted.specifier})")
    return found


def extras() -> list[Check]:
    """The extras that are complete; none of them has to be."""
    incomplete = {
        extra: missing
        for extra in _EXTRAS
        if (missing := [name for name, _, version in _requirements(extra) if version is None])
    }
    there = ", ".join(extra for extra in _EXTRAS if extra not in incomplete) or "none"
    said = f"complete: {there}"
    if incomplete:
        said += "; not installed: " + ", ".join(
            f"{e} ({', '.join(names)})" for e, names in incomplete.items()
        )
        wanted = ",".join(incomplete)
        return [Check("extras", "ok", said, f"if wanted: pip install -c constraints.txt -e '.[{wanted}]'")]
    return [Check("extras", "ok", said)]


def tensorboard() -> list[Check]:
    from harness.records import tensorboard as writer

    assert writer.RunWriter is not None
    said = f"curves can be written (tensorboard {installed('tensorboard')})"
    if find_spec("tensorflow") is not None:
        return [Check("tensorboard", "warning", f"{said}; TensorFlow is installed, too, and slows its start")]
    return [Check("tensorboard", "ok", said)]


def cpu() -> list[Check]:
    found = hardware()
    cores, usable = os.cpu_count() or 1, _usable_cores()
    sets = ", ".join(_instructions()) or "none that matter"
    said = f"{found['cpu']} ({found['machine']}), {usable} of {cores} cores for this process; {sets}"
    if usable < cores:
        advice = "trials are counted by the cores of the machine: set resources.concurrent to what fits"
        return [Check("cpu", "warning", said, advice)]
    return [Check("cpu", "ok", said)]


def _usable_cores() -> int:
    """Cores that the process may run on, and may use by its container's quota."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def _instructions() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in _INSTRUCTIONS if name in flags]


def memory() -> list[Check]:
    free, total = _memory()
    said = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if free < 4 * _GIB:
        return [
            Check("memory", "warning", said, "a worker takes 1 to 2 GiB beside its model: close something")
        ]
    return [Check("memory", "ok", said)]


def _memory() -> tuple[int, int]:
    """Bytes free and in all: of the machine, or of its container if that may take less."""
    import psutil

    found = psutil.virtual_memory()
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        taken = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return found.available, found.total
    return min(found.available, max(0, limit - taken)), min(found.total, limit)


def shared_memory() -> list[Check]:
    """Ray keeps its object store there: 30 % of the memory by default, and on disk what does not fit."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return [Check("shared memory", "ok", "this system has no /dev/shm")]
    free, wanted = shutil.disk_usage(folder).free, 0.3 * _memory()[1]
    said = f"{free / _GIB:.1f} GiB free in /dev/shm"
    if free < wanted:
        advice = f"Ray would like {wanted / _GIB:.1f} GiB: docker run --shm-size, or mount it larger"
        return [Check("shared memory", "warning", said, advice)]
    return [Check("shared memory", "ok", said)]


def open_files() -> list[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{soft} per process (this user may raise it to {hard})"
    if soft < 4096:
        return [
            Check(
                "open files", "warning", said, "ulimit -n 65536: Ray's processes hold a socket for each other"
            )
        ]
    return [Check("open files", "ok", said)]


def disk(name: str, folder: Path) -> list[Check]:
    """Whether a folder can be written to, how much room there is, and how fast what is written is safe. What
    is not there is not made: the nearest folder above it stands for it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    probe = there / f".harness-doctor.{os.getpid()}"
    content = os.urandom(1 << 20)
    try:
        started = time.perf_counter()
        with probe.open("wb") as file:
            for _ in range(_SAMPLE >> 20):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rate = _SAMPLE / (time.perf_counter() - started) / 1e6
    except OSError as error:
        return [
            Check(name, "wrong", f"{there} cannot be written to: {error.strerror}", "choose another folder")
        ]
    finally:
        probe.unlink(missing_ok=True)
    free = shutil.disk_usage(there).free
    said = f"{folder.absolute()}: {free / _GIB:.1f} GiB free, {rate:.0f} MB/s written and synced"
    if free < 10 * _GIB:
        return [Check(name, "warning", said, "checkpoints of large models take gigabytes each")]
    if rate < 20:
        return [Check(name, "warning", said, "a slow disk: every trial's record and checkpoint waits for it")]
    return [Check(name, "ok", said)]


def storage(uri: str) -> list[Check]:
    """Whether a URI can be written to, as a sweep finds out before it runs."""
    store(uri).check()
    return [Check("results", "ok", f"{uri}: something was written, read and removed")]


def hub() -> list[Check]:
    offline = [name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if offline:
        return [Check("hub", "ok", f"not asked: {offline[0]} is set; models and data come from this machine")]
    given = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    endpoint = redact_addresses(given).replace(f"{REDACTED}@", "")  # errors would quote a password
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=5) as answer:
            said = f"{endpoint} answers ({answer.status})"
    except urllib.error.HTTPError as error:  # it answers, and does not like the question
        said = f"{endpoint} answers ({error.code})"
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        advice = "local folders work; with HF_HUB_OFFLINE=1 what is cached is used without asking"
        return [Check("hub", "warning", f"{endpoint} cannot be reached: {reason}", advice)]
    return [Check("hub", "ok", said)]
