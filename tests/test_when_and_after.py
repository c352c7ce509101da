"""What trains when, and what is done with the weights after it: stages, schedules, averages, optimisers; each
against a computation of its own."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_sharing
import test_strategies
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_parts import START, gradient, numpy, tiny
from test_sharing import close, run
from test_sharing import planned as family_planned
from test_strategies import result, trial_of

from harness.errors import InputError
from harness.optimizers.base import Optimizer
from harness.recipe import Recipe, Training, parse
from harness.records.paths import ResultPaths
from harness.registry import build, plugins
from harness.running import recomputed
from harness.stage import Stage, first_run, untouched
from harness.strategies.base import Part
from harness.strategies.soup import Soup
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.loop import fit
from harness.training.member import Member
from harness.training.run import job_of
from harness.training.schedules import schedule_of
from harness.training.workspace import workspace_of

PARTS = plugins("strategies", Part)

# fixtures
planned = test_strategies.planned
_free_storage = test_sharing._free_storage  # storing always pays


def recipe(epochs: int, **strategy: Any) -> Recipe:
    return parse({"training": {"epochs": epochs}, **strategy}, "one")


def bands(stages: Sequence[Stage], rungs: int) -> list[tuple[int, str]]:
    """(epochs, what trains: a letter per rung, `h` for the head) of each stage."""

    def shown(stage: Stage) -> str:
        return "".join(str(r) for r in range(rungs) if stage.trains(r)) + ("h" if stage.head else "")

    return [(stage.epochs, shown(stage)) for stage in stages]


# -- stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "strategy", "found"),
    [
        (6, {"gradual-unfreezing": 1}, [(1, "h"), (1, "3h"), (1, "23h"), (1, "123h"), (2, "0123h")]),
        (3, {"gradual-unfreezing": 1}, [(1, "h"), (1, "23h"), (1, "0123h")]),
        (2, {"gradual-unfreezing": 1}, [(1, "h"), (1, "0123h")]),
        (7, {"gradual-unfreezing": 3}, [(3, "h"), (4, "0123h")]),
        (6, {"gradual-unfreezing": 1, "freeze": 2}, [(1, "h"), (1, "3h"), (4, "23h")]),
        (6, {"chain-thaw": 1}, [(1, "h"), (1, "0"), (1, "1"), (1, "2"), (1, "3"), (1, "0123h")]),
        (9, {"chain-thaw": 2}, [(2, "h"), (2, "01"), (2, "23"), (3, "0123h")]),
        (3, {"chain-thaw": 1}, [(1, "h"), (1, "0123"), (1, "0123h")]),
        (6, {"chain-thaw": 1, "freeze": 3}, [(1, "h"), (1, "3"), (4, "3h")]),
        (4, {"lp-ft": 1, "soup": [1, 2]}, [(1, "h"), (3, "0123h"), (1, "h"), (3, "0123h")]),
    ],
)  # fmt: skip
def test_what_trains_when(epochs: int, strategy: Any, found: list[tuple[int, str]]) -> None:
    """On a ladder of four rungs; where epochs are few, several rungs thaw at a time."""
    assert bands(recipe(epochs, **strategy).stages(4), 4) == found


@hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["gradual-unfreezing", "chain-thaw"]),
    step=st.integers(1, 4),
    more=st.integers(0, 30),
    rungs=st.integers(2, 30),
    frozen=st.integers(0, 28),
)
def test_stages_spend_the_epochs_and_end_with_everything(
    name: str, step: int, more: int, rungs: int, frozen: int
) -> None:
    """Budgets are equal; the head goes first and alone; the last stage trains all that is not frozen;
    before it gradual unfreezing only ever adds, and chain-thaw trains every rung once, in order."""
    epochs, depth = 3 * step + more, min(frozen, rungs - 1)
    stages = recipe(epochs, **{name: step, "freeze": depth}).stages(rungs)
    assert sum(stage.epochs for stage in stages) == epochs
    assert all(stage.epochs >= step for stage in stages)
    first, *middle, last = ([r for r in range(rungs) if stage.trains(r)] for stage in stages)
    assert first == [] and stages[0].only_head(rungs)
    assert last == list(range(depth, rungs)) and stages[-1].head
    if name == "gradual-unfreezing":
        grown = [first, *middle, last]
        assert all(set(a) < set(b) for a, b in itertools.pairwise(grown))
        assert all(not rung or rung == list(range(rung[0], rungs)) for rung in grown)
        assert all(stage.head for stage in stages)
    else:
        assert list(itertools.chain(*middle)) == last and all(middle)
        assert not any(stage.head for stage in stages[1:-1])


@pytest.mark.parametrize(
    ("epochs", "strategy"),
    [
        (1, {"gradual-unfreezing": 1}), (2, {"chain-thaw": 1}), (8, {"chain-thaw": 3}),
        (9, {"chain-thaw": 1, "lp-ft": 1}), (9, {"ema": 0.9, "wise-ft": 0.5}), (9, {"soup": [1]}),
        (9, {"soup": [1, -1]}), (9, {"reinit": 1, "bitfit": True}),
        (9, {"ema": 0.9, "optimizer": "schedule-free"}),
        (9, {"optimizer": "schedule-free"}),
        (9, {"soup": [1, 2], "training": {"epochs": 9, "patience": 1}}),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused_with_a_reason(epochs: int, strategy: dict[str, Any]) -> None:
    """When the file is read, at the place of one of them."""
    with pytest.raises(InputError) as caught:
        recipe(epochs, **{"training": {"epochs": epochs}, **strategy})
    assert caught.value.mistakes[0].place.startswith("one.")
    assert caught.value.mistakes[0].reason


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file is read, with the command that installs it."""
    monkeypatch.setattr(plugins("optimizers", Optimizer)["lion"], "package", "no_such_package")
    with pytest.raises(InputError) as caught:
        recipe(3, optimizer="lion")
    assert "finetune-harness[optimizers]" in caught.value.mistakes[0].reason


