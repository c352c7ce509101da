"""Looks at everything a sweep names before any trial starts: data, labels, models, depths.

What comes back are plain values, so that planning is a pure function of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness import space
from harness.backbones.base import share_padding
from harness.backbones.family import NoLadderError
from harness.backbones.flops import forward_flops
from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder, build_ladder
from harness.entries import BackboneEntry, StrategyEntry, TaskEntry
from harness.errors import InputError, Mistake, Mistakes, bad
from harness.recipe import Recipe, Training, parse
from harness.spec import Sweep, origin
from harness.strategies.base import Part
from harness.tasks.base import LENGTH, Batch, Facts, Task
from harness.weights import Weight

_SAMPLE = 8  # examples on which FLOPs are counted


@dataclass(frozen=True)
class ModelFacts:
    """What a backbone is on a task.

    Attributes:
        rungs: names of the ladder's rungs, from input to output.
        sizes: parameters per rung, then of the head.
        flops: forward FLOPs of one example per rung, then of the head.
        fingerprint: names the pretrained weights, before any source task.
        remarks: what a user should know of how the model reads the data.
        needs_company: it normalises over the examples of a batch (BatchNorm), which have to be two at least.
    """

    model_type: str
    rungs: list[str]
    sizes: list[int]
    flops: list[float]
    fingerprint: str
    remarks: list[str] = field(default_factory=list)
    needs_company: bool = False


@dataclass
class Shell:
    """A model of a backbone's structure, whose weights are of no interest, in place of one under training
    (`moments.Tuned`), with a batch that it can read.

    Attributes:
        passed: compositions of parts that it can have.
    """

    model: Any
    ladder: Ladder
    batch: Batch
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
        return Shell(model, build_ladder(model), self.batch)

    def weights(self) -> Iterator[Weight]:
        """Those of the rungs."""
        for rung, name, value in self.ladder.parameters():
            if rung is not None:
                yield Weight(name, value, None, rung, self.model.get_submodule(name.rpartition(".")[0]))


@dataclass(frozen=True)
class Prepared:
    """Facts by task name, and by (task name, backbone name)."""

    tasks: dict[str, Facts]
    models: dict[tuple[str, str], ModelFacts] = field(default_factory=dict)


def prepare(sweep: Sweep) -> Prepared:
    """Load what the sweep names and check it.

    Raises: InputError with every mistake: unreadable data or models, missing columns or labels, empty
        splits, a depth beyond the ladder, a model that cannot do the kind of task.
    """
    import datasets

    datasets.disable_progress_bars()
    mistakes = Mistakes()
    facts: dict[str, Facts] = {}
    samples: dict[str, Any] = {}
    for entry in (*sweep.tasks, *(source.task for _, source in sweep.sources)):
        try:
            splits = entry.task.load(entry.place)
            facts[entry.name] = entry.task.facts(splits, entry.place)
            samples[entry.name] = splits["train"].select(range(min(_SAMPLE, len(splits["train"]))))
        except InputError as error:
            mistakes.extend(_at(error, entry.place).mistakes)
    models: dict[tuple[str, str], ModelFacts] = {}
    fingerprints: dict[str, str] = {}
    for backbone in sweep.backbones:
        try:
            fingerprints[backbone.name] = backbone.backbone.fingerprint(backbone.place)
        except InputError as error:
            mistakes.extend(_at(error, backbone.place).mistakes)
    for entry, backbone, strategies in _looked_at(sweep):
        if entry.name in facts and backbone.name in fingerprints:
            with mistakes.collecting():
                length = _training(sweep, entry, strategies[0]).max_length
                found, shell = model_facts(
                    entry.task, facts[entry.name], backbone, samples[entry.name], length,
                    fingerprints[backbone.name],
                )  # fmt: skip
                models[entry.name, backbone.name] = found
                for strategy in strategies:
                    _check_recipes(sweep, entry, strategy, found, shell, mistakes)
    mistakes.raise_any()
    return Prepared(facts, models)


def _at(error: InputError, place: str) -> InputError:
    """Errors of a task's own methods stand below the task's place."""
    return InputError(
        m if m.place.startswith(place) else Mistake(f"{place}.{m.place}", m.reason, m.hint)
        for m in error.mistakes
    )


def _looked_at(sweep: Sweep) -> Iterator[tuple[TaskEntry, BackboneEntry, Sequence[StrategyEntry]]]:
    """Every task that is trained on a backbone, source tasks included, and by which strategies."""
    for task, backbone in sweep.pairs:
        yield task, backbone, sweep.strategies
    for backbone, source in sweep.sources:
        yield source.task, backbone, [source.strategy]


def _training(sweep: Sweep, task: TaskEntry, strategy: StrategyEntry) -> Training:
    """The loop's settings of a strategy, for what no strategy changes."""
    tree = sweep.tree(task, strategy)
    first = {path: axis.probes()[0] for path, axis in space.spaces(tree).items()}
    return parse(space.fill(tree, first), "").training


