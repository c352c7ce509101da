"""The ladder: a pretrained model's parts in order from input to output.

Rung 0 is what stands before the blocks (embeddings, a convolutional stem), then comes a rung per block;
what stands between the last block and the head (a pooler, a final norm) belongs to the last rung, so that
freezing every rung leaves the head alone. The head is everything outside the base model and never on the
ladder. Every parameter is on exactly one rung or in the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.backbones.family import HEAD, Family
from harness.registry import plugins

# Reading a sweep file walks this package; torch is imported only where a model is really looked at.
if TYPE_CHECKING:
    from torch import nn


@dataclass
class Rung:
    """A part that is frozen or trained as one.

    Attributes:
        name: where it is in the base model, e.g. `encoder.layer.3`.
        blocks: the outermost modules that it is built around, in the order in which they run; none for the
            stem.
        modules: the modules that are switched to eval mode when it is frozen, each on its own. What holds
            the blocks (an encoder) counts as stem: what it does at random itself, such as masking the
            input, happens to what leaves the stem.
        parameters: (name in the model, parameter).
    """

    name: str
    blocks: list[nn.Module] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    parameters: list[tuple[str, nn.Parameter]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(parameter.numel() for _, parameter in self.parameters)

    @property
    def last(self) -> nn.Module:
        """The last block that has weights: those after it may not be called."""
        return next((block for block in reversed(self.blocks) if list(block.parameters())), self.blocks[-1])

    def redraw(self, model: Any) -> None:
        """Draw its weights anew as the family of `model` initialises them, from torch's global generator.
        What that leaves alone (scales of whole layers) gets what the constructor of a fresh model gives it.
        Drawn on the CPU: a seed means the same weights on every device."""
        import torch

        own = dict(self.parameters)
        devices = {name: parameter.device for name, parameter in own.items()}
        others = [
            (parameter, parameter.detach().clone())
            for module in self.modules
            for parameter in module.parameters(recurse=False)
            if all(parameter is not mine for mine in own.values())
        ]
        with torch.no_grad():
            for parameter in own.values():
                parameter.data = torch.full_like(parameter, torch.nan, device="cpu")
            _initialise(model, self.modules)
            if left := [name for name, parameter in own.items() if bool(parameter.isnan().any())]:
                fresh = dict(type(model)(model.config).named_parameters())
                for name in left:
                    own[name].copy_(fresh[name])
            for name, parameter in own.items():
                parameter.data = parameter.data.to(devices[name])
            for parameter, before in others:
                parameter.copy_(before)


@dataclass
class Ladder:
    rungs: list[Rung]
    head: Rung

    def freeze(self, depth: int) -> None:
        """Let only the rungs from `depth` on, and the head, have gradients."""
        for index, rung in enumerate(self.rungs):
            for _, parameter in rung.parameters:
                parameter.requires_grad_(index >= depth)
        for _, parameter in self.head.parameters:
            parameter.requires_grad_(True)

    def train(self, model: nn.Module, resting: Iterable[int]) -> None:
        """Training mode, but for the rungs that rest: there dropout is off and statistics stay."""
        model.train()
        for index in resting:
            for module in self.rungs[index].modules:
                module.training = False  # not `eval()`, which would reach into other rungs

    def parameters(self) -> Iterator[tuple[int | None, str, nn.Parameter]]:
        """All parameters in order, each with its rung (None: the head) and its name in the model."""
        for index, rung in enumerate(self.rungs):
            yield from ((index, name, parameter) for name, parameter in rung.parameters)
        yield from ((None, name, parameter) for name, parameter in self.head.parameters)

    def entrance(self, rung: int) -> nn.Module:
        """The block that what leaves the rungs below `rung` enters first; the stem has none, so that rung 0
        and rung 1 share theirs."""
        return self.rungs[max(1, rung)].blocks[0]


def family_of(model: Any) -> Family:
    """What is known of a model's family; the generic family where nothing is."""
    return plugins("backbones", Family).get(model.config.model_type, Family)()


def base_of(model: Any) -> nn.Module:
    """The pretrained part of a model with a head; a model without a head is its own base."""
    return family_of(model).base(model)


def build_ladder(model: Any) -> Ladder:
    """The ladder of any transformers model with a head.

    Raises: NoLadderError for a family whose blocks are not found.
    """
    family = family_of(model)
    base = family.base(model)
    blocks = family.blocks(base)
    rungs = [Rung("stem"), *(Rung(block.name, list(block.modules)) for block in blocks)]
    head = Rung("head")
    last = len(blocks)
    owner = {
        id(module): index + 1
        for index, block in enumerate(blocks)
        for outermost in block.modules
        for module in outermost.modules()
    }
    below = {id(module): name for name, module in base.named_modules()}
    reached = False  # the blocks have been passed
    seen: set[int] = set()

    def take(place: Rung, name: str, parameter: nn.Parameter) -> None:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            place.parameters.append((name, parameter))

    for full, module in model.named_modules():
        name = below.get(id(module))
        if name is None:  # outside the base; what holds both has parameters of the head at most
            if module is not model:
                head.modules.append(module)
            for own, parameter in module.named_parameters(recurse=False):
                take(head, f"{full}.{own}" if full else own, parameter)
            continue
        rung = owner.get(id(module), family.moved(name, base))
        reached = reached or id(module) in owner
        where = rung if rung is not None else (last if reached else 0)
        (head if where == HEAD else rungs[where]).modules.append(module)
        for own, parameter in module.named_parameters(recurse=False):
            moved = family.moved(f"{name}.{own}" if name else own, base)
            place = where if moved is None else moved
            take(head if place == HEAD else rungs[place], f"{full}.{own}" if full else own, parameter)
    return Ladder(rungs, head)


def reset_head(model: Any, ladder: Ladder, seed: int) -> None:
    """Draw the head anew, as the family initialises it, from a seed of its own."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _initialise(model, ladder.head.modules)


def _initialise(model: Any, modules: Iterable[nn.Module]) -> None:
    for module in modules:
        # transformers marks what it has initialised or loaded, and would skip it
        module._is_hf_initialized = False  # type: ignore[assignment]
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            tensor._is_hf_initialized = False  # type: ignore[attr-defined]
        model._init_weights(module)
