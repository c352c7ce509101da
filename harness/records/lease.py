"""Who runs a sweep whose results are on a URI: an object there says so, and is renewed while the run lives.

Leases are numbered. Whoever wants the next one creates it, which of several succeeds for one only; the holder
of the highest number runs the sweep. A lease lives as long as its content changes: no clock of one machine is
compared with another's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ResultsLockedError, StorageError
from harness.records.stores import Store

logger = logging.getLogger(__name__)

RENEW_SECONDS = 10.0
MISSED = 3
"""A lease that has not changed for so many renewals is nobody's any more."""

_FOLDER = ".lock"
# To show whether a run is at work, clocks are good enough.
_SHOWN_SECONDS = 300.0


@contextmanager
def lease(store: Store, machine: str) -> Iterator[None]:
    """Hold the results at a URI. If another run takes over, this process writes nothing more there, and is
    interrupted as by Ctrl-C.

    Args:
        machine: what only this machine, and of its processes only this one, can be: a lease of that name is
            of a run that was killed, and is taken over at once.

    Raises: ResultsLockedError naming the owner; or, at the end, who took over. StorageError.
    """
    mine = {
        "machine": machine,
        "token": secrets.token_hex(8),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.time(),
        "every": RENEW_SECONDS,
    }
    number = _take(store, mine)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(store, number, mine, ended), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        if store.taken:
            taken, store.taken = store.taken, ""
            raise ResultsLockedError(f"{store.uri}: {taken}") from None
        with contextlib.suppress(StorageError):  # nobody renews it any more: that will do
            store.write(_key(number), _content(mine, released=True))


def _key(number: int) -> str:
    return f"{_FOLDER}/{number}.json"


def _content(mine: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({**mine, **more}).encode()


def _numbers(store: Store, seconds: float | None = None) -> list[int]:
    listed = store.listed(_FOLDER, seconds)
    stems = (key.removeprefix(f"{_FOLDER}/").removesuffix(".json") for key in listed)
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _latest(store: Store) -> tuple[int, dict[str, Any] | None]:
    """The highest lease and what it says; None of it if there is none."""
    numbers = _numbers(store)
    if not numbers:
        return -1, None
    return numbers[-1], _said(store.read(_key(numbers[-1])))


def _said(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _who(said: dict[str, Any] | None) -> str:
    return (
        f"process {said['pid']} on {said['host']}"
        if said and said.keys() >= {"pid", "host"}
        else "another run"
    )


def _taken(said: dict[str, Any] | None) -> str:
    return f"{_who(said)} has taken this sweep over"


def _take(store: Store, mine: dict[str, Any]) -> int:
    while True:
        number, said = _latest(store)
        if said is not None and not said.get("released") and said.get("machine") != mine["machine"]:
            if not _silent(store, number, said):
                raise ResultsLockedError(f"{store.uri}: {_who(said)} is running this sweep")
        if not store.create(_key(number + 1), _content(mine)):
            continue  # somebody else was first
        numbers = _numbers(store)
        if numbers and numbers[-1] > number + 1:  # leases came and went since we looked
            store.remove(_key(number + 1))
            continue
        for old in numbers[:-1]:
            store.remove(_key(old))
        return number + 1


def _silent(store: Store, number: int, said: dict[str, Any]) -> bool:
    """Whether a lease does not change for as long as its owner could miss renewals."""
    every = float(said.get("every") or RENEW_SECONDS)
    logger.warning(
        "%s: %s held these results last; looking for up to %.0f s whether it is alive",
        store.uri, _who(said), MISSED * every,
    )  # fmt: skip
    until = time.monotonic() + MISSED * every
    while time.monotonic() < until:
        time.sleep(every / 4)
        now, content = _latest(store)
        if now == number and content is not None and content.get("released"):
            return True
        if now != number or content != said:
            return False
    return True


def _keep(store: Store, number: int, mine: dict[str, Any], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(RENEW_SECONDS):
        beat += 1
        try:
            latest = max(_numbers(store, 0.0), default=number)
            if latest > number:
                store.taken = _taken(None)  # before anything that may fail
                with contextlib.suppress(StorageError):
                    store.taken = _taken(_said(store.read(_key(latest), 0.0)))
                # to this thread's process as Ctrl-C would: the run ends as an interrupted one does
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            store.write(_key(number), _content(mine, beat=beat), seconds=0.0)
        except StorageError:  # next time; whoever sees no change meanwhile takes over
            continue


def show(store: Store, owner: Path) -> None:
    """Write who holds the results into a file, as `records.lock` does for a folder; none if nobody does."""
    number, said = _latest(store)
    version = None if said is None else store.version(_key(number))
    fresh = version is not None and time.time() - version.changed / 1e9 < _SHOWN_SECONDS
    if not said or said.get("released") or not fresh:
        owner.unlink(missing_ok=True)
        return
    owner.parent.mkdir(parents=True, exist_ok=True)
    owner.write_text(json.dumps(said))
    os.utime(owner, (float(said["since"]), float(said["since"])))
