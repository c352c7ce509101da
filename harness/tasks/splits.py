"""Carves missing splits from train and caps sizes, stratified, by a fixed seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import Mistakes

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")
# Share of train that becomes a missing validation or test split when the task names no size.
DEFAULT_SHARE = 0.1


@dataclass(frozen=True)
class Sizes:
    train: int | None
    validation: int | None
    test: int | None


def pick(
    count: int, size: int, strata: np.ndarray[Any, Any] | None, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """`size` of `count` indices, each stratum in proportion (largest remainder), sorted.

    Args:
        strata: shape (count,), the class of every example; None draws at random.
    """
    if strata is None:
        return np.sort(rng.permutation(count)[:size])
    _, inverse, counts = np.unique(strata, return_inverse=True, return_counts=True)
    exact = counts * size / count
    quota = np.floor(exact).astype(int)
    order = np.argsort(-(exact - quota), kind="stable")
    quota[order[: size - quota.sum()]] += 1
    chosen = [rng.permutation(np.flatnonzero(inverse == k))[:n] for k, n in enumerate(quota)]
    return np.sort(np.concatenate(chosen))


def carve(
    raw: Mapping[str, Dataset],
    sizes: Sizes,
    seed: int,
    strata: Callable[[Dataset], np.ndarray[Any, Any] | None],
    place: str,
) -> dict[str, Dataset]:
    """All three splits.

    A missing test split is carved from train first, then a missing validation split, and train is
    capped last, so that the training size never changes what is tested.

    Raises: InputError for a split that is or becomes empty, or a size that train cannot give.
    """
    mistakes = Mistakes()
    splits = dict(raw)
    train = splits["train"]
    for role, stream in (("test", 1), ("validation", 2)):
        wanted = getattr(sizes, role)
        rng = np.random.default_rng([seed, stream])
        if role in splits:
            if wanted is not None and wanted < len(splits[role]):
                splits[role] = splits[role].select(pick(len(splits[role]), wanted, strata(splits[role]), rng))
        else:
            size = wanted if wanted is not None else max(1, round(DEFAULT_SHARE * len(train)))
            if size >= len(train):
                mistakes.add(
                    f"{place}.{role}_size", f"carving {size} examples leaves nothing of train's {len(train)}"
                )
                continue
            chosen = pick(len(train), size, strata(train), rng)
            splits[role] = train.select(chosen)
            train = train.select(np.setdiff1d(np.arange(len(train)), chosen))
    if sizes.train is not None and sizes.train < len(train):
        train = train.select(pick(len(train), sizes.train, strata(train), np.random.default_rng([seed, 3])))
    splits["train"] = train
    for role in SPLITS:
        if role in splits and len(splits[role]) == 0:
            mistakes.add(place, f"the {role} split is empty")
    mistakes.raise_any()
    return {role: splits[role] for role in SPLITS}