@pytest.mark.parametrize(
    ("strategy", "rungs", "place"),
    [
        ({"reinit": 2, "freeze": 3}, 4, "one.reinit"), ({"reinit": 1, "freeze": "all"}, 4, "one.reinit"),
        ({"reinit": 4}, 4, "one.reinit"), ({"swa": {"cycle": 3}}, 4, "one.swa"),
        ({"swa": {"start": 0.5}, "lp-ft": 2}, 4, "one.swa"),
    ],
)  # fmt: skip
def test_what_the_ladder_cannot_carry_is_refused(strategy: Any, rungs: int, place: str) -> None:
    """Blocks that are drawn anew and frozen, more of them than there are; an average of one snapshot."""
    with pytest.raises(InputError) as caught:
        recipe(3, **strategy).check(rungs, "one")
    assert caught.value.mistakes[0].place == place


def test_only_what_is_as_it_was_pretrained_comes_from_the_store() -> None:
    """What a part has changed before training is not, what a stage has trained neither, until a restart."""
    stages = [Stage(1, 4), Stage(1, 1), Stage(1, 3)]
    again = [replace(stages[0], restart=True), *stages[1:]]
    assert untouched(stages + again) == [4, 1, 1, 4, 1, 1]
    assert untouched([replace(stage, changed=2) for stage in stages + again]) == [2, 1, 1, 2, 1, 1]
    assert first_run(stages + again) == tuple(stages)


# -- trials ----------------------------------------------------------------------------------------


def member_of(planned: Any, folder: Path, strategy: Any, **changes: Any) -> Member:
    plan, workspace = planned(strategy, **changes)
    trial = trial_of(plan)
    job = job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), torch.device("cpu"))
    return Member(job, Progress(), None, Checkpoints(ResultPaths(folder), "t", 1e9))


def weights(member: Member) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in member.job.tuned.model.named_parameters()}


def trained(member: Member) -> list[dict[str, torch.Tensor]]:
    """Train; the weights that train, after each evaluation."""
    found = [weights(member) for _ in fit([member])]
    assert member.error is None
    return found


def every(steps: int, **changes: Any) -> dict[str, Any]:
    """The loop's settings of `planned`, with an evaluation every so many steps."""
    return {"training": {
        "epochs": 6, "batch_size": 8, "max_length": 16, "evaluate_every": steps, "warmup": 0.0,
        "schedule": "constant", "keep": "last", **changes,
    }}  # fmt: skip


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], rtol: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=rtol, atol=1e-7, msg=name)


