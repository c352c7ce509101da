from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class Adafactor(Optimizer):
    """Adaptive steps with a factored second moment and relative to the size of the weights: from `R`, `C`,
    the running means of g² over columns and rows (decay `β̂ₜ = 1 − t^τ`), `V̂ = R·C/mean(R)` and `u = g/√V̂`,
    which is scaled down to a root mean square of `clip_update` at most; `w ← w − max(10⁻³, RMS(w))·min(η,
    1/√t)·u`. Vectors keep their second moment whole. `weight_decay` is decoupled, `η·λ_wd·w`.

    T5 is fine-tuned at 1e-3, constant (Raffel et al. 2020). τ is `beta2_decay`. By torch (`Adafactor`), whose
    smallest value of V̂ stands where the paper adds 10⁻³⁰ to g².
    """

    name: ClassVar[str] = "adafactor"
    source: ClassVar[str] = (
        "Shazeer & Stern 2018, arXiv 1804.04235; rate: Raffel et al. 2020, arXiv 1910.10683, §3.1.2"
    )

    learning_rate: float = Field(default=1e-3, gt=0, le=100)
    beta2_decay: float = Field(default=-0.8, ge=-100, le=0)
    clip_update: float = Field(default=1.0, ge=1, le=1e6)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adafactor(groups, beta2_decay=self.beta2_decay, d=self.clip_update)
