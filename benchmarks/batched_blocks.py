"""Would the top blocks of several trials train faster as one batched computation, as their heads do?

One block of minilm-l6, forward and backward, for 8 members with weights of their own on 16 texts of 64 tokens
each: one after the other, and all at once through `torch.vmap`. Interleaved; prints the ratio of the medians.

    python benchmarks/batched_blocks.py
"""

from __future__ import annotations

import copy
import statistics
import time

import torch

from harness.backbones.base import Backbone
from harness.backbones.ladder import build_ladder
from harness.registry import plugins

MEMBERS, BATCH, TOKENS, ROUNDS = 8, 16, 64, 7


def main() -> None:
    torch.set_num_threads(1)
    backbone = plugins("backbones", Backbone)["minilm-l6"]()
    processor = backbone.processor("AutoTokenizer")
    model = backbone.model("AutoModelForSequenceClassification", processor, {"num_labels": 2}).eval()
    (block,) = build_ladder(model).rungs[-2].blocks
    blocks = [copy.deepcopy(block) for _ in range(MEMBERS)]
    inputs = torch.randn(MEMBERS, BATCH, TOKENS, model.config.hidden_size)
    stacked = {
        name: torch.stack([dict(each.named_parameters())[name].detach() for each in blocks]).requires_grad_()
        for name, _ in block.named_parameters()
    }

    def first(output: object) -> torch.Tensor:
        found = output[0] if isinstance(output, tuple) else output
        assert isinstance(found, torch.Tensor)
        return found

    def one_by_one() -> None:
        for each, share in zip(blocks, inputs, strict=True):
            first(each(share)).square().mean().backward()

    def at_once() -> None:
        def apply(weights: dict[str, torch.Tensor], share: torch.Tensor) -> torch.Tensor:
            return first(torch.func.functional_call(block, weights, (share,)))

        torch.vmap(apply)(stacked, inputs).square().mean().backward()

    times: dict[str, list[float]] = {"one by one": [], "at once": []}
    for _ in range(ROUNDS):
        for name, run in (("one by one", one_by_one), ("at once", at_once)):
            started = time.process_time()
            run()
            times[name].append(time.process_time() - started)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, value in medians.items():
        print(f"{name:>10}: {1e3 * value:.0f} ms")
    print(f"at once / one by one: {medians['at once'] / medians['one by one']:.2f}")


if __name__ == "__main__":
    main()