@pytest.mark.parametrize("beside", [{}, {"chain-thaw": 1}, {"lp-ft": 2}])
def test_wise_ft_scores_the_way_between_start_and_end(beside: Any, planned: Any, tmp_path: Path) -> None:
    """(1 − α)·θ⁰ + α·θ below the head, whichever stage trained a weight; θ is that of training without it."""
    plain = member_of(planned, tmp_path, {**beside, "freeze": 1})
    head = {name for name, _ in plain.job.tuned.ladder.head.parameters}
    before = weights(plain)
    after = trained(plain)[-1]
    mixed = member_of(planned, tmp_path, {**beside, "freeze": 1, "wise-ft": 0.3})
    on_the_way = trained(mixed)
    same(on_the_way[-1], after, rtol=0)
    wanted = {n: p if n in head else 0.7 * before[n].double() + 0.3 * p.double() for n, p in after.items()}
    same(weights(mixed), {name: value.float() for name, value in wanted.items()})
    assert mixed.progress.curve[-1]["validation_loss"] != plain.progress.curve[-1]["validation_loss"]


@pytest.mark.parametrize("beside", [{}, {"chain-thaw": 1}])
def test_ema_averages_every_step_of_every_weight(beside: Any, planned: Any, tmp_path: Path) -> None:
    """Also of those that rest in the stage, whose average comes to their value."""
    member = member_of(planned, tmp_path, {**beside, "ema": 0.9}, **every(1))
    average = {name: value.double() for name, value in weights(member).items()}
    for step, now in enumerate(trained(member), start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * value for name, value in now.items()}
    same(weights(member), {name: value.float() for name, value in average.items()}, rtol=1e-4)


@pytest.mark.parametrize(
    ("swa", "beside", "snapshots"),
    [
        ({"start": 0.5}, {}, [3, 4, 5, 6]), ({"start": 0.0, "cycle": 2}, {}, [1, 3, 5]),
        ({"start": 0.75, "held": 0.5}, {}, [5, 6]), ({"start": 0.5}, {"lp-ft": 2}, [4, 5, 6]),
    ],
)  # fmt: skip
def test_swa_is_the_mean_of_its_snapshots(
    swa: Any,
    beside: Any,
    snapshots: list[int],
    planned: Any,
    tmp_path: Path,
) -> None:
    """At the ends of epochs, of the last stage; until there is one, the weights themselves are scored."""
    member = member_of(planned, tmp_path, {"swa": swa, **beside}, **every(4))
    epochs = trained(member)
    wanted = {
        name: torch.stack([epochs[epoch - 1][name] for epoch in snapshots]).double().mean(dim=0).float()
        for name in epochs[0]
    }
    same(weights(member), wanted, rtol=1e-4)


