"""The model of a trial: pretrained weights, loaded once per process, and a fresh head."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from harness.backbones.base import Backbone
from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder, build_ladder, reset_head
from harness.recipe import Recipe
from harness.stage import Stage
from harness.strategies.base import Part, weights_of
from harness.training.cut import Cut
from harness.training.data import GIVEN
from harness.training.seeds import HEAD, derive
from harness.training.workspace import Workspace
from harness.weights import Weight

# Weight decay spares biases and the gains and shifts of normalisations: whatever is not a matrix.
_DECAYED_DIMENSIONS = 2


@dataclass
class FineTuned:
    """A model under training.

    Attributes:
        reference: θ⁰ by parameter name, for every pretrained parameter of the ladder, on the model's device.
        anew: names of ladder parameters whose pretrained values a part has thrown away.
        depth: the rungs that batches may come with the output of; `cut` is where that stands in for them.
        narrowed: the last block computes one position where nobody reads the others.
        remarks: what could not be found out of the model, for the trial's record.
    """

    model: Any
    ladder: Ladder
    reference: dict[str, torch.Tensor]
    anew: set[str] = field(default_factory=set)
    depth: int = 0
    cut: Cut | None = None
    narrowed: bool = False
    remarks: list[str] = field(default_factory=list)

    def __call__(self, batch: dict[str, Any]) -> Any:
        """The model's outputs, with the loss where the batch has labels."""
        inputs = accepted(self.model, batch)
        if self.cut is None:
            return self.model(**inputs)
        with self.cut.giving(batch.get(GIVEN)):
            return self.model(**inputs)

    def cut_at(self, depth: int, cut: Cut | None) -> None:
        """From now on batches may come with what the first `depth` rungs gave."""
        if self.cut is not None:
            self.cut.detach()
        self.depth, self.cut = depth, cut
        if cut is not None:
            cut.attach()

    def weights(self, stage: Stage, parts: Sequence[Part] = ()) -> list[Weight]:
        """What trains in a stage, from the input to the head."""
        return weights_of(self, stage, parts)

    def enter(self, weights: Sequence[Weight]) -> None:
        """From now on these weights have gradients, and no others."""
        training = {id(weight.value) for weight in weights}
        for _, _, parameter in self.ladder.parameters():
            parameter.requires_grad_(id(parameter) in training)

    def train(self, stage: Stage) -> None:
        """Training mode, but for the rungs that rest in the stage."""
        self.ladder.train(self.model, (i for i in range(len(self.ladder.rungs)) if not stage.trains(i)))

    def state(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """A copy on the CPU of the parameters of these names and of all buffers."""
        tensors = {name: p for name, p in self.model.named_parameters() if name in names}
        tensors.update(self.model.named_buffers())
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)


def parameter_groups(recipe: Recipe, weights: Sequence[Weight], rungs: int) -> list[dict[str, Any]]:
    """Groups for the optimiser: each rung, and the head at the end, with and without decay, pretrained
    weights apart from others. They carry their `rung` (None: the head) and whether they are `pretrained`."""
    optimizer = recipe.optimizer
    groups: dict[tuple[int | None, bool, bool], list[torch.nn.Parameter]] = {}
    for weight in weights:
        decayed = weight.value.ndim >= _DECAYED_DIMENSIONS
        groups.setdefault((weight.rung, decayed, weight.reference is not None), []).append(weight.value)
    return [
        {
            "params": parameters,
            "lr": optimizer.learning_rate
            * (optimizer.head_multiplier if rung is None else 1.0)
            * math.prod(part.rate(rung, rungs) for part in recipe.parts),
            "weight_decay": optimizer.weight_decay if decayed else 0.0,
            "rung": rung,
            "pretrained": pretrained,
        }
        for (rung, decayed, pretrained), parameters in groups.items()
    ]


@lru_cache(maxsize=2)
def pretrained(workspace: Workspace, task_name: str, backbone_name: str, device: torch.device) -> Any:
    """The model as it comes from disk, on `device`; never trained itself. A backbone that has a source task
    comes from the folder of its source trial, but for that trial itself."""
    task = workspace.task(task_name)
    backbone = workspace.backbone(backbone_name)
    processor = task.processor(backbone)
    source = workspace.sources.get(backbone_name)
    if source is not None and task_name != source["task"]:
        backbone = Backbone(path=str(workspace.trained(source["trial_id"])))
    model = backbone.model(task.auto_class, processor, task.head(workspace.facts[task_name]))
    return model.to(device)


@lru_cache(maxsize=1)
def source_model(workspace: Workspace, backbone_name: str) -> Any:
    """The model of a backbone's source task as its trial left it, with that task's head, on the CPU."""
    source = workspace.sources[backbone_name]
    task = workspace.task(source["task"])
    folder = Backbone(path=str(workspace.trained(source["trial_id"])))
    processor = task.processor(workspace.backbone(backbone_name))
    return folder.model(task.auto_class, processor, task.head(workspace.facts[source["task"]]))


def fine_tuned(
    workspace: Workspace,
    task: str,
    backbone: str,
    seed: int,
    device: torch.device,
    frozen: int = 0,
    parts: Sequence[Part] = (),
) -> FineTuned:
    """The pretrained model with a head drawn from `seed`, and what the parts of a strategy make of it.

    Args:
        frozen: rungs that no stage of the trial trains; their weights are not copied.
    """
    origin = pretrained(workspace, task, backbone, device)
    start = {name: parameter.detach() for name, parameter in origin.named_parameters()}
    rungs = build_ladder(origin).rungs
    shared = {id(parameter): parameter for rung in rungs[:frozen] for _, parameter in rung.parameters}
    model = copy.deepcopy(origin, shared)
    ladder = build_ladder(model)
    head = [parameter for _, parameter in ladder.head.parameters]
    for parameter in head:  # drawn on the CPU: a seed means the same head on every device
        parameter.data = parameter.data.cpu()
    reset_head(model, ladder, derive(seed, HEAD))
    for parameter in head:
        parameter.data = parameter.data.to(device)
    reference = {name: start[name] for rung in rungs for name, _ in rung.parameters}
    return prepared(FineTuned(model, ladder, reference), frozen, parts, seed)


def prepared(tuned: FineTuned, frozen: int, parts: Sequence[Part], seed: int) -> FineTuned:
    """The model with what parts change of it before training: they may add modules, so that the same weights
    have other names."""
    start = {weight: tuned.reference.get(name) for name, weight in tuned.model.named_parameters()}
    for part in parts:
        names = {weight: name for name, weight in tuned.model.named_parameters()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, part.name))
            part.prepare(tuned, frozen)
        tuned.ladder = build_ladder(tuned.model)
        renamed = {names[w]: name for name, w in tuned.model.named_parameters() if w in names}
        tuned.anew = {renamed.get(name, name) for name in tuned.anew}
    tuned.reference = {
        name: reference
        for rung, name, weight in tuned.ladder.parameters()
        if rung is not None and (reference := start.get(weight)) is not None
    }
    return tuned
