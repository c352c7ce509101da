"""What every model family promises on every kind that it is run on: parametrised over what the registry
finds, so that a new file is tested the moment it exists. (test_tasks.py is the same for tasks.)"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from harness import document, spec
from harness.backbones.base import Backbone
from harness.backbones.family import Family
from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder, build_ladder, reset_head
from harness.backbones.untrained import Untrained
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.records.record import Record
from harness.registry import plugins
from harness.tasks.base import Facts, Task
from harness.training.run import run_trial
from harness.training.workspace import workspace_of

# A shipped task of every kind, on which its families are tried.
TRIED_ON = {
    "text-classification": "bbc-topics",
    "token-classification": "named-entities",
    "image-classification": "digits",
    "object-detection": "digit-scenes",
    "image-segmentation": "digit-masks",
    "audio-classification": "keypad-tones",
    "automatic-speech-recognition": "keypad-strings",
}
SMALL = {"train_size": 24, "validation_size": 8, "test_size": 8}
FAMILIES = [
    (name, kind)
    for name, family in plugins("backbones", Family).items()
    if family.small
    for kind in family.kinds
]
# A text model, images, frames: what every family promises, on few of them where it takes long.
SOME = ("bert", "resnet", "deepspeech")
FEW = [pytest.param(*case, marks=[] if case[0] in SOME else [pytest.mark.long]) for case in FAMILIES]
KINDS = [name for name, task in plugins("tasks", Task).items() if name == task.kind]
# The GLUE tasks live on the hub.


@cache
def loaded(name: str) -> tuple[Task, Any, Facts]:
    task = plugins("tasks", Task)[name].model_validate_json(json.dumps(SMALL))
    splits = task.load(name)
    return task, splits, task.facts(splits, name)


@dataclass
class Case:
    """A family's small model with the head of a task, and a batch of that task."""

    task: Task
    facts: Facts
    processor: Any
    model: Any
    ladder: Ladder
    batch: dict[str, Any]

    def outputs(self) -> list[torch.Tensor]:
        self.model.eval()
        with torch.no_grad():
            found = self.model(**accepted(self.model, self.batch))
        return [value for name, value in found.items() if isinstance(value, torch.Tensor) and name != "loss"]


@cache
def _case(family: str, kind: str) -> Case:
    torch.manual_seed(0)
    task, splits, facts = loaded(TRIED_ON[kind])
    backbone = Untrained(family=family)
    processor = task.processor(backbone)
    model = backbone.model(task.auto_class, processor, task.head(facts))
    encoded = task.encode(splits["train"].select(range(4)), processor, facts, 32)
    batch = task.collate(processor)(encoded.__getitems__(range(4)), None)
    return Case(task, facts, processor, model, build_ladder(model), batch)


