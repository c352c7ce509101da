"""Forward FLOPs of a model by rung, counted by running it once on real inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder
from harness.stage import Stage


def forward_flops(model: Any, ladder: Ladder, batch: dict[str, Any], examples: int) -> list[float]:
    """FLOPs of one example's forward pass, shape (rungs + 1,): every rung, then the head.

    Arguments of `batch` that the model does not take are left out. Counts what torch's counter knows:
    matrix products, convolutions, attention. What happens outside the blocks and before the head is counted
    with rung 0, where the stem is.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    model.eval()
    # the counter does not know the CPU's fused attention, but the matrix products that it stands for
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(**accepted(model, batch))
    model.train(was_training)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    prefix = type(model).__name__
    names = {id(module): f"{prefix}.{name}" if name else prefix for name, module in model.named_modules()}

    def within(modules: Iterable[Any]) -> int:
        return sum(by_module.get(names[id(module)], 0) for module in modules)

    blocks = [within(rung.blocks) for rung in ladder.rungs[1:]]
    inner = {id(child) for module in ladder.head.modules for child in module.children()}
    head = within(module for module in ladder.head.modules if id(module) not in inner)
    stem = max(0, by_module.get(prefix, 0) - sum(blocks) - head)
    return [count / examples for count in (stem, *blocks, head)]


def training_flops(flops: list[float], stage: Stage) -> float:
    """FLOPs of one example's training step: the forward pass; the same again for gradients of inputs, from
    the lowest rung that trains on; and again for the gradients of weights, for every part that trains."""
    *rungs, head = flops
    lowest = stage.frozen if stage.upto is None or stage.upto > stage.frozen else len(rungs)
    inputs = sum(flops[lowest:])
    weights = 0.0 if stage.sparse else sum(f for index, f in enumerate(rungs) if stage.trains(index))
    return sum(flops) + inputs + weights + (head if stage.head else 0.0)
