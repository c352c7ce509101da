from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class AdamW(Optimizer):
    """Adam with decoupled weight decay: `w ← w − η(m̂/(√v̂ + ε) + λ_wd·w)`.

    The default rate is that of the corrected BERT recipe (Mosbach et al. 2021: 2e-5, bias correction,
    10 % warm-up), the decay that of BERT (Devlin et al. 2019: 0.01). Without `bias_correction` it is the
    optimiser that BERT was first fine-tuned with, which takes the moments m and v as they are, so that the
    first steps are some three times as long.
    """

    name: ClassVar[str] = "adamw"
    source: ClassVar[str] = (
        "Loshchilov & Hutter 2019, arXiv 1711.05101; rate: Mosbach et al. 2021, arXiv 2006.04884"
    )
    later: ClassVar[frozenset[str]] = frozenset({"bias_correction"})

    learning_rate: float = Field(default=2e-5, gt=0, le=100)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    bias_correction: bool = True

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        betas = (self.beta1, self.beta2)
        if not self.bias_correction:
            built: torch.optim.Optimizer = _bert_adam()(groups, {"betas": betas, "eps": self.epsilon})
            return built
        # fused: one pass over the weights; without it a step over 22.7 M of them takes longer than the batch
        return torch.optim.AdamW(groups, betas=betas, eps=self.epsilon, fused=True)


@cache
def _bert_adam() -> Any:
    """A class of its own, since torch's optimisers always correct; made late, as torch is imported late."""
    import torch

    class BertAdam(torch.optim.Optimizer):
        """`w ← w − η(m/(√v + ε) + λ_wd·w)`"""

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                weights = [weight for weight in group["params"] if weight.grad is not None]
                if not weights:
                    continue
                gradients = [weight.grad for weight in weights]
                for weight in weights:
                    if not self.state[weight]:
                        self.state[weight] = {
                            name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")
                        }
                means = [self.state[weight]["exp_avg"] for weight in weights]
                squares = [self.state[weight]["exp_avg_sq"] for weight in weights]
                beta1, beta2 = group["betas"]
                torch._foreach_lerp_(means, gradients, 1 - beta1)
                torch._foreach_mul_(squares, beta2)
                torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
                scales = torch._foreach_sqrt(squares)
                torch._foreach_add_(scales, group["eps"])
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_addcdiv_(weights, means, scales, -group["lr"])

    return BertAdam
