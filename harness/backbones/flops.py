"""Forward FLOPs of a model by rung, counted by running it once on real inputs."""

from __future__ import annotations

from typing import Any

from harness.backbones.ladder import Ladder, base_of


def forward_flops(model: Any, ladder: Ladder, batch: dict[str, Any], examples: int) -> list[float]:
    """FLOPs of one example's forward pass, shape (rungs + 1,): every rung, then the head.

    Counts what torch's counter knows: matrix products, convolutions, attention. What happens outside
    the blocks and before the head is counted with rung 0, where the stem is.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    model.eval()
    # the counter does not know the CPU's fused attention, but the matrix products that it stands for
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(**batch)
    model.train(was_training)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    prefix = type(model).__name__
    base = f"{prefix}.{model.base_model_prefix}"
    names = {id(module): name for name, module in base_of(model).named_modules()}
    blocks = [by_module.get(f"{base}.{names[id(rung.modules[0])]}", 0) for rung in ladder.rungs[1:]]
    inside = by_module.get(base, 0)
    head = by_module.get(prefix, inside) - inside
    return [count / examples for count in (max(0, inside - sum(blocks)), *blocks, head)]


def training_flops(flops: list[float], frozen: int) -> float:
    """FLOPs of one example's training step: the forward pass, and twice that again for every part that
    trains (gradients of its inputs and of its weights)."""
    return sum(flops) + 2 * sum(flops[frozen:])
