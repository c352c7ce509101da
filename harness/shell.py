"""Models without weights, on which it is tried whether they can have what a strategy makes of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder, build_ladder
from harness.errors import InputError, Mistakes, bad
from harness.recipe import Recipe
from harness.stage import Stage
from harness.strategies.base import Part, weights_of
from harness.tasks.base import Batch
from harness.weights import Weight


@dataclass
class Shell:
    """A model of a backbone's structure, whose weights are of no interest, in place of one under training
    (`moments.Tuned`), with a batch that it can read.

    Attributes:
        losses: the functions of torch.nn.functional that its loss calls.
        passed: compositions of parts that it can have.
    """

    model: Any
    ladder: Ladder
    batch: Batch
    losses: list[str]
    passed: set[str] = field(default_factory=set)
    reference: dict[str, Any] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)

    def __call__(self, batch: Batch) -> Any:
        return self.model(**accepted(self.model, batch))

    def put(self, part: Part, frozen: int) -> None:
        """Give the model what a part adds.

        Raises: InputError if it cannot have that.
        """
        import torch

        rungs = [rung.name for rung in self.ladder.rungs]
        with torch.random.fork_rng(devices=[]):
            part.prepare(self, frozen)
        self.ladder = build_ladder(self.model)
        if [rung.name for rung in self.ladder.rungs] != rungs:
            raise bad(part.name, "what it adds makes another ladder of the model")

    def run(self) -> None:
        import torch

        self.model.eval()
        with torch.no_grad():
            self(self.batch)

    def copied(self) -> Shell:
        """Another with the same weights, which may be given modules."""
        model = copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()})
        return Shell(model, build_ladder(model), self.batch, self.losses)

    def weights(self, stage: Stage, parts: Sequence[Part] = ()) -> list[Weight]:
        """What trains in a stage."""
        return weights_of(self, stage, parts)


def check_parts(recipe: Recipe, shell: Shell) -> None:
    """Raises: InputError at a part that the model cannot have, or that finds nothing in it to train."""
    mistakes = Mistakes()
    for part in recipe.parts:
        by_loss = part.reason_against_losses(shell.losses)
        if reason := by_loss or part.reason_against_model(shell.model, shell.ladder):
            mistakes.add(part.name, reason)
    mistakes.raise_any()
    stages = tuple(replace(stage, epochs=1) for stage in recipe.stages(len(shell.ladder.rungs)))
    composition = repr((recipe.parts, stages))
    if composition in shell.passed or not any(stage.sparse for stage in stages):
        return
    family = shell.model.config.model_type
    adding = [part for part in recipe.parts if part.adds]
    tried = shell.copied() if adding else shell
    try:
        for part in adding:
            tried.put(part, min(stage.frozen for stage in stages))
        if adding:
            tried.run()
    except InputError:
        raise
    except Exception as error:
        reason = f"does not go into a {family} model: {type(error).__name__}: {error}"
        raise bad(adding[0].name, reason) from error
    moving = [w for stage in stages for w in tried.weights(stage) if w.rung is not None]
    for part in recipe.parts:
        if not any(part.trains(weight) for weight in moving):
            raise bad(part.name, f"finds nothing in the rungs of a {family} model that it could train")
    for stage in stages:
        if not tried.weights(stage, recipe.parts):
            others = ((part, [p for p in recipe.parts if p is not part]) for part in recipe.parts)
            guilty = next((p for p, rest in others if tried.weights(stage, rest)), recipe.parts[0])
            raise bad(guilty.name, f"leaves a stage in which nothing of a {family} model trains")
    shell.passed.add(composition)
