from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness.moments import Moments, Setting, Strategy
from harness.stage import Stage
from harness.strategies.averages import statistics
from harness.strategies.base import REPEATS, SCORED, Preset, Valued
from harness.weights import Weight

if TYPE_CHECKING:
    import torch


class Soup(Valued):
    """Greedy soup: one model per entry of `rates`, trained one after the other from the same weights and the
    same head, at that multiple of the learning rate; then, from the best on validation to the worst, each
    joins the plain average of weights (and of BatchNorm's statistics) unless validation becomes worse by it.

    The paper averages the trials of a sweep over hyper-parameters; here all are trained within one trial,
    since a trial is what has a seed, a record and a verdict. So it costs as many trainings as there are
    `rates`, of `training.epochs` each, and is counted as such. Each ingredient has its own order of the data,
    goes over all stages of the strategy, and joins with the weights that `training.keep` says; one that
    diverges ends the trial. The default spans a decade of rates.
    """

    name: ClassVar[str] = "soup"
    source: ClassVar[str] = "Wortsman et al. 2022, arXiv 2203.05482, recipe 1"
    claims: ClassVar[frozenset[str]] = frozenset({SCORED})
    turn: ClassVar[int] = REPEATS
    presets: ClassVar[Mapping[str, Preset]] = {"soup": Preset({"soup": [0.3, 1.0, 3.0]}, source)}

    rates: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field((0.3, 1.0, 3.0), min_length=2)

    def value(self) -> Any:
        return list(self.rates)

    def conflict(self, recipe: Strategy) -> str:
        if recipe.training.patience is not None:
            return "patience would end the trial with an ingredient that is worse than those before it"
        return ""

    def stages(self, stages: tuple[Stage, ...], rungs: int) -> tuple[Stage, ...]:
        again = (replace(stages[0], restart=True), *stages[1:])
        return stages + again * (len(self.rates) - 1)

    def bind(self, setting: Setting) -> Moments:
        return _Ingredients(self.rates, setting)


class _Ingredients(Moments):
    outlasts = True

    def __init__(self, rates: tuple[float, ...], setting: Setting) -> None:
        self._rates = rates
        self._model = setting.tuned.model
        self._names: set[str] = set()
        self._ingredients: list[dict[str, torch.Tensor]] = []

    def entered(self, index: int, stage: Stage, weights: Sequence[Weight]) -> None:
        self._names.update(weight.name for weight in weights)

    def stepping(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            group["lr"] *= self._rates[len(self._ingredients)]

    def restarting(self) -> None:
        found = {name: value.detach().to("cpu", copy=True) for name, value in self._tensors().items()}
        self._ingredients.append(found)

    def finished(self, score: Callable[[], float]) -> bool:
        self.restarting()

        def tasted(*chosen: int) -> float:
            self._pour(chosen)
            return score()

        scores = [tasted(index) for index in range(len(self._ingredients))]
        first, *others = sorted(range(len(scores)), key=lambda index: -scores[index])
        soup, best = [first], scores[first]
        for other in others:
            if (found := tasted(*soup, other)) >= best:
                soup, best = [*soup, other], found
        self._pour(soup)
        return True

    def _tensors(self) -> dict[str, torch.Tensor]:
        own = dict(self._model.named_parameters())
        return {**{name: own[name] for name in sorted(self._names)}, **statistics(self._model)}

    def _pour(self, chosen: Sequence[int]) -> None:
        """Put the average of some ingredients into the model: what is the same in all stays the same."""
        import torch

        with torch.no_grad():
            for name, tensor in self._tensors().items():
                first, *others = (self._ingredients[index][name] for index in chosen)
                tensor.copy_(first + sum(other - first for other in others) / len(chosen))

    def state(self) -> Mapping[str, Any]:
        return {"names": sorted(self._names), "ingredients": self._ingredients}

    def load(self, state: Mapping[str, Any]) -> None:
        self._names, self._ingredients = set(state["names"]), list(state["ingredients"])
