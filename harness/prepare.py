"""Looks at everything a sweep names before any trial starts: data, labels, models, depths.

What comes back are plain values, so that planning is a pure function of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness import axes, space
from harness.backbones.base import share_padding
from harness.backbones.family import NoLadderError
from harness.backbones.flops import forward_flops
from harness.backbones.ladder import build_ladder
from harness.entries import BackboneEntry, StrategyEntry, TaskEntry
from harness.errors import InputError, Mistake, Mistakes, bad
from harness.recipe import Training, parse
from harness.shell import Shell, check_parts
from harness.spec import Sweep, placed
from harness.strategies import losses
from harness.tasks.base import LENGTH, Facts, Task

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
    found = space.spaces(tree)
    return parse(axes.settings(tree, found, next(axes.probes(found))), "").training


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
        for parameter in model.parameters():  # any number would do, were not some divided by a norm of them
            parameter.data.fill_(1e-6)
        for buffer in model.buffers():
            buffer.zero_()
        collate = task.collate(processor)
        batch = collate(list(examples), None)
        with losses.named() as called:
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
    return found, Shell(model, build_ladder(model), batch, called)  # whose weights are not the skeleton's


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
    found = space.spaces(tree)
    for values in axes.probes(found):
        try:
            recipe = parse(axes.settings(tree, found, values), "")
            recipe.check(len(model.rungs), "")
            check_parts(recipe.canonical(len(model.rungs)), shell)
            if model.needs_company and recipe.training.batch_size < 2 * recipe.training.accumulation:
                reason = "leaves pieces of one example, and the model's BatchNorm needs two at a time"
                raise bad("training.batch_size", reason)
        except InputError as error:
            mistakes.extend(placed(error.mistakes, found, values, task, strategy))
