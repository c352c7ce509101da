"""What every model family promises on every kind that it is run on: parametrised over what the registry
finds, so that a new file is tested the moment it exists. (test_tasks.py is the same for tasks.)"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import document, spec
from harness.backbones.base import Backbone
from harness.backbones.family import Family
from harness.backbones.flops import accepted
from harness.backbones.ladder import Ladder, build_ladder, reset_head
from harness.backbones.untrained import Untrained
from harness.plan import make_plan
from harness.prepare import prepare
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
        case.ladder.train(case.model, depth)
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
    case.ladder.train(case.model, depth)
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
    ladder = build_ladder(folder.model(case.task.auto_class, case.processor, case.task.head(facts)))
    assert ladder.head.size > case.ladder.head.size
    for new, old in zip(ladder.rungs, case.ladder.rungs, strict=True):
        assert all(torch.equal(p, q) for (_, p), (_, q) in zip(new.parameters, old.parameters, strict=True))


def test_a_head_is_drawn_from_its_seed(case: Case) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        reset_head(case.model, case.ladder, seed)
        return [parameter.detach().clone() for _, parameter in case.ladder.head.parameters]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_the_same_seed_gives_the_same_trial(family: str, kind: str, tmp_path: Path) -> None:
    """From the sweep file to the record, twice: equal curves, and a score from a sound metric."""
    content = {
        "name": "same",
        "backbones": [{"use": "untrained", "family": family, "name": "small"}],
        "tasks": [{"use": TRIED_ON[kind], **SMALL}],
        "strategies": {"half": {"freeze": 0.5}},
        "training": {"epochs": 1, "batch_size": 8, "max_length": 32},
        "seeds": {"tune": 1, "confirm": 0},
    }
    sweep = spec.from_document(document.read(json.dumps(content), "test"), [tmp_path])
    plan = make_plan(sweep, prepare(sweep))
    trial = next(plan.planned())
    records = []
    for name in ("first", "second"):
        run = run_trial(trial.as_dict(), workspace_of(plan, tmp_path / name))
        while True:
            try:
                next(run)
            except StopIteration as ended:
                records.append(ended.value)
                break
    first, second = records
    assert first["status"] == "finished", first["reason"]
    assert first["curve"] == second["curve"]
    assert first["drift"]["cka"] == second["drift"]["cka"]
    assert len(first["drift"]["cka"]) == len(plan.prepared.models[TRIED_ON[kind], "small"].rungs)
    assert all(value is None or -1e-6 <= value <= 1 + 1e-6 for value in first["drift"]["cka"])
    assert any(value is not None for value in first["drift"]["cka"])
