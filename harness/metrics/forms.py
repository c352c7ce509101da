"""How a metric of a split comes from what each of its examples adds.

With that a metric can be computed on resampled examples, thousands of times, without computing it anew from
predictions; the results are the same. A metric names its form and gives the parts, shape (examples, k); they
are stored beside the predictions. Pure numpy: reports need no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

_AT_ONCE = 1 << 24  # numbers in one array of resampled ranks


class Form(ABC):
    """Computes a metric from parts, of shape (examples, k) with k as the form says."""

    @abstractmethod
    def resampled(self, parts: Array, weights: Array) -> Array:
        """The metric when example i occurs `weights[b, i]` times: (draws, examples) -> (draws,)."""

    @abstractmethod
    def without_each(self, parts: Array) -> Array:
        """The metric of all examples but one, for each of them: (examples,)."""

    def score(self, parts: Array) -> float:
        """The metric of the split."""
        return float(self.resampled(parts, np.ones((1, len(parts))))[0])


@dataclass(frozen=True)
class Sums(Form):
    """A function of sums over examples.

    Attributes:
        terms: (examples, k) -> (examples, m), what is summed.
        value: (…, m) -> (…), the metric from the sums.
    """

    terms: Callable[[Array], Array]
    value: Callable[[Array], Array]

    def resampled(self, parts: Array, weights: Array) -> Array:
        return self.value(weights @ self.terms(parts))

    def without_each(self, parts: Array) -> Array:
        terms = self.terms(parts)
        return self.value(terms.sum(axis=0) - terms)


class Ranks(Form):
    """Spearman's correlation of two columns: Pearson's of their ranks, ties sharing the mean of theirs."""

    def resampled(self, parts: Array, weights: Array) -> Array:
        step = max(1, _AT_ONCE // max(1, len(parts)))
        found = [self._value(parts, weights[at : at + step]) for at in range(0, len(weights), step)]
        return np.concatenate(found)

    def without_each(self, parts: Array) -> Array:
        step = max(1, _AT_ONCE // max(1, len(parts)))  # n × n ranks: 5 s for 20,000 examples
        found = []
        for at in range(0, len(parts), step):
            weights = np.ones((min(step, len(parts) - at), len(parts)))
            weights[np.arange(len(weights)), at + np.arange(len(weights))] = 0.0
            found.append(self._value(parts, weights))
        return np.concatenate(found)

    def _value(self, parts: Array, weights: Array) -> Array:
        x, y = (_ranks(column, weights) for column in parts.T)
        total = weights.sum(axis=1, keepdims=True)
        x, y = (r - (weights * r).sum(axis=1, keepdims=True) / np.maximum(total, 1) for r in (x, y))
        xx, yy, xy = ((weights * a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
        return _correlation(xx, yy, xy, scale=np.maximum(total[:, 0], 1) ** 3)


def _ranks(column: Array, weights: Array) -> Array:
    """The rank of every example among its copies and all others: (draws, examples)."""
    order = np.argsort(column, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(column[order]) != 0])
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(tied, axis=1) - (tied - 1) / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = np.repeat(middle, np.diff(np.r_[starts, len(column)]), axis=1)
    return ranks


def _correlation(xx: Array, yy: Array, xy: Array, scale: Array | float) -> Array:
    """0 where a side is constant, or so nearly that only rounding is left of its variance."""
    spread = (xx > 1e-12 * scale) & (yy > 1e-12 * scale)
    product = np.where(spread, xx * yy, 1.0)
    return np.where(spread, np.clip(xy / np.sqrt(product), -1.0, 1.0), 0.0)


def _pearson(sums: Array) -> Array:
    x, y, xx, yy, xy, n = np.moveaxis(sums, -1, 0)
    n = np.maximum(n, 1)
    return _correlation(xx - x * x / n, yy - y * y / n, xy - x * y / n, scale=n)


def _products(parts: Array) -> Array:
    # Of unit spread around 0: far from 0 a variance is the small difference of two large sums.
    deviation = parts.std(axis=0)
    x, y = ((parts - parts.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).T
    return np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)


def _classes(parts: Array) -> tuple[Array, Array]:
    """Which class each example was said to be of, and which it is of, in columns of 0 and 1."""
    known, places = np.unique(parts, return_inverse=True)
    eye = np.eye(len(known))
    places = places.reshape(parts.shape)
    return eye[places[:, 0]], eye[places[:, 1]]


def _ratio(sums: Array) -> Array:
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], 1.0)


def _ratios(sums: Array) -> Array:
    upper, lower = np.split(sums, 2, axis=-1)
    there = lower > 0
    each = upper / np.where(there, lower, 1.0)
    mean: Array = (each * there).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return mean


def _overlaps(parts: Array) -> Array:
    said, true = _classes(parts)
    return np.concatenate([2 * said * true, said + true], axis=1)


def _confusion(parts: Array) -> Array:
    said, true = _classes(parts)
    return np.concatenate([said, true, (said * true).sum(axis=1, keepdims=True)], axis=1)


def _matthews(sums: Array) -> Array:
    said, true = np.split(sums[..., :-1], 2, axis=-1)
    right, n = sums[..., -1], true.sum(axis=-1)
    product = (n**2 - (said**2).sum(axis=-1)) * (n**2 - (true**2).sum(axis=-1))
    both = (said * true).sum(axis=-1)
    return np.where(product > 0, (right * n - both) / np.sqrt(np.where(product > 0, product, 1.0)), 0.0)


FORMS: dict[str, Form] = {
    # Σa / n; k = 1
    "mean": Sums(lambda parts: np.c_[parts, np.ones(len(parts))], _ratio),
    # Σa / Σb, or Σa where Σb is 0; k = 2
    "ratio": Sums(lambda parts: parts, _ratio),
    # The mean of Σaᵢ / Σbᵢ over the classes i with Σbᵢ > 0; k = 2 × classes, every a before every b
    "ratios": Sums(lambda parts: parts, _ratios),
    # From predicted and true class; k = 2. F1's mean over the classes that occur (scikit-learn's "macro")
    "macro_f1": Sums(_overlaps, _ratios),
    # Matthews 1975, Gorodkin 2004
    "matthews": Sums(_confusion, _matthews),
    # From predicted and true value; k = 2
    "pearson": Sums(_products, _pearson),
    "spearman": Ranks(),
}