def model_facts(
    task: Task, facts: Facts, backbone: BackboneEntry, sample: Any, max_length: int | None, fingerprint: str
) -> tuple[ModelFacts, Shell]:
    """Raises: InputError if the model has no ladder, cannot do the kind or cannot read the inputs."""
    from torch.nn.modules.batchnorm import _BatchNorm  # what all of torch's and timm's derive from

    place = backbone.place
    skeleton = backbone.backbone.skeleton(task.auto_class, task.head(facts), place)
    try:
        ladder = build_ladder(skeleton)
    except NoLadderError as error:
        raise bad(place, f"no ladder of blocks is found: {error}") from error
    processor = task.processor(backbone.backbone, place)
    share_padding(skeleton.config, processor)
    try:
        examples = task.encode(sample, processor, facts, max_length).remove_columns(LENGTH)
        model = skeleton.to_empty(device="cpu")
        for (
            parameter
        ) in model.parameters():  # FLOPs do not depend on them; some weights are divided by a norm
            parameter.data.fill_(1e-6)
        for buffer in model.buffers():
            buffer.zero_()
        collate = task.collate(processor)
        batch = collate(list(examples), None)
        flops = forward_flops(model, ladder, batch, len(examples))
        if task.augments:  # what does not fit the model when it is varied would fail every trial
            rngs = [np.random.default_rng(index) for index in range(len(examples))]
            forward_flops(model, ladder, collate(list(examples), rngs), len(examples))
    except InputError:
        raise
    except Exception as error:
        raise bad(
            place, f"cannot read the inputs of a {task.kind} task: {type(error).__name__}: {error}"
        ) from error
    found = ModelFacts(
        model_type=skeleton.config.model_type,
        rungs=[rung.name for rung in ladder.rungs],
        sizes=[rung.size for rung in ladder.rungs] + [ladder.head.size],
        flops=flops,
        fingerprint=fingerprint,
        remarks=task.remarks(sample, processor),
        needs_company=any(isinstance(module, _BatchNorm) for module in skeleton.modules()),
    )
    return found, Shell(model, build_ladder(model), batch)  # whose weights are others than the skeleton's


def _check_recipes(
    sweep: Sweep,
    task: TaskEntry,
    strategy: StrategyEntry,
    model: ModelFacts,
    shell: Shell,
    mistakes: Mistakes,
) -> None:
    """What the model cannot do with any of the strategy's values, told where they stand."""
    tree = sweep.tree(task, strategy)
    axes = space.spaces(tree)
    first = {path: axis.probes()[0] for path, axis in axes.items()}
    probes = [first, *({**first, path: probe} for path, axis in axes.items() for probe in axis.probes())]
    for values in probes:
        try:
            recipe = parse(space.fill(tree, values), "")
            recipe.check(len(model.rungs), "")
            _check_parts(recipe.canonical(len(model.rungs)), shell)
            if model.needs_company and recipe.training.batch_size < 2 * recipe.training.accumulation:
                reason = "leaves pieces of one example, and the model's BatchNorm needs two at a time"
                raise bad("training.batch_size", reason)
        except InputError as error:
            for found in error.mistakes:
                place = origin(found.place.strip("."), task, strategy)
                mistakes.add(place, found.reason, found.hint)


def _check_parts(recipe: Recipe, shell: Shell) -> None:
    """Raises: InputError at a part that the model cannot have, or that finds nothing in it to train."""
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
    moving = [weight for weight in tried.weights() if any(stage.trains(weight.rung) for stage in stages)]
    for part in recipe.parts:
        if not any(part.trains(weight) for weight in moving):
            raise bad(part.name, f"finds nothing in the rungs of a {family} model that it could train")
    shell.passed.add(composition)
