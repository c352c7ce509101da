"""Parts that need a backbone's source task, and its head on the features of the model under training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.moments import Batch, Setting
from harness.strategies import losses as of_models
from harness.strategies.base import Weighted
from harness.strategies.features import entering

if TYPE_CHECKING:
    import torch


class OfSource(Weighted):
    """A part that needs the classes of the backbone's source task."""

    only_rungs: ClassVar[bool] = True
    by_example: ClassVar[bool] = True

    def reason_against_losses(self, losses: Sequence[str]) -> str:
        return of_models.unless(losses, of_models.CLASSES)

    @classmethod
    def reason_against_source(cls, task: Any, source: Any) -> str:
        if source is None:
            return "needs the classes of a source task, and this backbone has none (`source:`)"
        if source.auto_class != task.auto_class or getattr(source, "regression", False):
            return f"needs a source task with classes of the same kind as the task's, not {source.kind}"
        return ""


class SourceHead:
    """The model of the source task, which stays as it is.

    Attributes:
        scale: what calibrates its logits on the source task's own training examples (Guo et al. 2017, arXiv
            1706.04599): the inverse temperature of the least cross-entropy there; 1 before `calibrate`.
    """

    def __init__(self, setting: Setting) -> None:
        found = setting.source()
        if found is None:
            raise RuntimeError("the backbone has no source task")
        model, self._batches = found
        self._setting, self._source = setting, setting.laddered(model.requires_grad_(False))
        self.scale = 1.0

    def says(self, batch: Batch, features: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """The source task's logits for a batch of any task, shape (examples, …, classes), float32.

        Args:
            features: what enters its head instead of what its own backbone gives.
        """
        inputs = {name: value for name, value in batch.items() if "labels" not in name}
        ladder = self._source.ladder
        if features is None:
            outputs = self._source(inputs)
        else:
            others = iter(features)
            with entering(ladder, len(ladder.rungs), lambda hidden, valid: next(others)):
                outputs = self._source(inputs)
        logits: torch.Tensor = outputs.logits.float()
        return logits.movedim(1, -1) if logits.ndim == 4 else logits

    def calibrate(self, examples: int) -> None:
        """Args: `examples` of the source task that are looked at."""
        import torch

        logits, labels = [], []
        with torch.no_grad():
            for batch in self._batches:
                said, true = aligned(self.says(batch), batch["labels"])
                logits.append(said)
                labels.append(true)
                examples -= len(batch["labels"])
                if examples <= 0:
                    break
        every, answers = torch.cat(logits).double(), torch.cat(labels)
        with torch.enable_grad():
            scale = torch.ones((), dtype=torch.float64, device=every.device, requires_grad=True)
            search = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

            def closure() -> Any:
                search.zero_grad()
                loss = -(every * scale).log_softmax(-1).gather(1, answers[:, None]).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            search.step(closure)  # type: ignore[no-untyped-call]
        # what is always right has no best temperature
        self.scale = min(max(float(scale), 0.1), 10.0)


def aligned(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits, shape (rows, classes), and labels, shape (rows,), of what is labelled: examples, words, or
    pixels at the logits' resolution. Labels that stand for nothing (-100, 255) are beyond the classes."""
    from torch.nn import functional

    if labels.ndim == 3 and labels.shape != logits.shape[:-1]:
        size = logits.shape[1:3]
        labels = functional.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].to(labels.dtype)
    labelled = (labels >= 0) & (labels != 255) if labels.ndim == 3 else labels >= 0
    return logits[labelled], labels[labelled]