@pytest.mark.parametrize(("held", "share"), [(None, 0.5), (0.2, 0.2)])
def test_swa_holds_the_rates_from_its_start(
    held: float | None, share: float, planned: Any, tmp_path: Path
) -> None:
    """Where the linear schedule has brought them, or at a share of the peak; before, the schedule's."""
    strategy = {"swa": {"start": 0.5, "held": held}, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    member = member_of(planned, tmp_path, strategy, **every(4, schedule="linear"))
    rates: list[float] = []
    stepping = member._moments["swa"].stepping

    def watched(groups: list[dict[str, Any]]) -> None:
        stepping(groups)
        rates.extend({group["lr"] for group in groups})

    member._moments["swa"].stepping = watched  # type: ignore[method-assign]
    trained(member)
    assert rates == pytest.approx([0.1 * (1 - t / 24) for t in range(12)] + [0.1 * share] * 12)


def test_a_stage_without_weights_is_told(planned: Any, models: Any) -> None:
    """GPT-2's embeddings have no biases: told before anything runs."""
    backbones = [{"name": "tiny", "path": str(models("gpt2"))}]
    with pytest.raises(InputError) as caught:
        planned({"bitfit": True, "chain-thaw": 1}, backbones=backbones)
    (mistake,) = caught.value.mistakes
    assert mistake.place.endswith("strategies.one.bitfit")
    assert mistake.reason == "leaves a stage in which nothing of a gpt2 model trains"


# -- soups -----------------------------------------------------------------------------------------


def greedy(models: list[dict[str, torch.Tensor]], score: Callable[[Any], float]) -> dict[str, torch.Tensor]:
    """Recipe 1 of the paper, in its words."""

    def average(chosen: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: sum(model[name] for model in chosen) / len(chosen) for name in chosen[0]}  # type: ignore[misc]

    ingredients: list[dict[str, torch.Tensor]] = []
    for model in sorted(models, key=score, reverse=True):
        before = score(average(ingredients)) if ingredients else -math.inf
        if score(average([*ingredients, model])) >= before:
            ingredients.append(model)
    return average(ingredients)


@pytest.mark.parametrize("seed", range(8))
def test_the_soup_is_the_paper_s_recipe(seed: int) -> None:
    """On models of two tensors and a score that some averages are better by, and some worse."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    goal = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def score(found: Mapping[str, torch.Tensor]) -> float:
        return -sum(float((found[name] - goal[name]).square().sum()) for name in goal)

    setting: Any = type("Setting", (), {"tuned": type("Tuned", (), {"model": model})})
    moments = Soup(rates=(0.5, 1.0, 2.0, 4.0)).bind(setting)
    moments._names = set(goal)  # type: ignore[attr-defined]
    models = []
    for index in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        models.append({name: p.detach().clone() for name, p in model.named_parameters()})
        if index < 3:
            moments.restarting()
    assert moments.finished(lambda: score(dict(model.named_parameters())))
    same(dict(model.named_parameters()), greedy(models, score))


def test_ingredients_start_alike_and_the_soup_is_scored(planned: Any, tmp_path: Path) -> None:
    """The first is the plain training at its rate; each starts from the same weights; what comes of them is
    no worse on validation than the best, and is the trial's point; all of it is counted."""
    changes = {"training": {"epochs": 2, "batch_size": 8, "max_length": 16}}
    rate = {"optimizer": {"learning_rate": 3e-3}}
    third = member_of(planned, tmp_path, {"optimizer": {"learning_rate": 3e-3 * 0.3}}, **changes)
    trained(third)
    member = member_of(planned, tmp_path, {**rate, "soup": [0.3, 1.0]}, **changes)
    start, entered = weights(member), []
    enter = member.enter
    member.enter = lambda *a, **k: (enter(*a, **k), entered.append(weights(member)))  # type: ignore[assignment]
    trained(member)
    assert len(entered) == 2
    same(entered[1], start, rtol=0)
    curve = member.progress.curve
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4, 4]
    for ours, plain in zip(curve[:2], third.progress.curve, strict=True):
        assert ours["validation_loss"] == pytest.approx(plain["validation_loss"], rel=1e-5)
    primary = member.job.task.primary_metric
    assert member.progress.best == 4
    assert curve[4]["validation"][primary] >= max(point["validation"][primary] for point in curve[:4])
    training = 2 * third.progress.flops
    tasted = member.progress.flops - training
    evaluation = len(member.validation) * sum(member.job.flops)
    assert tasted == pytest.approx(evaluation * round(tasted / evaluation))
    assert 3 <= round(tasted / evaluation) <= 4


@pytest.mark.parametrize(
    "strategy", [{"reinit": 1}, {"reinit": 1, "lp-ft": 1}, {"soup": [0.5, 1], "lp-ft": 1}]
)
def test_stored_prefixes_are_those_of_the_weights_that_train(strategy: Any, tmp_path: Path) -> None:
    """Blocks that are drawn anew give something else than pretrained ones; after a restart the store counts
    again: a trial is the same with and without it."""
    changes = {"strategies": {"one": {"freeze": 1, **strategy}}}
    plan = family_planned("resnet", "image-classification", tmp_path, 1, "fp32", **changes)
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    shared = run(trial, workspace_of(plan, tmp_path / "shared"), points=1)
    alone = run(trial, replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False))
    assert shared["sharing"]["stored"]
    close(shared, alone, 1e-4)


# -- drawing anew ----------------------------------------------------------------------------------


