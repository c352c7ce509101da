"""The multi-bootstrap: a difference on resampled seeds and resampled examples, the same for both strategies.

Source: Sellam et al. 2022, arXiv 2106.16163.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics.forms import Form

Array = NDArray[np.float64]

DRAWS = 10_000
_AT_ONCE = 1 << 23  # numbers in one array of counts


def counts(size: int, draws: int, rng: np.random.Generator) -> Array:
    """How often each of `size` things is drawn: (draws, size), each row with the sum `size`."""
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)


def differences(
    form: Form, a: Sequence[Array], b: Sequence[Array], rng: np.random.Generator, draws: int = DRAWS
) -> Array:
    """Resampled differences of the mean score over seeds, (draws,).

    Args:
        a, b: per shared seed the parts of each strategy, (examples, k); the examples are the same in all.
    """
    n = len(a[0])
    by_seed = counts(len(a), draws, rng) / len(a)
    found = np.zeros(draws)
    step = max(1, _AT_ONCE // n)
    for start in range(0, draws, step):
        rows = slice(start, min(start + step, draws))
        weights = counts(n, rows.stop - rows.start, rng)
        for seed, (ours, theirs) in enumerate(zip(a, b, strict=True)):
            gain = form.resampled(ours, weights) - form.resampled(theirs, weights)
            found[rows] += by_seed[rows, seed] * gain
    return found


def interval(resampled: Array, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
