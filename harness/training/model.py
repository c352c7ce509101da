"""The model of a trial: pretrained weights, loaded once per process, and a fresh head."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from harness.backbones.base import Backbone
from harness.backbones.forward import accepted
from harness.backbones.ladder import Ladder, build_ladder, reset_head
from harness.optimizers.base import Optimizer
from harness.regularizers.base import Weight
from harness.training.cut import Cut
from harness.training.data import GIVEN
from harness.training.seeds import HEAD, derive
from harness.training.workspace import Workspace

# Weight decay spares biases and the gains and shifts of normalisations: whatever is not a matrix.
_DECAYED_DIMENSIONS = 2


@dataclass
class FineTuned:
    """A model under training.

    Attributes:
        reference: θ⁰ by parameter name, for every parameter of the ladder, on the model's device.
        depth: the rungs that batches may come with the output of; `cut` is where that stands in for them.
    """

    model: Any
    ladder: Ladder
    reference: dict[str, torch.Tensor]
    depth: int = 0
    cut: Cut | None = None

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

    def parameter_groups(self, optimizer: Optimizer, depth: int) -> list[dict[str, Any]]:
        """Groups over what trains above `depth`: backbone and head, each with and without decay."""
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for rung, is_head in self.ladder.trainable(depth):
            for _, parameter in rung.parameters:
                groups.setdefault((is_head, parameter.ndim >= _DECAYED_DIMENSIONS), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": optimizer.learning_rate * (optimizer.head_multiplier if is_head else 1.0),
                "weight_decay": optimizer.weight_decay if decayed else 0.0,
            }
            for (is_head, decayed), parameters in groups.items()
        ]

    def weights(self, depth: int) -> list[Weight]:
        """What trains above `depth`, as a regulariser sees it."""
        return [
            Weight(name, parameter, None if is_head else self.reference[name])
            for rung, is_head in self.ladder.trainable(depth)
            for name, parameter in rung.parameters
        ]

    def state(self, depth: int) -> dict[str, torch.Tensor]:
        """A copy on the CPU of everything that may differ from θ⁰ when nothing below `depth` trains."""
        names = {name for rung, _ in self.ladder.trainable(depth) for name, _ in rung.parameters}
        tensors = {name: p for name, p in self.model.named_parameters() if name in names}
        tensors.update(self.model.named_buffers())
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)


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
    workspace: Workspace, task: str, backbone: str, seed: int, device: torch.device, frozen: int = 0
) -> FineTuned:
    """The pretrained model with a head drawn from `seed`.

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
    return FineTuned(model, ladder, reference)