def test_blocks_are_drawn_as_the_family_draws_them(models: Any) -> None:
    """The top blocks and the pooler: matrices normal, biases 0, gains 1; the rest as it was; by a seed; no
    reference for regularisers."""
    tuned = tiny(models)
    before = {name: p.detach().clone() for name, p in tuned.model.named_parameters()}

    def drawn(seed: int) -> dict[str, torch.Tensor]:
        other = replace(tuned, model=copy.deepcopy(tuned.model))
        other.ladder = type(tuned.ladder)([], tuned.ladder.head)
        from harness.backbones.ladder import build_ladder

        other.ladder = build_ladder(other.model)
        torch.manual_seed(seed)
        PARTS["reinit"](blocks=2).prepare(other, 0)  # type: ignore[call-arg]
        tuned.anew = other.anew
        return {name: p.detach() for name, p in other.model.named_parameters()}

    first, again, other = drawn(0), drawn(0), drawn(1)
    top = {name for rung in tuned.ladder.rungs[2:] for name, _ in rung.parameters}
    assert any("pooler" in name for name in top) and top == tuned.anew
    matrices = []
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if name not in top:
            assert torch.equal(value, before[name]), name
        elif name.endswith("bias"):
            assert not value.any(), name
        elif "LayerNorm" in name:
            assert (value == 1).all(), name
        else:
            assert not torch.equal(value, other[name]) and not torch.equal(value, before[name]), name
            matrices.append(value.flatten())
    assert torch.cat(matrices).std().item() == pytest.approx(tuned.model.config.initializer_range, rel=0.05)
    assert all(w.reference is None for w in tuned.weights(Stage(1, 2)))
    assert all(w.reference is not None for w in tuned.weights(Stage(1, 0)) if w.rung in (0, 1))


@pytest.mark.parametrize(
    ("family", "kind"), [("resnet", "image-classification"), ("wav2vec2", "audio-classification")]
)
def test_every_weight_of_a_block_is_drawn(family: str, kind: str, tmp_path: Path) -> None:
    """Whatever the family initialises itself, and what only its constructor sets: finite, and statistics of
    BatchNorm begin anew."""
    plan = family_planned(family, kind, tmp_path, 0, "fp32", strategies={"one": {"reinit": 1}})
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
    job = job_of(
        trial.as_dict(), workspace_of(plan, tmp_path / "out"), parse(trial.recipe, "one"), torch.device("cpu")
    )
    for name, parameter in job.tuned.ladder.rungs[-1].parameters:
        assert parameter.isfinite().all(), name
        assert name in job.tuned.anew
        if parameter.ndim > 1:
            assert not torch.equal(parameter, job.tuned.reference[name]), name
    for module in job.tuned.ladder.rungs[-1].modules:
        if isinstance(module, torch.nn.BatchNorm2d):
            assert not module.running_mean.any() and (module.running_var == 1).all()  # type: ignore[union-attr]


# -- statistics of BatchNorm -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        {"swa": {"start": 0.5}}, {"wise-ft": 0.5}, {"soup": [0.5, 1]},
        {"optimizer": {"name": "schedule-free"}, "training": {"schedule": "constant"}},
    ],
)  # fmt: skip
def test_averages_of_a_model_with_batchnorm(strategy: Any, tmp_path: Path) -> None:
    """They train, are scored and go on where they were interrupted."""
    training = {"epochs": 4, "batch_size": 8, **strategy.get("training", {})}
    changes = {"strategies": {"one": strategy}, "training": training, "optimizer": {"learning_rate": 1e-3}}
    plan = family_planned("resnet", "image-classification", tmp_path, 0, "fp32", **changes)
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    whole = run(trial, workspace_of(plan, tmp_path / "whole"))
    close(run(trial, workspace_of(plan, tmp_path / "halves"), points=3), whole, 1e-5)


