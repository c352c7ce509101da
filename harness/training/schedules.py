"""How the rates of a stage go: a shape that starts, peaks at 1 and falls, times each group's own rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from harness.recipe import Training

# What transformers calls them.
_NAMES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "polynomial": "polynomial",
    "inverse-sqrt": "inverse_sqrt",
}
# Of one-cycle: the peak over the first rate, and that over the last (defaults of torch and fastai).
_FIRST, _LAST = 25.0, 1e4


def schedule_of(settings: Training, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The schedule of a stage of so many optimiser steps; to be moved on after each of them."""
    warmup = math.ceil(settings.warmup * steps)
    if settings.schedule == "one-cycle":
        schedule: LRScheduler = LambdaLR(optimizer, partial(_one_cycle, warmup, steps))
    elif settings.schedule == "polynomial":
        options = {"power": settings.power, "lr_end": 0.0}
        longer = max(steps, warmup + 1)  # its decay divides by the steps after the warm-up
        schedule = get_scheduler(_NAMES["polynomial"], optimizer, warmup, longer, options)
    else:
        schedule = get_scheduler(_NAMES[settings.schedule], optimizer, warmup, steps)
    if settings.floor == 0:
        return schedule
    assert isinstance(schedule, LambdaLR)
    return LambdaLR(optimizer, [partial(_above, settings.floor, shape) for shape in schedule.lr_lambdas])


def _above(floor: float, shape: Callable[[int], float], step: int) -> float:
    return floor + (1 - floor) * shape(step)


def _one_cycle(warmup: int, steps: int, step: int) -> float:
    """Half a cosine up and half a cosine down. Torch's own `OneCycleLR` ends at the step before, divides by
    zero where the warm-up is one step, and moves momentum too."""
    if step < warmup:
        return _eased(1 / _FIRST, 1.0, step / warmup)
    return _eased(1.0, 1 / (_FIRST * _LAST), (step - warmup) / max(1, steps - warmup))


def _eased(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
