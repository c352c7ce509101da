"""Servers that open a results folder, on this machine only."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from harness.apart import command
from harness.errors import bad


def port(found: argparse.ArgumentParser, default: int) -> None:
    found.add_argument("--port", type=int, default=default, help=f"on this machine (default: {default})")


def check_port(port: int) -> None:
    """Raises: InputError if nobody can listen there."""
    import socket

    if not 0 <= port < 65536:
        raise bad("--port", f"takes a number from 0 to 65535, not {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = f"nothing can listen on port {port}: {os.strerror(error.errno or 0)}"
            raise bad("--port", reason, f"try --port {port + 1 if port < 65535 else 0}") from error


def serve(start: str, *arguments: str) -> NoReturn:
    """Run the Python statement `start` with command-line arguments.

    It replaces this process, so that Ctrl-C and the exit code are the server's own.
    """
    os.execv(sys.executable, command(start, *arguments))