def test_statistics_are_those_of_torch_s_update_bn(tmp_path: Path) -> None:
    """On the batches that the trial gives; only of what trains; after it they are as before."""
    plan = family_planned("resnet", "image-classification", tmp_path, 0, "fp32")
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
    job = job_of(
        trial.as_dict(), workspace_of(plan, tmp_path / "out"), parse(trial.recipe, "one"), torch.device("cpu")
    )
    reference = copy.deepcopy(job.tuned.model)
    names = [n for n, m in reference.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    pixels = [batch["pixel_values"] for batch in job.sample(10**6)]
    assert sum(map(len, pixels)) == len(job.train)
    torch.optim.swa_utils.update_bn(pixels, reference)
    before = copy.deepcopy(job.tuned.model.state_dict())
    with recomputed(job, Stage(1)):
        for name in names:
            ours, wanted = (model.get_submodule(name) for model in (job.tuned.model, reference))
            torch.testing.assert_close(ours.running_mean, wanted.running_mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.running_var, wanted.running_var, rtol=1e-4, atol=1e-5)
            assert not torch.equal(ours.running_mean, before[f"{name}.running_mean"])
    stem = {id(module) for module in job.tuned.ladder.rungs[0].modules}
    with recomputed(job, Stage(1, frozen=1)):
        for name in names:
            ours = job.tuned.model.get_submodule(name)
            kept = torch.equal(ours.running_mean, before[f"{name}.running_mean"])
            assert kept == (id(ours) in stem), name
    for name, value in job.tuned.model.state_dict().items():
        assert torch.equal(value, before[name]), name


# -- schedules -------------------------------------------------------------------------------------


def rates(settings: dict[str, Any], steps: int) -> list[float]:
    """The share of the peak in each step, of two groups alike."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = schedule_of(build(Training, settings, "training"), optimizer, steps)
    found = []
    for _ in range(steps):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(first / 10)
        found.append(first)
        optimizer.step()
        schedule.step()
    return found


def slanted(step: int, steps: int, cut_frac: float = 0.1, ratio: float = 32.0) -> float:
    """Howard & Ruder 2018, eq. 3."""
    cut = math.floor(steps * cut_frac)
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "slanted triangle": ({"warmup": 0.1, "floor": 1 / 32}, lambda t: slanted(t, 50)),
    "polynomial": ({"schedule": "polynomial", "power": 2.0, "warmup": 0.1},
                   lambda t: t / 5 if t < 5 else ((50 - t) / 45) ** 2),
    "polynomial, to a floor": ({"schedule": "polynomial", "power": 0.5, "warmup": 0, "floor": 0.1},
                               lambda t: 0.1 + 0.9 * ((50 - t) / 50) ** 0.5),
    "inverse square root": ({"schedule": "inverse-sqrt", "warmup": 0.1},
                            lambda t: min(t / 5, math.sqrt(5 / max(t, 1)))),
    "cosine, to a floor": ({"schedule": "cosine", "warmup": 0, "floor": 0.25},
                           lambda t: 0.25 + 0.75 * (1 + math.cos(math.pi * t / 50)) / 2),
    "Mosbach et al. 2021": ({"schedule": "linear", "warmup": 0.1},
                            lambda t: t / 5 if t < 5 else (50 - t) / 45),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules_are_those_of_the_papers(case: str) -> None:
    settings, formula = SCHEDULES[case]
    assert rates(settings, 50) == pytest.approx([formula(t) for t in range(50)])


def test_one_cycle_is_torch_s() -> None:
    """Torch's counts from the middle of steps, so to say: its peak is one step early, and its end, too."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=51, pct_start=16 / 51, cycle_momentum=False
    )
    wanted = []
    for _ in range(50):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates({"schedule": "one-cycle", "warmup": 0.3}, 50) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "schedule", ["linear", "cosine", "constant", "polynomial", "inverse-sqrt", "one-cycle"]
)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_schedule_lasts_for_any_number_of_steps(schedule: str, warmup: float, steps: int) -> None:
    """Without a warm-up, with one of a step and with nothing else; rates stay within 0 and the peak."""
    found = rates({"schedule": schedule, "warmup": warmup, "power": 2.0}, steps)
    assert all(0 <= rate <= 1 for rate in found)


def test_settings_that_came_later_leave_old_recipes_their_hash() -> None:
    """They are written only where they say something, and read back; equal schedules are one recipe."""
    old = recipe(3).canonical(4)
    assert not {"power", "floor"} & old.as_dict()["training"].keys()
    for changed in ({"schedule": "polynomial", "power": 1.0}, {"power": 3.0}, {"floor": 0.0}):
        same_way = recipe(3, training={"epochs": 3, **changed}).canonical(4)
        assert same_way.as_dict() == old.as_dict()
    new = recipe(3, training={"epochs": 3, "floor": 0.1, "schedule": "polynomial", "power": 2.0})
    assert parse(new.as_dict(), "one") == new and new.as_dict()["training"]["floor"] == 0.1


