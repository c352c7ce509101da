"""The losses that models compute inside their forward pass: seen there, and changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Functions of torch.nn.functional: a class, a number, or a mark for each of several labels.
CLASSES, NUMBERS, MARKS = "cross_entropy", "mse_loss", "binary_cross_entropy_with_logits"
_KNOWN = (
    CLASSES, NUMBERS, MARKS, "binary_cross_entropy", "ctc_loss", "gaussian_nll_loss", "hinge_embedding_loss",
    "huber_loss", "kl_div", "l1_loss", "nll_loss", "smooth_l1_loss",
)  # fmt: skip
_IGNORED = -100  # torch's own default for targets that do not count


@contextmanager
def instead(names: Sequence[str], change: Callable[..., Any]) -> Iterator[None]:
    """In the block `change(function, *args, **kwargs)` stands in for calls of the functions of
    torch.nn.functional of these names; the innermost of several such blocks is asked first."""
    from torch.nn import functional

    with _mode()(frozenset(getattr(functional, name) for name in names), change):
        yield


@cache
def _mode() -> Any:
    from torch.overrides import TorchFunctionMode

    class Instead(TorchFunctionMode):
        def __init__(self, functions: frozenset[Any], change: Callable[..., Any]) -> None:
            super().__init__()
            self._functions, self._change = functions, change

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in self._functions:
                return self._change(func, *args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    return Instead


@contextmanager
def named() -> Iterator[list[str]]:
    """The names of the losses that are computed in the block, each once, sorted when it ends."""
    found: set[str] = set()
    listed: list[str] = []

    def note(function: Any, *args: Any, **kwargs: Any) -> Any:
        found.add(function.__name__)
        return function(*args, **kwargs)

    with instead(_KNOWN, note):
        yield listed
    listed += sorted(found)


def unless(losses: Sequence[str], *allowed: str) -> str:
    """Why a model whose loss is made of `losses` will not do; empty where it is one of those that do."""
    if len(losses) == 1 and losses[0] in allowed:
        return ""
    made_of = f"made of {', '.join(losses)}" if losses else "none of torch's own"
    return f"needs a model whose loss is one of {', '.join(allowed)}, and this one's is {made_of}"


@dataclass(frozen=True)
class Said:
    """What one forward pass handed to its loss.

    Attributes:
        values: logits, shape (…, classes); or numbers, shape (…).
        counted: which of them the loss counts, shape (…); None for numbers, which all count.
    """

    values: torch.Tensor
    counted: torch.Tensor | None


@contextmanager
def said() -> Iterator[list[Said]]:
    """What the forward passes in the block say, in their order."""
    found: list[Said] = []

    def note(function: Any, input: torch.Tensor, target: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if function.__name__ == CLASSES:
            counted = target != kwargs.get("ignore_index", _IGNORED)
            found.append(Said(input.movedim(1, -1), counted))
        else:
            found.append(Said(input, None))
        return function(input, target, *args, **kwargs)

    with instead((CLASSES, NUMBERS), note):
        yield found


def divergence(ours: Said, theirs: Said) -> torch.Tensor:
    """`KL(p‖q) + KL(q‖p)` of two passes over the same examples, averaged over what the loss counts; for
    numbers the mean squared difference. In float32, shape ()."""
    a, b = ours.values.float(), theirs.values.float()
    if ours.counted is None:
        return (a - b).square().mean()
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    both = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)
    return (both * ours.counted).sum() / ours.counted.sum().clamp(min=1)


def with_loss(outputs: Any, loss: torch.Tensor) -> Any:
    """The outputs of a forward pass, with another loss."""
    outputs.loss = loss
    return outputs
