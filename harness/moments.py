"""What parts of a strategy do while a trial trains: the moments at which the loop asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from harness.stage import Stage
from harness.weights import Weight

if TYPE_CHECKING:
    import torch

Batch: TypeAlias = dict[str, Any]
Forward: TypeAlias = Callable[[Batch], Any]


def copied(batch: Batch) -> Batch:
    """A batch for one more pass: some models write into what they are given by frozen rungs."""
    return {name: value.copied() if hasattr(value, "copied") else value for name, value in batch.items()}


class Strategy(Protocol):
    """A fully specified strategy (`recipe.Recipe`): plug-ins with their settings."""

    @property
    def optimizer(self) -> Any: ...
    @property
    def regularizer(self) -> Any: ...
    @property
    def training(self) -> Any: ...
    @property
    def parts(self) -> tuple[Any, ...]: ...

    def stages(self, rungs: int) -> tuple[Stage, ...]: ...


class Tuned(Protocol):
    """A model under training.

    Attributes:
        model: with its head.
        ladder: its rungs and head (`backbones/ladder.py`).
        reference: θ⁰ by parameter name, for every pretrained parameter of the ladder.
        anew: names of ladder parameters whose pretrained values a part has thrown away.
    """

    model: Any
    ladder: Any
    reference: dict[str, torch.Tensor]
    anew: set[str]

    def __call__(self, batch: Batch) -> Any:
        """The model's outputs, with the loss where the batch has labels."""

    def weights(self, stage: Stage, parts: Sequence[Any] = ()) -> list[Weight]:
        """What trains in a stage, from the input to the head."""


class Setting(Protocol):
    """The trial that a part is bound to.

    Attributes:
        stages: what trains when.
        steps: optimiser steps of all stages together; where stages are repeated from the start, of one run.
        steps_per_epoch: of these.
    """

    @property
    def tuned(self) -> Tuned: ...
    @property
    def recipe(self) -> Strategy: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def stages(self) -> tuple[Stage, ...]: ...
    @property
    def steps(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...

    def origin(self) -> Any:
        """The model as it came from disk, on the device, in evaluation; never to be changed."""

    def sample(self, count: int) -> Iterator[Batch]:
        """Up to `count` training examples, drawn from the trial's seed, as batches on the device; what the
        frozen rungs give is not among them."""

    def source(self) -> tuple[Any, Iterator[Batch]] | None:
        """The model of the backbone's source task with that task's head, in evaluation, and batches of that
        task's training examples, both on the device; None for a backbone without one."""

    def laddered(self, model: Any) -> Tuned:
        """A model that is not trained here (that of `origin` or `source`) with its ladder, to be called with
        batches of any trial: what frozen rungs gave is left out."""


class Moments:
    """What one part does during one trial. Every method may be left out.

    Random numbers come from torch's global generator, which is the trial's own. What must outlive an
    interruption is given by `state` and taken back by `load`. Where training starts again from the first
    weights (`Stage.restart`), a part is bound anew, unless it says that it `outlasts` that.

    Attributes:
        outer: its `forward` is handed what all other parts make of the model's.
    """

    outlasts: bool = False
    outer: bool = False

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        """A stage begins (or goes on after an interruption), in which these weights train."""

    def restarting(self) -> None:
        """A run of stages is over and its kept weights are in the model, which is then put back to where it
        started."""

    def computing(self) -> AbstractContextManager[None]:
        """Around forward and backward passes of one step."""
        return nullcontext()

    def forward(self, inner: Forward, batch: Batch) -> Any:
        """The outputs of a training step, whose `loss` is what is minimised."""
        return inner(batch)

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        """The gradients are there, clipped. They, and the rates of this step alone (`lr` of the optimiser's
        groups, which also carry `rung` and `pretrained`), may be changed."""

    def stepped(self) -> None:
        """The weights have moved."""

    def scoring(self) -> AbstractContextManager[None]:
        """Around evaluations; in it the model has the weights that are to be scored, and kept."""
        return nullcontext()

    def finished(self, score: Callable[[], float]) -> bool | None:
        """Training is over, the kept weights (of the last run of stages) are in the model.

        Args:
            score: the primary metric on validation of what is in the model, higher is better.

        Returns: whether the model now is another one than that of any evaluation, so that it is evaluated
            again.
        """
        return None

    def settled(self) -> None:
        """No part changes what the model computes any more: it may be said with fewer weights."""

    def state(self) -> Mapping[str, Any]:
        """Tensors and plain values."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