# -- optimisers ------------------------------------------------------------------------------------

STEPS = 7
VECTOR = np.array([0.7, -0.2, 0.0])


def slope(w: Any) -> Any:
    return gradient(w) if w.ndim == 2 else w - 0.3


def adam_moments(g: Any, m: Any, v: Any, t: int, b1: float, b2: float) -> Any:
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    return m, v, m / (1 - b1**t), v / (1 - b2**t)


def lamb(w: Any, lr: float, decay: float, eps: float) -> Any:
    m, v, adapts = np.zeros_like(w), np.zeros_like(w), w.ndim == 2
    for t in range(1, STEPS + 1):
        m, v, mh, vh = adam_moments(slope(w), m, v, t, 0.9, 0.999)
        u = mh / (np.sqrt(vh) + eps) + (decay * w if adapts else 0)
        w = w - lr * (np.linalg.norm(w) / np.linalg.norm(u) if adapts else 1.0) * u
    return w


def lars(w: Any, lr: float, decay: float, momentum: float, trust: float) -> Any:
    v = np.zeros_like(w)
    for _ in range(STEPS):
        g = slope(w)
        if w.ndim == 2:
            size = np.linalg.norm(w)
            g = trust * size / (np.linalg.norm(g) + decay * size) * (g + decay * w)
        v = momentum * v + g
        w = w - lr * v
    return w


def lion(w: Any, lr: float, decay: float, b1: float, b2: float) -> Any:
    m, decay = np.zeros_like(w), decay if w.ndim == 2 else 0.0
    for _ in range(STEPS):
        g = slope(w)
        w = w - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * w)
        m = b2 * m + (1 - b2) * g
    return w


def adafactor(w: Any, lr: float, decay: float, tau: float, d: float) -> Any:
    r = c = v = 0.0
    decay = decay if w.ndim == 2 else 0.0
    for t in range(1, STEPS + 1):
        g, beta = slope(w), 1 - float(t) ** tau
        rate = max(1e-3, math.sqrt((w**2).mean())) * min(lr, 1 / math.sqrt(t))
        w = w - lr * decay * w
        if w.ndim == 2:
            r = beta * r + (1 - beta) * (g * g).mean(axis=1, keepdims=True)
            c = beta * c + (1 - beta) * (g * g).mean(axis=0, keepdims=True)
            second = r * c / r.mean()
        else:
            v = beta * v + (1 - beta) * g * g
            second = v
        u = g / np.sqrt(second)
        w = w - rate * u / max(1.0, math.sqrt((u**2).mean()) / d)
    return w


def nadamw(w: Any, lr: float, decay: float, psi: float) -> Any:
    m, v, product = np.zeros_like(w), np.zeros_like(w), 1.0
    decay = decay if w.ndim == 2 else 0.0
    for t in range(1, STEPS + 1):
        g = slope(w)
        mu, following = (0.9 * (1 - 0.5 * 0.96 ** (k * psi)) for k in (t, t + 1))
        product *= mu
        m, v, _, vh = adam_moments(g, m, v, t, 0.9, 0.999)
        first = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
        w = w - lr * decay * w - lr * first / (np.sqrt(vh) + 1e-8)
    return w


def radam(w: Any, lr: float, decay: float) -> Any:
    m, v, b2 = np.zeros_like(w), np.zeros_like(w), 0.999
    decay, most = decay if w.ndim == 2 else 0.0, 2 / (1 - 0.999) - 1
    for t in range(1, STEPS + 1):
        m, v, mh, _ = adam_moments(slope(w), m, v, t, 0.9, b2)
        rho = most - 2 * t * b2**t / (1 - b2**t)
        w = w - lr * decay * w
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
            w = w - lr * mh * r * math.sqrt(1 - b2**t) / (np.sqrt(v) + 1e-8)
        else:
            w = w - lr * mh
    return w


def schedule_free(w: Any, lr: float, decay: float) -> Any:
    """x, which is scored."""
    z, x, v = w.copy(), w.copy(), np.zeros_like(w)
    decay = decay if w.ndim == 2 else 0.0
    for t in range(1, STEPS + 1):
        y = 0.1 * z + 0.9 * x
        g = slope(y)
        v = 0.999 * v + 0.001 * g * g
        z = z - lr * (g / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * y)
        x = (1 - 1 / t) * x + z / t
    return x


