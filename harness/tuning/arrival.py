"""The entry of a submitted job, on the cluster: says how the cluster's packages differ from the submitter's,
then runs the sweep. `python -m harness.tuning.arrival RESULTS`, in the folder that was sent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from harness.records import provenance
from harness.registry import PLUGINS_VARIABLE
from harness.tuning.parcel import PLUGINS, SWEEP, read_sent


def compared(
    sent: Mapping[str, str], here: Mapping[str, str], required: Collection[str]
) -> tuple[list[str], list[str]]:
    """Packages without which no sweep runs and that are missing here, and sentences on other differences.

    The harness itself does not count: a checkout comes along and is not installed.
    """
    names = [name for name in sent if name != "finetune-harness" and here.get(name) != sent[name]]
    missing = [name for name in names if name not in here and name in required]
    other = [
        f"{name} is {here.get(name, 'not')} on the cluster, and {sent[name]} where the sweep was submitted"
        for name in names
        if name not in missing
    ]
    return missing, other


def main(results: str) -> int:  # noqa: RET503 - `execv` does not return
    folder = Path.cwd()
    sent, required = read_sent(folder)
    missing, other = compared(sent, provenance.versions(), required)
    for sentence in other:
        print(f"harness: {sentence}", file=sys.stderr)
    for name in missing:
        print(f"harness: {name}: is not on the cluster (submit with --install)", file=sys.stderr)
    if missing:
        return 2
    found = sorted((folder / PLUGINS).glob("*"), key=lambda path: int(path.name))
    if found:
        os.environ[PLUGINS_VARIABLE] = os.pathsep.join(map(str, found))
    # Ray's processes block SIGINT, and what they start inherits that; Tune stops at nothing else.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    run = ["-m", "harness", "run", SWEEP, "--results", results, "--address", "auto"]
    os.execv(sys.executable, [sys.executable, *run])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
