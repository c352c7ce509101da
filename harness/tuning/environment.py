"""What Ray reads from the environment, once, when it is imported. Imports nothing of ray itself."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from harness.registry import PLUGINS_VARIABLE

_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records and curves are ours
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's snapshot is never read
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's last result has a status, no score
    "TUNE_WARN_THRESHOLD_S": "30",
    # Our searcher says how many wait. Tune lets one: a cluster would start its workers one by one.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in every worker
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # what a lost node means is not Tune's to decide
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Nobody looks at Ray's own list of tasks; a driver that ends waits five seconds until it is handed in.
    "RAY_task_events_report_interval_ms": "0",
}


def settle(address: str | None) -> None:
    """Set what this process has not set itself. Call before ray is imported.

    On one machine Ray would switch token authentication on and leave a token file below the home folder. Here
    each run has a token of its own, handed down by environment, so that nobody else on the machine can submit
    work to it. For a running cluster the user's own settings hold.
    """
    folders = os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep)
    if any(folders):  # workers run in other folders than the driver
        absolute = [str(Path(folder).resolve()) for folder in folders if folder]
        os.environ[PLUGINS_VARIABLE] = os.pathsep.join(absolute)
    for name, value in _TUNE.items():
        os.environ.setdefault(name, value)
    if address is None and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


class Here:
    """Until `end`, a Ray that starts is for this machine and this user alone. Call before ray is imported."""

    def __init__(self) -> None:
        wanted = {
            # Ray has one way to say "this machine only", made for systems whose firewall asks: with it all
            # its servers listen on 127.0.0.1. `_node_ip_address` cannot: Ray puts another address there.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Ray's folders of logs and sockets are open to everybody (0777), and a log may quote a secret.
            "RAY_TMPDIR": str(_private_folder()),
        }
        self._set = [name for name in wanted if name not in os.environ]
        os.environ |= {name: wanted[name] for name in self._set}

    def end(self) -> None:
        for name in self._set:
            os.environ.pop(name, None)


def _private_folder() -> Path:
    """A folder that nobody else can enter, the same each time if it can be. The path is short: those of Ray's
    sockets below it must not exceed 107 bytes."""
    folder = Path("/tmp") / f"harness-ray-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:  # there is a file of that name
        return Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if own else Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
