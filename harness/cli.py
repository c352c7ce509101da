"""The command line: `harness VERB`. Each verb is a file in `harness/verbs`; here is what all share."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from harness import __version__, registry
from harness.errors import HarnessError, InputError, NoSpaceError, no_space
from harness.redaction import redact
from harness.verbs import (
    compare,
    dashboard,
    doctor,
    list_,
    logs,
    plan,
    replay,
    report,
    run,
    status,
    stop,
    submit,
    tensorboard,
)
from harness.verbs.common import INTERRUPTED, complain

FAILED = 1

_VERBS: dict[str, ModuleType] = {
    "plan": plan,
    "run": run,
    "submit": submit,
    "status": status,
    "logs": logs,
    "stop": stop,
    "tensorboard": tensorboard,
    "dashboard": dashboard,
    "report": report,
    "compare": compare,
    "replay": replay,
    "list": list_,
    "doctor": doctor,
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="harness", description=__import__("harness").__doc__)
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in _VERBS.items():
        found = verbs.add_parser(name, help=verb.HELP, description=verb.HELP)
        found.set_defaults(run=verb.run)
        verb.options(found)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0 done; 1 a file or folder cannot be read or written, or a disk is full, resumable; 2 bad input, nothing
    was written; 3 done, some trials failed or a margin was missed; 4 another run holds the results; 130
    interrupted, resumable.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = parser().parse_args(given)
    chosen.again = f"harness {shlex.join(given)}"
    try:
        return int(chosen.run(chosen))
    except InputError as error:
        for mistake in error.mistakes:
            complain(str(mistake))
        count = len(error.mistakes)
        complain(f"{count} mistake{'s' if count > 1 else ''}; nothing was run")
        return error.exit_code
    except NoSpaceError as error:
        complain(f"{error}: make room and run again:\n  {chosen.again}")
        return error.exit_code
    except HarnessError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`harness plan … | head`): that is no fault of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if full := no_space(error):
            complain(f"{full}: make room and run again:\n  {chosen.again}")
            return full.exit_code
        if error.filename is None:
            raise
        complain(f"{error.filename}: {error.strerror}")
        return FAILED
    except Exception as error:
        fault = registry.at_fault(error)
        if fault is None:
            raise
        complain(str(fault))
        return fault.exit_code


def entry() -> None:
    """The program: what nobody expected is told with its traceback, which may quote secrets."""
    try:
        code = main()
    except Exception as error:
        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        code = FAILED
    sys.exit(code)
