"""What passes between driver and workers while a bundle trains, through Ray's own store of keys: signs of
life one way, the wish that all end the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

from ray.experimental import internal_kv

from harness import pulse

_SPACE = b"finetune-harness"
# Of a worker: so often it listens, and so often it says how far its training has come round. A thousand
# workers ask Ray's head five hundred times a second, of the many thousand answers that it can give.
_LISTEN_SECONDS, _SAY_SECONDS = 2.0, 10.0


def _say_seconds(silence: float) -> float:
    """How often a worker is to say something if so many seconds without a word are too long."""
    return min(_SAY_SECONDS, silence / 4)


def _beat_key(run: str, bundle: str) -> bytes:
    return f"{run}/beats/{bundle}".encode()


def _halt_key(run: str) -> bytes:
    return f"{run}/halt".encode()


class Voice(threading.Thread):
    """A worker's side, for as long as its process lives.

    Args:
        silence: as the driver's `Ear` has it.
    """

    def __init__(self, run: str, silence: float) -> None:
        super().__init__(name="pulse", daemon=True)
        self._run, self._pause = run, _say_seconds(silence)
        self._bundle: str | None = None
        self._said_at = 0.0

    def work_on(self, bundle: str) -> None:
        """Begin with a bundle, by Tune's name of it: said at once, since who hangs says nothing later."""
        self._bundle = bundle
        self._say()

    def _say(self) -> None:
        if self._bundle is not None:
            key, beats = _beat_key(self._run, self._bundle), str(pulse.beats()).encode()
            internal_kv._internal_kv_put(key, beats, namespace=_SPACE)
            self._said_at = time.monotonic()

    def run(self) -> None:
        while True:
            time.sleep(min(_LISTEN_SECONDS, self._pause))
            try:
                if time.monotonic() - self._said_at >= self._pause:
                    self._say()
                if internal_kv._internal_kv_get(_halt_key(self._run), namespace=_SPACE) is not None:
                    pulse.halt()
            except Exception:  # Ray's head is away: its end is not this thread's to tell
                pass


class Ear:
    """The driver's side.

    Args:
        silence: seconds without a sign of life after which a bundle counts as hanging.
    """

    def __init__(self, run: str, silence: float) -> None:
        self._run, self._silence = run, silence
        self._heard: dict[str, tuple[bytes, float]] = {}
        self._listen_at = 0.0

    def hanging(self, bundles: Collection[str]) -> list[str]:
        """Those of the bundles at work that have been silent for too long. One that has not said anything
        yet has no worker; asked more often than makes sense, it looks at nothing."""
        now = time.monotonic()
        if now < self._listen_at:
            return []
        self._listen_at = now + _say_seconds(self._silence)
        for gone in self._heard.keys() - set(bundles):
            del self._heard[gone]
        found = []
        for bundle in bundles:
            beats = internal_kv._internal_kv_get(_beat_key(self._run, bundle), namespace=_SPACE)
            if beats is None:
                continue
            before = self._heard.get(bundle)
            if before is None or before[0] != beats:
                self._heard[bundle] = (beats, now)
            elif now - before[1] > self._silence:
                found.append(bundle)
        return found

    def forget(self, bundle: str) -> None:
        """It has ended."""
        self._heard.pop(bundle, None)
        internal_kv._internal_kv_del(_beat_key(self._run, bundle), namespace=_SPACE)

    def halt(self) -> None:
        """Ask every worker to write its checkpoints and to end."""
        internal_kv._internal_kv_put(_halt_key(self._run), b"1", namespace=_SPACE)
