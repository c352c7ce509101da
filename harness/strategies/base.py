"""What a part of a strategy is: which weights train, when, how fast, and what else happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import Self

from harness.moments import Moments, Setting, Strategy, Tuned
from harness.registry import Plugin
from harness.stage import Stage
from harness.weights import Weight


@dataclass(frozen=True)
class Preset:
    """A ready strategy with published defaults, usable by name in a sweep file."""

    definition: Mapping[str, Any]
    source: str


# What only one part of a strategy can decide, as a sentence about two of them says it.
WHICH = "which weights of a rung train"
WHEN = "what trains when"
SCORED = "which weights are scored"
INPUTS = "what enters the model"
RATES = "the rate of each step"
GRADIENTS = "which gradients count"
PERTURBED = "at which weights the gradient is taken"

# Turns of parts that change the number of stages.
DIVIDES, REPEATS = 1, 2


class Part(Plugin):
    """One piece of a strategy. It owns the key `name` of the strategies in a sweep file.

    Each part refines the stages that it is handed: those of an earlier `turn` first, and in alphabetical
    order of their names.

    Attributes:
        claims: what only one part of a strategy can decide (WHICH, WHEN, …): two with the same are refused.
        only_rungs: it does nothing where the head alone trains.
        only_pretrained: it does nothing where no pretrained weights train.
        sparse: only small parts of the rungs that train do (see `trains`).
        adds: it puts modules of its own into the model, and pretrained weights do not train.
        bundles: heads with it may train as one computation with those of other trials.
        turn: 0 for what narrows all stages, DIVIDES for what makes several of one, REPEATS for what repeats
            them.
        by_example: it holds what the model makes of an example against something else that is known of it,
            so that examples must not be mixed.
    """

    presets: ClassVar[Mapping[str, Preset]] = {}
    claims: ClassVar[frozenset[str]] = frozenset()
    only_rungs: ClassVar[bool] = False
    only_pretrained: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    adds: ClassVar[bool] = False
    bundles: ClassVar[bool] = False
    turn: ClassVar[int] = 0
    by_example: ClassVar[bool] = False

    # -- in the sweep file ---------------------------------------------------------------------------

    @classmethod
    def settings(cls, value: Any) -> Any:
        """Turn the short form that a sweep file may use into the part's fields."""
        return value

    def value(self) -> Any:
        """The inverse of `settings`: what a sweep file would say."""
        return self.model_dump()

    def reason_against(self, rungs: int) -> str:
        """Why this part cannot be used on a ladder of `rungs` rungs; empty if it can."""
        return ""

    def reason_against_model(self, model: Any, ladder: Any) -> str:
        """Why this part cannot be used with a model (as its configuration makes it, without weights) and its
        ladder; empty if it can."""
        return ""

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        """Why this part cannot be used with a model whose loss calls these functions of torch.nn.functional;
        empty if it can."""
        return ""

    @classmethod
    def reason_against_source(cls, task: Any, source: Any) -> str:
        """Why this part cannot be used for a task on a backbone whose source task is `source` (both a
        `tasks.base.Task`; None: it has none); empty if it can."""
        return ""

    def conflict(self, recipe: Strategy) -> str:
        """Why this part cannot be used beside the rest of a recipe, whatever the ladder; empty if it can."""
        return ""

    def reason_within(self, recipe: Strategy, rungs: int) -> str:
        """Why this part cannot be used in a recipe on a ladder of `rungs` rungs; empty if it can."""
        return ""

    def canonical(self, rungs: int) -> Self | None:
        """The simplest equal part on this ladder, None where it does nothing."""
        return self

    # -- what trains, when, how fast -----------------------------------------------------------------

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        """The stages, refined."""
        return tuple(replace(stage, sparse=True) for stage in stages) if self.sparse else stages

    def trains(self, weight: Weight) -> bool:
        """Whether a weight of a rung (or of the head) that trains does so itself."""
        return True

    def rate(self, rung: int | None, rungs: int) -> float:
        """What the learning rate of a rung (None: the head) is multiplied by."""
        return 1.0

    def extra(self) -> float:
        """What a training step takes beyond the forward and backward pass of its batch, as a multiple of
        these: 1/3 is a forward pass, 2/3 one with gradients of what enters alone."""
        return 0.0

    # -- in a trial ----------------------------------------------------------------------------------

    def prepare(self, tuned: Tuned, frozen: int) -> None:
        """Change the model before training, above the first `frozen` rungs, which no stage trains. Random
        numbers come from torch's global generator, seeded for this part. What is added leaves the ladder as
        it was, and does nothing in rungs that have not trained.

        Raises: InputError if the model cannot have it.
        """

    def bind(self, setting: Setting) -> Moments | None:
        """What it does while a trial trains; None if it does nothing then. The model is as it was before
        training, also where an interrupted trial goes on."""
        return None


class Valued(Part):
    """A part with a single setting, which a sweep file writes as the part's value: `name: value`."""

    @classmethod
    def settings(cls, value: Any) -> Any:
        (only,) = cls.model_fields
        return {only: value}

    def value(self) -> Any:
        (only,) = type(self).model_fields
        return getattr(self, only)


class Switch(Valued):
    """A part that a sweep file turns on: `name: true`."""

    on: bool = True

    def canonical(self, rungs: int) -> Self | None:
        return self if self.on else None


class Weighted(Part):
    """A part that adds λ times something to the loss. λ is `strength`, and a number alone stands for it."""

    strength: float = Field(ge=0, le=1e6)

    @classmethod
    def settings(cls, value: Any) -> Any:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {"strength": value} if plain else value

    def canonical(self, rungs: int) -> Self | None:
        return self if self.strength > 0 else None


def weights_of(tuned: Tuned, stage: Stage, parts: Sequence[Part] = ()) -> list[Weight]:
    """What trains in a stage, from the input to the head."""
    found = (
        Weight(
            name,
            value,
            None if name in tuned.anew else tuned.reference.get(name),
            rung,
            tuned.model.get_submodule(name.rpartition(".")[0]),
        )
        for rung, name, value in tuned.ladder.parameters()
        if stage.trains(rung)
    )
    return [weight for weight in found if all(part.trains(weight) for part in parts)]
