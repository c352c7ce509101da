"""What more tuning would have bought: the best score to expect of fewer configurations.

The curve holds only where configurations are independent draws, each trained to its end: a random search
without a scheduler. Of any other search there is one run, and nothing to take an expectation over.

Source: Dodge et al. 2019, arXiv 1909.03004; without their bias, Tang et al. 2020, arXiv 2004.14119.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln


def expected_best(scores: ArrayLike) -> NDArray[np.float64]:
    """The expected maximum of k of these N scores drawn without replacement, for k = 1 … N: (N,) -> (N,).

    Σ y_(i) · C(i − 1, k − 1) / C(N, k) over the order statistics.
    """
    y = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(y)
    i, k = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    possible = i >= k
    top = np.where(possible, i, k)  # where it is not, any value that gammaln takes
    log_share = (
        gammaln(top)
        - gammaln(k)
        - gammaln(top - k + 1)
        - (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
    )
    found: NDArray[np.float64] = y @ np.where(possible, np.exp(log_share), 0.0)
    return found


def holds(plan: Mapping[str, Any]) -> bool:
    """Whether a sweep's configurations are independent draws, all trained to their end."""
    search = plan.get("search") or {}
    return search.get("algorithm") == "random" and not search.get("scheduler")
