"""Running statistics of BatchNorm for weights that were put together rather than trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.moments import Setting
from harness.stage import Stage

if TYPE_CHECKING:
    import torch


@contextmanager
def recomputed(setting: Setting, stage: Stage) -> Iterator[None]:
    """In the block, the BatchNorm modules of what trains in the stage have the statistics of the weights that
    are in the model now: means over one pass of the training examples in which all else is in evaluation.
    After it they have those of before (Izmailov et al. 2018, arXiv 1803.05407, §3.2). Without such modules,
    nothing."""
    norms = _norms(setting.tuned.ladder, stage)
    buffers = [buffer for module in norms for buffer in module.buffers(recurse=False)]
    before = [buffer.clone() for buffer in buffers]
    try:
        if norms:
            _pass(setting, norms)
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def _norms(ladder: Any, stage: Stage) -> list[Any]:
    from torch.nn.modules.batchnorm import _BatchNorm  # what all of torch's and timm's derive from

    places = [*enumerate(ladder.rungs), (None, ladder.head)]
    modules = (module for rung, place in places if stage.trains(rung) for module in place.modules)
    return [module for module in modules if isinstance(module, _BatchNorm) and module.track_running_stats]


def _pass(setting: Setting, norms: Sequence[torch.nn.BatchNorm2d]) -> None:
    import torch

    momenta = [module.momentum for module in norms]
    setting.tuned.model.eval()  # no dropout: it would draw from the trial's generators
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain mean over batches
        module.training = True
    try:
        with torch.no_grad():
            for batch in setting.sample(sys.maxsize):
                setting.tuned(batch)
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
            module.training = False