FORMULAS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "lamb": ("lamb", {"learning_rate": 0.1, "weight_decay": 0.2}, lambda w: lamb(w, 0.1, 0.2, 1e-6)),
    "lamb, no decay": ("lamb", {"learning_rate": 0.1, "weight_decay": 0.0, "epsilon": 0.01},
                       lambda w: lamb(w, 0.1, 0.0, 0.01)),
    "lars": ("lars", {"learning_rate": 2.0, "weight_decay": 0.2, "trust": 0.01},
             lambda w: lars(w, 2.0, 0.2, 0.9, 0.01)),
    "lars, no decay": ("lars", {"learning_rate": 0.5, "momentum": 0.5},
                       lambda w: lars(w, 0.5, 0.0, 0.5, 1e-3)),
    "lion": ("lion", {"learning_rate": 0.1, "weight_decay": 0.2}, lambda w: lion(w, 0.1, 0.2, 0.9, 0.99)),
    "lion, other moments": ("lion", {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.2},
                            lambda w: lion(w, 0.1, 0.05, 0.5, 0.2)),
    "adafactor": ("adafactor", {"learning_rate": 0.1, "weight_decay": 0.2},
                  lambda w: adafactor(w, 0.1, 0.2, -0.8, 1.0)),
    "adafactor, other": ("adafactor", {"learning_rate": 0.9, "beta2_decay": -0.5, "clip_update": 2.0},
                         lambda w: adafactor(w, 0.9, 0.0, -0.5, 2.0)),
    "nadamw": ("nadamw", {"learning_rate": 0.1, "weight_decay": 0.2}, lambda w: nadamw(w, 0.1, 0.2, 4e-3)),
    "radam": ("radam", {"learning_rate": 0.1, "weight_decay": 0.2}, lambda w: radam(w, 0.1, 0.2)),
    "schedule-free": ("schedule-free", {"learning_rate": 0.1, "weight_decay": 0.2},
                      lambda w: schedule_free(w, 0.1, 0.2)),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMULAS)
def test_seven_steps_equal_the_formula(case: str) -> None:
    """A matrix, and a vector that neither decays nor has an adaptive rate of its own."""
    name, given, formula = FORMULAS[case]
    plugin = build(plugins("optimizers", Optimizer)[name], given, "here")
    pair = [torch.nn.Parameter(torch.tensor(start)) for start in (START, VECTOR)]
    groups = [
        {"params": [p], "lr": plugin.learning_rate, "weight_decay": decay}
        for p, decay in zip(pair, (plugin.weight_decay, 0.0), strict=True)
    ]
    optimizer = plugin.build(groups)
    for _ in range(STEPS):
        for parameter in pair:
            parameter.grad = torch.tensor(slope(numpy(parameter)))
        optimizer.step()
    moving = [numpy(parameter) for parameter in pair]
    setting: Any = type("Setting", (), {"tuned": type("Tuned", (), {"ladder": _NO_LADDER})})
    with plugin.scoring(optimizer, setting, Stage(1)):
        for parameter, start in zip(pair, (START, VECTOR), strict=True):
            np.testing.assert_allclose(numpy(parameter), formula(start), rtol=1e-6)
            assert not np.allclose(formula(start), start)
    for parameter, before in zip(pair, moving, strict=True):
        np.testing.assert_array_equal(numpy(parameter), before)
    plugin.leave(optimizer)
    for parameter, start in zip(pair, (START, VECTOR), strict=True):
        np.testing.assert_allclose(numpy(parameter), formula(start), rtol=1e-6)


_NO_LADDER = type("Ladder", (), {"rungs": [], "head": type("Rung", (), {"modules": []})})


@pytest.mark.parametrize("name", ["lamb", "lars", "lion", "adafactor", "nadamw", "radam", "schedule-free"])
def test_a_trial_goes_on_with_its_optimiser(name: str, planned: Any, tmp_path: Path) -> None:
    """Interrupted in the middle of the second stage of two, it comes to the same to the bit."""
    plan, workspace = planned({"optimizer": {"name": name, "learning_rate": 1e-3}, "lp-ft": 2})
    whole = result(plan, workspace)
    result(plan, workspace, points=7)
    assert result(plan, workspace) == whole