@pytest.fixture(params=FAMILIES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    """A fresh copy, which a test may train."""
    made = _case(*request.param)
    model = copy.deepcopy(made.model)
    return Case(made.task, made.facts, made.processor, model, build_ladder(model), made.batch)


def test_every_kind_has_a_family_and_a_task() -> None:
    assert sorted(TRIED_ON) == sorted(KINDS) == sorted({kind for _, kind in FAMILIES})


def test_the_ladder_covers_every_parameter_once(case: Case) -> None:
    on = [name for rung in (*case.ladder.rungs, case.ladder.head) for name, _ in rung.parameters]
    assert sorted(on) == sorted(dict(case.model.named_parameters()))
    assert all(rung.size > 0 for rung in (*case.ladder.rungs, case.ladder.head))
    assert len(case.ladder.rungs) >= 3


def test_freezing_trains_exactly_the_rest(case: Case) -> None:
    for depth in range(len(case.ladder.rungs) + 1):
        case.ladder.freeze(depth)
        frozen = {name for rung in case.ladder.rungs[:depth] for name, _ in rung.parameters}
        assert {n for n, p in case.model.named_parameters() if not p.requires_grad} == frozen


def _step(case: Case, depth: int) -> None:
    """A few steps of plain gradient descent above `depth`, as the loop sets them up."""
    case.ladder.freeze(depth)
    optimizer = torch.optim.SGD([p for p in case.model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        case.ladder.train(case.model, range(depth))
        case.model(**accepted(case.model, case.batch)).loss.backward()
        nn.utils.clip_grad_norm_(case.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _buffers(rungs: list[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for index, rung in enumerate(rungs):
        for place, module in enumerate(rung.modules):
            for name, buffer in module.named_buffers(recurse=False):
                yield f"{index}.{place}.{name}", buffer


@pytest.mark.parametrize("frozen", ["stem", "half", "all"])
def test_a_step_changes_what_trains_and_nothing_else(case: Case, frozen: str) -> None:
    """Weights and running statistics of frozen rungs stay; every rung above moves, and so does the head."""
    rungs = case.ladder.rungs
    depth = {"stem": 1, "half": len(rungs) // 2, "all": len(rungs)}[frozen]
    before = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    statistics = {name: buffer.clone() for name, buffer in _buffers(rungs[:depth])}
    _step(case, depth)

    def moved(rung: Any) -> bool:
        return any(not torch.equal(parameter, before[name]) for name, parameter in rung.parameters)

    assert [moved(rung) for rung in rungs] == [index >= depth for index in range(len(rungs))]
    assert moved(case.ladder.head)
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in _buffers(rungs[:depth]))


def test_a_frozen_prefix_says_the_same_in_training(case: Case) -> None:
    """What leaves the frozen rungs in training is what leaves them in evaluation: no dropout, no statistics
    of the batch."""
    depth = len(case.ladder.rungs) - 1
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach())

    block = [m for m in case.ladder.rungs[depth - 1].blocks if list(m.parameters())][-1]
    block.register_forward_hook(keep)
    case.outputs()
    case.ladder.freeze(depth)
    case.ladder.train(case.model, range(depth))
    with torch.no_grad():
        case.model(**accepted(case.model, case.batch))
    assert torch.allclose(seen[0], seen[1], atol=1e-6)


def test_what_is_saved_and_loaded_says_the_same(case: Case, tmp_path: Path) -> None:
    _step(case, 0)
    said = case.outputs()
    case.model.save_pretrained(tmp_path)
    again = Backbone(path=str(tmp_path)).model(
        case.task.auto_class, case.processor, case.task.head(case.facts)
    )
    other = Case(case.task, case.facts, case.processor, again, build_ladder(again), case.batch)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(said, other.outputs(), strict=True))


def test_another_tasks_head_is_replaced(case: Case, tmp_path: Path) -> None:
    """A model saved with one head loads with another number of classes; the ladder keeps its weights."""
    case.model.save_pretrained(tmp_path)
    classes = case.facts.classes or ["a"]
    facts = Facts(case.facts.sizes, [*classes, "one more", "and another"], "")
    folder = Backbone(path=str(tmp_path))
    model = folder.model(case.task.auto_class, case.processor, case.task.head(facts))
    ladder = build_ladder(model)
    assert ladder.head.size > case.ladder.head.size
    if "id2label" in case.task.head(facts):  # what the numbers that the model says mean
        assert model.config.id2label == dict(enumerate(facts.classes))
    for new, old in zip(ladder.rungs, case.ladder.rungs, strict=True):
        assert all(torch.equal(p, q) for (_, p), (_, q) in zip(new.parameters, old.parameters, strict=True))


def test_a_head_is_drawn_from_its_seed(case: Case) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        reset_head(case.model, case.ladder, seed)
        return [parameter.detach().clone() for _, parameter in case.ladder.head.parameters]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def planned(family: str, kind: str, folder: Path, freeze: float, **changes: Any) -> Plan:
    content = {
        "name": "same",
        "backbones": [{"use": "untrained", "family": family, "name": "small", **changes.get("backbone", {})}],
        "tasks": [{"use": TRIED_ON[kind], **SMALL, **changes.get("task", {})}],
        "strategies": {"one": {"freeze": freeze}},
        "training": {"epochs": changes.get("epochs", 1), "batch_size": 8, "max_length": 32},
        "seeds": {"tune": 1, "confirm": 0},
        "resources": {"checkpoint_seconds": 0},
    }
    sweep = spec.from_document(document.read(json.dumps(content), "test"), [folder])
    return make_plan(sweep, prepare(sweep))


def run(plan: Plan, results: Path, evaluations: int | None = None) -> Record | None:
    """The record of the plan's one trial; None if it is left after so many evaluations."""
    trial = run_trial(next(plan.planned()).as_dict(), workspace_of(plan, results))
    for count in itertools.count(1):
        try:
            next(trial)
        except StopIteration as ended:
            return cast(Record, ended.value)
        if count == evaluations:
            trial.close()
            return None
    raise AssertionError("unreachable")


@pytest.mark.parametrize(("family", "kind"), FEW)
def test_the_same_seed_gives_the_same_trial(family: str, kind: str, tmp_path: Path) -> None:
    """From the sweep file to the record, twice: equal curves and an equal comparison with the start."""
    plan = planned(family, kind, tmp_path, 0.5)
    first, second = (run(plan, tmp_path / name) for name in ("first", "second"))
    assert first is not None and second is not None
    assert first["status"] == "finished", first["reason"]
    assert first["curve"] == second["curve"]
    similarity = first["drift"]["cka"]
    assert similarity == second["drift"]["cka"]
    assert len(similarity) == len(plan.prepared.models[TRIED_ON[kind], "small"].rungs)
    assert similarity[0] == pytest.approx(1)  # the stem is frozen
    assert all(value is None or value <= 1 + 1e-6 for value in similarity)


MASKED = {  # SpecAugment draws from numpy's global generator
    "apply_spec_augment": True, "mask_time_prob": 0.3, "mask_time_length": 2, "hidden_dropout": 0.1,
    "layerdrop": 0.2,
}  # fmt: skip
CROPPED = {"RandomCrop": {"size": 32, "padding": 8}}
ERASED = {"RandomErasing": {"p": 0.9}}


@pytest.mark.parametrize(
    ("family", "kind", "changes"),
    [
        ("resnet", "image-classification", {"task": {"augmentation": CROPPED}}),
        ("vit", "image-classification", {"task": {"augmentation": ERASED}}),
        ("wav2vec2", "audio-classification", {"backbone": {"changes": MASKED}}),
    ],
)
def test_what_is_drawn_at_random_is_the_trials_own(
    family: str, kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Augmentation, masks and dropout come from the seed, whatever else the process has drawn, and go on
    after an interruption as if there had been none."""
    plan = planned(family, kind, tmp_path, 0, epochs=3, **changes)
    whole = run(plan, tmp_path / "whole")
    assert run(plan, tmp_path / "cut", evaluations=2) is None
    torch.rand(7)
    np.random.rand(7)
    random.random()
    resumed = run(plan, tmp_path / "cut")
    assert whole is not None and resumed is not None
    assert whole["status"] == "finished", whole["reason"]
    assert resumed["attempts"] == 2
    assert resumed["curve"] == whole["curve"]
    plain = run(planned(family, kind, tmp_path, 0, epochs=3), tmp_path / "plain")
    assert plain is not None and plain["curve"] != whole["curve"]
