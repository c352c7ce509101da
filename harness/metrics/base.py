"""What every metric plug-in is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

# The libraries' own metric scripts live on the hub; these classes need nothing but the package.


class Metric(evaluate.Metric):
    """A number for the predictions of a whole split.

    Attributes:
        name: what a sweep file says.
        higher_is_better: the direction.
        bounds: the lowest and the highest value; None where there is none. Racing needs them.
        predictions, references: the type of one prediction and of one reference.
        form: how the metric comes from what each example adds (`forms.FORMS`); None where that is not known:
            intervals then generalise over seeds alone.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    predictions: ClassVar[Any] = datasets.Value("int64")
    references: ClassVar[Any] = datasets.Value("int64")
    form: ClassVar[str | None] = None

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation=self.source,
            inputs_description="one prediction and one reference per example",
            features=datasets.Features({"predictions": self.predictions, "references": self.references}),
        )

    def _compute(self, predictions: Any, references: Any, **context: Any) -> dict[str, float]:
        return {self.name: self.score(np.asarray(predictions), np.asarray(references), **context)}

    @abstractmethod
    def score(self, predictions: Any, references: Any, **context: Any) -> float:
        """The metric's value.

        Args:
            predictions, references: arrays of shape (examples,), or what the metric's types say.
            context: what the task knows of its data, e.g. `classes`, their number.
        """

    def form_in(self, **context: Any) -> str | None:
        """The form for data of which the task knows this; by default `form`."""
        return self.form

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        """What each example adds: shape (examples, k), as the form wants it."""
        raise NotImplementedError(f"{self.name} has no form")


class Values(Metric):
    """Base of metrics over real-valued predictions."""

    predictions: ClassVar[Any] = datasets.Value("float64")
    references: ClassVar[Any] = datasets.Value("float64")

    def parts(self, predictions: Any, references: Any, **context: Any) -> Any:
        return np.c_[predictions, references]
