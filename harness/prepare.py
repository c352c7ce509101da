"""Looks at everything a sweep names before any trial starts: data, labels, models, depths.

What comes back are plain values, so that planning is a pure function of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import space
from harness.backbones.base import share_padding
from harness.backbones.family import NoLadderError
from harness.backbones.flops import forward_flops
from harness.backbones.ladder import build_ladder
from harness.entries import BackboneEntry, TaskEntry
from harness.errors import InputError, Mistake, Mistakes, bad
from harness.recipe import Training, parse
from harness.spec import Sweep, origin
from harness.tasks.base import LENGTH, Facts, Task

_SAMPLE = 8  # examples on which FLOPs are counted


@dataclass(frozen=True)
class ModelFacts:
    """What a backbone is on a task.

    Attributes:
        rungs: names of the ladder's rungs, from input to output.
        sizes: parameters per rung, then of the head.
        flops: forward FLOPs of one example per rung, then of the head.
        fingerprint: names the pretrained weights.
    """

    model_type: str
    rungs: list[str]
    sizes: list[int]
    flops: list[float]
    fingerprint: str


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
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    mistakes = Mistakes()
    facts: dict[str, Facts] = {}
    samples: dict[str, Any] = {}
    for entry in sweep.tasks:
        try:
            splits = entry.task.load(entry.place)
            facts[entry.name] = entry.task.facts(splits, entry.place)
            samples[entry.name] = splits["train"].select(range(min(_SAMPLE, len(splits["train"]))))
        except InputError as error:
            mistakes.extend(_at(error, entry.place).mistakes)
    models: dict[tuple[str, str], ModelFacts] = {}
    for backbone in sweep.backbones:
        with mistakes.collecting():
            fingerprint = backbone.backbone.fingerprint(backbone.place)
            for entry in sweep.tasks:
                if entry.name in facts:
                    length = _training(sweep, entry).max_length
                    models[entry.name, backbone.name] = model_facts(
                        entry.task, facts[entry.name], backbone, samples[entry.name], length, fingerprint
                    )
    _check_depths(sweep, models, mistakes)
    mistakes.raise_any()
    return Prepared(facts, models)


def _at(error: InputError, place: str) -> InputError:
    """Errors of a task's own methods stand below the task's place."""
    return InputError(
        m if m.place.startswith(place) else Mistake(f"{place}.{m.place}", m.reason, m.hint)
        for m in error.mistakes
    )


def _training(sweep: Sweep, task: TaskEntry) -> Training:
    """The loop's settings of the first strategy, for what does not depend on the strategy."""
    tree = sweep.tree(task, sweep.strategies[0])
    first = {path: axis.probes()[0] for path, axis in space.spaces(tree).items()}
    return parse(space.fill(tree, first), "").training


def model_facts(
    task: Task, facts: Facts, backbone: BackboneEntry, sample: Any, max_length: int | None, fingerprint: str
) -> ModelFacts:
    """Raises: InputError if the model has no ladder, cannot do the kind or cannot read the inputs."""
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
        for parameter in model.parameters():  # any numbers do: FLOPs do not depend on them
            parameter.data.zero_()
        for buffer in model.buffers():
            buffer.zero_()
        flops = forward_flops(model, ladder, task.collate(processor)(list(examples), None), len(examples))
    except InputError:
        raise
    except Exception as error:
        raise bad(
            place, f"cannot read the inputs of a {task.kind} task: {type(error).__name__}: {error}"
        ) from error
    return ModelFacts(
        model_type=skeleton.config.model_type,
        rungs=[rung.name for rung in ladder.rungs],
        sizes=[rung.size for rung in ladder.rungs] + [ladder.head.size],
        flops=flops,
        fingerprint=fingerprint,
    )


def _check_depths(sweep: Sweep, models: Mapping[tuple[str, str], ModelFacts], mistakes: Mistakes) -> None:
    tasks = {entry.name: entry for entry in sweep.tasks}
    for (task, _), facts in models.items():
        for strategy in sweep.strategies:
            tree = sweep.tree(tasks[task], strategy)
            axes = space.spaces(tree)
            first = {path: axis.probes()[0] for path, axis in axes.items()}
            probes = [
                first,
                *({**first, path: probe} for path, axis in axes.items() for probe in axis.probes()),
            ]
            for values in probes:
                try:
                    parse(space.fill(tree, values), "").check(len(facts.rungs), "")
                except InputError as error:
                    for mistake in error.mistakes:
                        mistakes.add(
                            origin(mistake.place.strip("."), tasks[task], strategy),
                            mistake.reason,
                            mistake.hint,
                        )
