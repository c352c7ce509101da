"""Independent random streams, derived by name from a trial's seed."""

from __future__ import annotations

import hashlib

HEAD = "head"  # initial weights of the output layer
ORDER = "order"  # order of the training examples
AUGMENTATION = "augmentation"  # how training examples are varied
SAMPLE = "sample"  # training examples that a strategy looks at beforehand
NOISE = "noise"  # dropout and whatever else the model draws


def derive(seed: int, stream: str, index: int = 0) -> int:
    """A 63-bit seed for a stream (and, for data order and augmentation, an epoch).

    Two strategies with the same seed share head and order; no stream depends on how much another drew.
    """
    text = f"{stream}:{seed}:{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
