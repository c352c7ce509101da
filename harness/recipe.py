"""A recipe: one fully specified strategy, i.e. everything that decides a trial but data, weights and seed.

A strategy in a sweep file is a tree of settings with spaces in it; filling the spaces and parsing the tree
gives a recipe. Its canonical form is the simplest recipe that trains the same way, so that equal recipes
have equal hashes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from harness.errors import InputError, Mistake, Mistakes, bad, nearest
from harness.optimizers.base import Optimizer
from harness.registry import Plugin, build, find, plugins
from harness.regularizers.base import Regularizer
from harness.space import Tree
from harness.stage import Stage
from harness.strategies.base import Part

DEFAULT_OPTIMIZER = "adamw"
# The sections that name a plug-in, and the one that is meant where none is named.
PLUGINS = {"optimizer": DEFAULT_OPTIMIZER, "regularizer": None}
SECTIONS = ("optimizer", "regularizer", "training")
# No model has as many blocks: what cannot be right on this ladder is wrong at sight.
LONGEST_LADDER = 10**6


class Training(Plugin):
    """Settings of the loop.

    Attributes:
        epochs: passes over train. Default and warm-up follow Devlin et al. 2019 and Mosbach et al. 2021.
        batch_size: examples per optimiser step.
        accumulation: equal pieces in which a batch passes through the model, to save memory.
        evaluation_batch_size: examples per forward pass of an evaluation.
        max_length: longest input in the units of the task (tokens for text); longer ones are cut.
        warmup: share of a stage's steps in which the rates rise, linearly but for one-cycle.
        schedule: how the rates go on from there: they fall linearly, as a half cosine, as a polynomial of
            degree `power` or with the inverse square root of the step (Vaswani et al. 2017), or they stay;
            one-cycle rises and falls as half cosines, from 1/25 of the peak and to 1/25e4 (Smith & Topin
            2018), momentum staying.
        power: of the polynomial.
        floor: what the rates rise from and fall to, as a share of the peak: `floor + (1 − floor)·schedule`.
            With the linear schedule, a warm-up of 0.1 and 1/32 it is the slanted triangle of ULMFiT (Howard &
            Ruder 2018).
        clip: largest norm of the whole gradient; null leaves it as it is.
        precision: fp32, or bf16/fp16 through autocast (weights stay in fp32).
        bucketing: batches of examples of similar length; changes the order of the data.
        evaluate_every: optimiser steps between evaluations; null evaluates at the end of each epoch.
        patience: evaluations without improvement after which a trial ends; null trains to the end.
        keep: the weights that are scored at the end, `best` by the primary validation metric or `last`.
    """

    name: ClassVar[str] = "training"
    later: ClassVar[frozenset[str]] = frozenset({"power", "floor"})

    epochs: int = Field(default=3, ge=1, le=100_000)
    batch_size: int = Field(default=16, ge=1, le=1_000_000)
    accumulation: int = Field(default=1, ge=1)
    evaluation_batch_size: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=128, ge=1)
    warmup: float = Field(default=0.1, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant", "polynomial", "inverse-sqrt", "one-cycle"] = "linear"
    power: float = Field(default=1.0, gt=0, le=100)
    floor: float = Field(default=0.0, ge=0, le=1)
    clip: float | None = Field(default=1.0, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    bucketing: bool = False
    evaluate_every: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)
    keep: Literal["best", "last"] = "best"

    def canonical(self) -> Training:
        """The simplest equal settings."""
        if self.schedule != "polynomial":
            return self.model_copy(update={"power": 1.0})
        return self.model_copy(update={"schedule": "linear"}) if self.power == 1 else self


@dataclass(frozen=True)
class Recipe:
    optimizer: Optimizer
    regularizer: Regularizer | None
    training: Training
    parts: tuple[Part, ...]

    def stages(self, rungs: int) -> tuple[Stage, ...]:
        """What trains when, on a ladder of `rungs` rungs."""
        stages: tuple[Stage, ...] = (Stage(self.training.epochs),)
        for part in sorted(self.parts, key=lambda part: part.turn):
            stages = part.stages(stages, rungs)
        return stages

    @property
    def passes(self) -> float:
        """What a training step takes, as a multiple of one forward and backward pass."""
        return 1.0 + sum(part.extra() for part in self.parts)

    def check(self, rungs: int, place: str) -> None:
        """Raises: InputError for parts that the ladder cannot carry."""
        mistakes = Mistakes()
        for part in self.parts:
            reason = part.reason_against(rungs)
            if reason:
                mistakes.add(f"{place}.{part.name}", reason)
        mistakes.raise_any()
        for part in _effective(self.parts, rungs):
            reason = part.reason_within(self, rungs)
            if reason:
                mistakes.add(f"{place}.{part.name}", reason)
        mistakes.raise_any()
        stages = self.stages(rungs)
        moving = [any(stage.trains(rung) for rung in range(rungs)) for stage in stages]
        if not all(some or stage.head for some, stage in zip(moving, stages, strict=True)):
            reason = "what trains when and what is frozen leave a stage in which nothing trains"
            raise bad(place, reason, f"the ladder has {rungs} rungs")
        if not any(moving) and not all(stage.only_head(rungs) for stage in stages):
            reason = "what trains when and what is frozen leave nothing of the ladder to train"
            raise bad(place, reason, f"the ladder has {rungs} rungs; `freeze: all` trains the head alone")

    def canonical(self, rungs: int) -> Recipe:
        """The simplest recipe that trains the same way."""
        parts = _effective(self.parts, rungs)
        head_only = all(stage.only_head(rungs) for stage in replace(self, parts=parts).stages(rungs))
        if head_only:
            parts = tuple(part for part in parts if not part.only_rungs)
        no_start = head_only or any(part.adds for part in parts)
        if no_start:
            parts = tuple(part for part in parts if not part.only_pretrained)
        simple = replace(self, parts=parts, training=self.training.canonical())
        if self.regularizer is None:
            return simple
        return replace(simple, regularizer=self.regularizer.canonical(no_start))

    def conflicts(self, place: str) -> Mistakes:
        """What its plug-ins have against each other, whatever the ladder."""
        mistakes = Mistakes()
        parts = _effective(self.parts, LONGEST_LADDER)
        for part, other in itertools.combinations(parts, 2):
            if both := part.claims & other.claims:
                reason = f"cannot go together with '{part.name}': both decide {' and '.join(sorted(both))}"
                mistakes.add(f"{place}.{other.name}", reason)
        asked: list[tuple[str, Any]] = [("optimizer", self.optimizer), *((part.name, part) for part in parts)]
        if self.regularizer is not None:
            asked.append(("regularizer", self.regularizer))
        for key, plugin in asked:
            if reason := plugin.conflict(self):
                mistakes.add(f"{place}.{key}", reason)
        return mistakes

    def as_dict(self) -> Tree:
        """The recipe as a sweep file would write it; `parse` reads it back."""
        tree: Tree = {
            "optimizer": {"name": self.optimizer.name, **self.optimizer.written()},
            "training": self.training.written(),
            **{part.name: part.value() for part in self.parts},
        }
        if self.regularizer is not None:
            tree["regularizer"] = {"name": self.regularizer.name, **self.regularizer.written()}
        return tree


def _effective(parts: tuple[Part, ...], rungs: int) -> tuple[Part, ...]:
    """Those that do something on a ladder."""
    return tuple(part for original in parts if (part := original.canonical(rungs)) is not None)


def named(section: Any, default: str | None = None) -> Any:
    """The long form of a plug-in section: `sgd` means `{name: sgd}`, `none` and null mean null."""
    if section is None or section == "none":
        return None
    if isinstance(section, str):
        return {"name": section}
    if isinstance(section, dict) and default is not None and "name" not in section:
        return {"name": default, **section}
    return section


def parse(tree: Tree, place: str) -> Recipe:
    """The recipe of a tree without spaces.

    Raises: InputError with every mistake.
    """
    mistakes = Mistakes()
    parts_known = plugins("strategies", Part)
    parts: list[Part] = []
    for key, value in sorted(tree.items()):
        if key in SECTIONS:
            continue
        if key not in parts_known:
            valid = (*SECTIONS, *parts_known, "use")
            mistakes.add(f"{place}.{key}", f"there is no strategy setting '{key}'", nearest(key, valid))
            continue
        with mistakes.collecting():
            parts.append(_part(parts_known[key], value, f"{place}.{key}"))
    optimizer = regularizer = training = None
    with mistakes.collecting():
        section = named(tree.get("optimizer"), DEFAULT_OPTIMIZER) or {"name": DEFAULT_OPTIMIZER}
        optimizer = configured("optimizers", Optimizer, section, f"{place}.optimizer")
    with mistakes.collecting():
        section = named(tree.get("regularizer"))
        if section is not None:
            regularizer = configured("regularizers", Regularizer, section, f"{place}.regularizer")
    with mistakes.collecting():
        section = tree.get("training")
        training = build(Training, {} if section is None else section, f"{place}.training")
    mistakes.raise_any()
    assert optimizer is not None and training is not None
    recipe = Recipe(optimizer, regularizer, training, tuple(parts))
    recipe.conflicts(place).raise_any()
    return recipe


def configured(kind: str, base: Any, section: Any, place: str) -> Any:
    """The plug-in that a section in its long form describes.

    Raises: InputError with every mistake.
    """
    if not isinstance(section, dict):
        return build(base, section, place)  # raises: not settings at all
    settings = {key: value for key, value in section.items() if key != "name"}
    return build(find(kind, base, section.get("name"), f"{place}.name"), settings, place)


def _part(part: type[Part], value: Any, place: str) -> Part:
    try:
        instance = build(part, part.settings(value), place)
    except InputError as error:
        if isinstance(value, dict):
            raise
        # the short form has no inner places that the file's reader could look up
        raise InputError(Mistake(place, m.reason, m.hint) for m in error.mistakes) from error
    reason = instance.reason_against(LONGEST_LADDER)
    if reason:
        raise bad(place, reason)
    return instance


def default_of(tree: Tree, path: tuple[str, ...]) -> Any:
    """The published default of the setting at `path` of a strategy; None if it has none."""
    section, *rest = path
    model: Any
    if section == "training":
        model = Training
    elif section == "optimizer":
        model = plugins("optimizers", Optimizer).get(plugin_of(section, tree.get(section)) or "")
    elif section == "regularizer":
        model = plugins("regularizers", Regularizer).get(plugin_of(section, tree.get(section)) or "")
    else:
        model = plugins("strategies", Part)[section]
        if not rest:
            return model().value()
    field = model.model_fields.get(rest[0]) if model is not None and rest else None
    return None if field is None or field.is_required() else field.get_default(call_default_factory=True)


def plugin_of(section: str, settings: Any) -> str | None:
    """The name of the plug-in that the settings of a section are for; None if that is none, or not said."""
    default = PLUGINS.get(section)
    long = named(settings, default)
    name = long.get("name") if isinstance(long, dict) else default
    return name if isinstance(name, str) else None
