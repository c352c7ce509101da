"""The verb `tensorboard`."""

from __future__ import annotations

import argparse
from contextlib import suppress

from harness.errors import StorageError
from harness.verbs.common import find, results_folder
from harness.verbs.serving import check_port, port, serve

HELP = "open TensorBoard on a sweep's curves"


def options(found: argparse.ArgumentParser) -> None:
    results_folder(found)
    port(found, 6006)


def run(chosen: argparse.Namespace) -> int:
    paths = find(chosen, needs=["tb"])
    check_port(chosen.port)
    from harness.boards import write_boards

    with suppress(OSError, StorageError):  # results that one may only read show what the last report wrote
        write_boards(paths)
    # TensorBoard shows no run by itself where there are more than 40: these pages choose those that sum up.
    page = f"http://127.0.0.1:{chosen.port}/"
    print(f"strategies: {page}#custom_scalars&regexInput=report%2F")
    print(f"verdict:    {page}#text&regexInput=report%24", flush=True)
    serve(
        "from tensorboard.main import run_main; run_main()",
        "--logdir", str(paths.tensorboard), "--port", str(chosen.port), "--host", "127.0.0.1",
    )  # fmt: skip
