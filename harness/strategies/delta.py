from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness import pulse
from harness.moments import Batch, Forward, Moments, Setting
from harness.stage import Stage
from harness.strategies.base import Part, Preset
from harness.strategies.features import Seen, entering, leaving, outlet, pooled
from harness.strategies.losses import with_loss
from harness.weights import Weight

if TYPE_CHECKING:
    import torch

# How the authors train the head that channels are weighed with.
_RATE, _MOMENTUM, _DECAY, _EPOCHS = 0.01, 0.9, 1e-4, 10
# Weights of channels are a softmax over standard scores divided by this, as in the authors' code.
_SOFTENED = 5.0


class Delta(Part):
    """DELTA: the feature maps of the rungs that train stay near the pretrained model's,
    `L + (α/2)·Σ_l C_l·Σ_j W_lj·‖F_lj(x) − F⁰_lj(x)‖²/n_l + (β/2)·‖head‖²`: channel j of C_l at rung l with
    n_l places, averaged over examples.

    A channel's weight says how much the loss rises when it is shut off in the pretrained model below a head
    trained on it: `W_l = softmax(z_l/5)` of standard scores z_l of that rise, to first order, `−Σ ∂L/∂F·F`,
    where the authors shut channels off one by one. `attention: false` leaves all weights equal.

    β (`head_strength`) is 0.01, as in the authors' code; its α of 0.01 is for the sum over a batch of 64:
    here α (`strength`) is 0.64. What leaves a rung counts, at every rung, where the authors take the last
    convolution of each of four stages.

    Attributes:
        samples: training examples that the head for the weights is trained on, ten times each.
        weighed: how many of them the rise is measured on.
    """

    name: ClassVar[str] = "delta"
    source: ClassVar[str] = "Li et al. 2019, arXiv 1901.09229"
    only_rungs: ClassVar[bool] = True
    by_example: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Preset]] = {
        "delta": Preset({"delta": {"strength": 0.64}}, source),
        "delta-without-attention": Preset({"delta": {"strength": 0.64, "attention": False}}, source),
    }

    strength: float = Field(default=0.64, ge=0, le=1e9)
    head_strength: float = Field(default=0.01, ge=0, le=1e9)
    attention: bool = True
    samples: int = Field(default=1024, ge=2, le=10**9)
    weighed: int = Field(default=256, ge=2, le=10**9)

    def canonical(self, rungs: int) -> Self | None:
        return self if self.strength > 0 or self.head_strength > 0 else None

    def extra(self) -> float:
        return 1 / 3 if self.strength > 0 else 0.0

    def bind(self, setting: Setting) -> Moments:
        return _Near(self, setting)


class _Near(Moments):
    def __init__(self, part: Delta, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._weights: dict[int, torch.Tensor] | None = None

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        training = [weight.rung for weight in weights if weight.rung is not None]
        self._first = max(1, min(training, default=0))
        self._acts = bool(training) and self._part.strength > 0
        self._head = [weight.value for weight in weights if weight.rung is None]
        if self._acts:
            self._origin = self._setting.laddered(self._setting.origin())
            rungs = self._origin.ladder.rungs
            self._outlets = {number: outlet(rungs[number]) for number in range(1, len(rungs))}
        if self._acts and self._part.attention and self._weights is None:
            self._weights = self._weighed()

    def forward(self, inner: Forward, batch: Batch) -> Any:
        import torch

        setting, part = self._setting, self._part
        if not self._acts:
            outputs = inner(batch)
            return with_loss(outputs, outputs.loss + self._of_head())
        with torch.no_grad(), leaving(self._origin.ladder, self._first) as before:
            self._origin(batch)
        with leaving(setting.tuned.ladder, self._first) as now:
            outputs = inner(batch)
        apart = [self._distance(rung, now[rung], before[rung]) for rung in before.keys() & now.keys()]
        near = part.strength / 2 * torch.stack(apart).sum()
        return with_loss(outputs, outputs.loss + near + self._of_head())

    def state(self) -> Mapping[str, Any]:
        return {"weights": self._weights}

    def load(self, state: Mapping[str, Any]) -> None:
        self._weights = state["weights"]

    def _of_head(self) -> Any:
        squares = sum(weight.square().sum() for weight in self._head)
        return self._part.head_strength / 2 * squares

    def _distance(self, rung: int, now: Seen, before: Seen) -> torch.Tensor:
        """`C·Σ_j W_j·‖F_j − F⁰_j‖²/n`, averaged over examples."""
        apart = (now.value.float() - before.value.float()).square()
        squares = pooled(self._channels_last(rung, apart), now.valid)
        if self._weights is None or rung not in self._weights:
            return squares.sum(-1).mean()
        weights = self._weights[rung].to(squares.device)
        return squares.shape[-1] * (squares * weights).sum(-1).mean()

    def _channels_last(self, rung: int, values: torch.Tensor) -> torch.Tensor:
        return values.movedim(self._outlets[rung].axis(values), -1)

    def _weighed(self) -> dict[int, torch.Tensor]:
        """For each rung the weights of its channels, shape (channels,), with a sum of 1. Draws nothing, so
        that a trial that goes on and one that never stopped draw the same."""
        import torch

        setting = self._setting
        origin = setting.origin()
        head = {id(p) for _, p in self._origin.ladder.head.parameters}
        kept = {id(p): p for p in origin.parameters() if id(p) not in head}  # all but the head is shared
        model = setting.laddered(copy.deepcopy(origin, kept))
        batches = list(setting.sample(self._part.samples))
        self._probe(model, batches)
        rises: dict[int, torch.Tensor] = {}
        examples = 0
        for batch in batches:
            if examples >= self._part.weighed:
                break
            examples += len(batch["labels"])
            with entering(model.ladder, 1, _leaf), leaving(model.ladder, 1) as seen:
                loss = model(batch).loss
            maps = [each.value for each in seen.values()]
            for rung, found, slope in zip(seen, maps, torch.autograd.grad(loss, maps), strict=True):
                rise = -(slope * found).detach() * len(batch["labels"])  # the loss is a mean
                rise = self._channels_last(rung, rise).flatten(0, -2).sum(0)
                rises[rung] = rises.get(rung, 0) + rise
        return {rung: _attention(rise) for rung, rise in rises.items()}

    def _probe(self, model: Any, batches: Sequence[Batch]) -> None:
        """Train the model's head alone."""
        import torch

        head = [parameter for _, parameter in model.ladder.head.parameters]
        optimizer = torch.optim.SGD(head, lr=_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
        last = len(model.ladder.rungs)
        for _ in range(_EPOCHS):
            for batch in batches:
                pulse.come_round()
                with entering(model.ladder, last, lambda hidden, valid: hidden.detach()):
                    gradients = torch.autograd.grad(model(batch).loss, head, allow_unused=True)
                for parameter, gradient in zip(head, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()


def _leaf(hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    return hidden.detach().requires_grad_()


def _attention(rise: torch.Tensor) -> torch.Tensor:
    scores = (rise - rise.mean()) / rise.std(correction=0).clamp(min=1e-12)
    return (scores / _SOFTENED).softmax(0)
