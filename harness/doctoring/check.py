"""What a check comes to, as plain data: it travels from the nodes of a cluster and into JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from harness.errors import HarnessError
from harness.redaction import redact

State = Literal["ok", "warning", "wrong"]


class Check(NamedTuple):
    """Attributes:
    name: what was looked at.
    state: `warning`: it works, but slower or less surely than it could; `wrong`: sweeps will fail.
    said: what was found.
    advice: what to do about it; empty if nothing.
    """

    name: str
    state: State
    said: str
    advice: str = ""


def guarded(name: str, look: Callable[..., list[Check]], *arguments: Any) -> list[Check]:
    """What a check says; if it cannot be made, that, as one line."""
    try:
        return look(*arguments)
    except HarnessError as error:
        return [Check(name, "wrong", redact(str(error)))]
    except Exception as error:  # whatever a broken installation raises is what this is here to tell
        return [Check(name, "wrong", redact(f"could not be looked at: {type(error).__name__}: {error}"))]
