"""Optimisers, regularisers and freezing: each equals its formula, computed here without the harness."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import InputError
from harness.optimizers.base import Optimizer
from harness.recipe import Recipe, Training
from harness.registry import Plugin, build, plugins
from harness.regularizers.base import Regularizer
from harness.stage import Stage
from harness.strategies.base import Part
from harness.strategies.freeze import Freeze
from harness.training.kept import distance
from harness.training.model import FineTuned, parameter_groups
from harness.weights import Weight

REGULARIZERS = plugins("regularizers", Regularizer)
OPTIMIZERS = plugins("optimizers", Optimizer)
PARTS = plugins("strategies", Part)
ALL: dict[str, type[Plugin]] = {
    f"{kind}/{name}": plugin
    for kind, found in (("regularizers", REGULARIZERS), ("optimizers", OPTIMIZERS), ("strategies", PARTS))
    for name, plugin in found.items()
    if plugin.__module__.startswith("harness.")  # not those that tests break trials with
}

every_part = pytest.mark.parametrize("name", sorted(ALL))


# Regularisers that need the model and the data of a trial; each is tested on one in test_towards_start.py.
OF_A_TRIAL = {"ewc", "l2-sp-fisher"}


# -- every plug-in ---------------------------------------------------------------------------------


def test_what_ships_is_found() -> None:
    assert set(ALL) >= {
        "optimizers/adam", "optimizers/adamw", "optimizers/sgd",
        "regularizers/l2", "regularizers/l2-sp", "strategies/freeze",
    }  # fmt: skip


@every_part
def test_defaults_are_published(name: str) -> None:
    """Every part can be had by its name alone, cites where it and its defaults come from, and says what it
    does."""
    ALL[name]()
    assert ALL[name].source
    assert (ALL[name].__doc__ or "").strip()


@every_part
def test_settings_survive_being_written_and_read(name: str) -> None:
    plugin = ALL[name]()
    assert build(ALL[name], json.loads(plugin.model_dump_json()), "here") == plugin


@every_part
def test_wrong_settings_are_refused_at_their_place(name: str) -> None:
    """A setting that does not exist, and for every number: not finite, text, a truth value."""
    with pytest.raises(InputError) as caught:
        build(ALL[name], {"no_such_setting": 1}, "here")
    assert [m.place for m in caught.value.mistakes] == ["here.no_such_setting"]
    for key, field in ALL[name].model_fields.items():
        if field.annotation is not float:
            continue
        for wrong in (float("nan"), float("inf"), "1", True, None):
            with pytest.raises(InputError) as caught:
                build(ALL[name], {key: wrong}, "here")
            assert all(m.place.startswith("here") for m in caught.value.mistakes)


# -- regularisers ----------------------------------------------------------------------------------


def weights() -> list[Weight]:
    """Two tensors of the ladder with their pretrained values, and two of the head."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        Weight("w", torch.nn.Parameter(draw(3, 4)), draw(3, 4)),
        Weight("b", torch.nn.Parameter(draw(5)), draw(5)),
        Weight("head.w", torch.nn.Parameter(draw(2, 3)), None),
        Weight("head.b", torch.nn.Parameter(draw(2)), None),
    ]


def numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().numpy().copy()


def pulled(weight: Weight, to_start: bool) -> np.ndarray[Any, Any]:
    """w − r, where r is the pretrained value or 0."""
    start = numpy(weight.reference) if to_start and weight.reference is not None else 0.0
    return numpy(weight.value) - start


# name → settings, and the coefficient c of each tensor in Σ (c/2)·‖w − r‖²
QUADRATIC: dict[str, tuple[dict[str, Any], bool, Callable[[Weight], float]]] = {
    "l2": ({"strength": 0.3}, False, lambda w: 0.3),
    "l2-sp": (
        {"strength": 0.3, "head_strength": 0.7}, True, lambda w: 0.7 if w.reference is None else 0.3,
    ),
    "l2-sp without β": ({"strength": 0.3}, True, lambda w: 0.0 if w.reference is None else 0.3),
}  # fmt: skip


@pytest.mark.parametrize("case", QUADRATIC)
def test_penalty_and_its_gradient_equal_the_formula(case: str) -> None:
    """With the halves: Σ (c/2)·‖w − r‖², whose gradient is c·(w − r)."""
    settings, to_start, coefficient = QUADRATIC[case]
    bound = weights()
    penalty = build(REGULARIZERS[case.split()[0]], settings, "here").bind(bound)
    value = penalty.value()
    expected = sum(coefficient(w) / 2 * (pulled(w, to_start) ** 2).sum() for w in bound)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value.backward()
    for weight in bound:
        assert weight.value.grad is not None
        np.testing.assert_allclose(
            numpy(weight.value.grad), coefficient(weight) * pulled(weight, to_start), rtol=1e-12, atol=1e-15
        )
    # the closed form that the loop uses adds to what is there, times the scale of a loss scaler
    assert penalty.backward(scale=2.0).item() == pytest.approx(expected, rel=1e-12)
    for weight in bound:
        assert weight.value.grad is not None
        wanted = 3 * coefficient(weight) * pulled(weight, to_start)
        np.testing.assert_allclose(numpy(weight.value.grad), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", QUADRATIC)
def test_decoupled_step_moves_by_rate_times_gradient(case: str) -> None:
    """w ← w − η·c·(w − r), with each tensor's own η, and no gradient left behind."""
    settings, to_start, coefficient = QUADRATIC[case]
    bound = weights()
    rates = {weight.value: 0.01 * (index + 1) for index, weight in enumerate(bound)}
    expected = [
        numpy(w.value) - rates[w.value] * coefficient(w) * pulled(w, to_start) for w in bound
    ]  # fmt: skip
    regularizer = build(REGULARIZERS[case.split()[0]], {**settings, "mode": "decoupled"}, "here")
    regularizer.bind(bound).shrink(rates)
    for weight, wanted in zip(bound, expected, strict=True):
        np.testing.assert_allclose(numpy(weight.value), wanted, rtol=1e-12)
        assert weight.value.grad is None and weight.value.requires_grad


@pytest.mark.parametrize("name", sorted((set(REGULARIZERS) & {n.split("/")[1] for n in ALL}) - OF_A_TRIAL))
def test_every_regulariser_has_a_gradient_and_a_decoupled_step_that_agree(name: str) -> None:
    """Whatever the formula: the decoupled step is −η times the gradient of the value."""
    bound = weights()
    penalty = REGULARIZERS[name]().bind(bound)
    penalty.value().backward()
    before = [numpy(w.value) for w in bound]
    penalty.shrink({w.value: 0.05 for w in bound})
    moved = 0.0
    for weight, start in zip(bound, before, strict=True):
        assert weight.value.grad is not None
        np.testing.assert_allclose(numpy(weight.value), start - 0.05 * numpy(weight.value.grad), rtol=1e-9)
        moved += float(np.abs(numpy(weight.value) - start).sum())
    assert moved > 0


def test_zero_strength_is_no_regulariser() -> None:
    """`λ = 0` and "none" are one trial, whatever the mode; a value that acts stays as it is."""
    for plugin in ("l2", "l2-sp"):
        for mode in ("loss", "decoupled"):
            zero = build(REGULARIZERS[plugin], {"strength": 0, "mode": mode}, "here")
            assert zero.canonical(no_start=False) is None and zero.canonical(no_start=True) is None
            acts = build(REGULARIZERS[plugin], {"strength": 0.1, "mode": mode}, "here")
            assert acts.canonical(no_start=False) == acts


def test_a_pull_to_the_start_is_inert_where_only_the_head_trains() -> None:
    """The head has no start; L2 towards zero does act on it, and so does L2-SP's β."""
    pull = build(REGULARIZERS["l2-sp"], {"strength": 0.1}, "here")
    assert pull.canonical(no_start=True) is None
    both = build(REGULARIZERS["l2-sp"], {"strength": 0.1, "head_strength": 0.2}, "here")
    other = build(REGULARIZERS["l2-sp"], {"strength": 5.0, "head_strength": 0.2}, "here")
    assert both.canonical(no_start=True) == other.canonical(no_start=True)
    assert both.canonical(no_start=True) is not None
    l2 = build(REGULARIZERS["l2"], {"strength": 0.1}, "here")
    assert l2.canonical(no_start=True) == l2


@pytest.mark.parametrize("name", ["l2", "l2-sp"])
@pytest.mark.parametrize("head_only", [False, True])
def test_the_canonical_form_trains_the_same_way(name: str, head_only: bool) -> None:
    """Merging trials changes no number: same penalty on the weights that train."""
    grid = [(s, h) for s in (0.0, 0.4) for h in (0.0, 0.6)]
    for strength, head_strength in grid:
        settings = {"strength": strength} | ({"head_strength": head_strength} if name == "l2-sp" else {})
        regularizer = build(REGULARIZERS[name], settings, "here")
        bound = [w for w in weights() if not head_only or w.reference is None]
        simple = regularizer.canonical(head_only)
        value = regularizer.bind(bound).value().item()
        assert value == pytest.approx(0.0 if simple is None else simple.bind(bound).value().item(), abs=1e-12)


@pytest.mark.parametrize("name", ["l2", "l2-sp"])
@pytest.mark.parametrize("settings", [{"strength": -1.0}, {"mode": "both"}])
def test_wrong_strength_or_mode_is_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        build(REGULARIZERS[name], settings, "here")
    assert caught.value.mistakes[0].place == f"here.{next(iter(settings))}"


# -- optimisers ------------------------------------------------------------------------------------

START = np.array([[1.0, -2.0], [0.5, 3.0]])
TARGET = np.array([[0.0, 1.0], [-1.0, 2.0]])
SCALE = np.array([[1.0, 4.0], [0.25, 2.0]])


def gradient(w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of ½·Σ scale·(w − target)²."""
    return SCALE * (w - TARGET)


def adam(w: Any, steps: int, lr: float, decay: float, b1: float, b2: float, eps: float, coupled: bool) -> Any:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        g = gradient(w) + (decay * w if coupled else 0)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * (step + (0 if coupled else decay * w))
    return w


def sgd(w: Any, steps: int, lr: float, decay: float, momentum: float, nesterov: bool) -> Any:
    v = np.zeros_like(w)
    for _ in range(steps):
        g = gradient(w) + decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


OPTIMIZER_CASES: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "adam": ("adam", {"learning_rate": 0.1, "weight_decay": 0.2},
             lambda w: adam(w, 3, 0.1, 0.2, 0.9, 0.999, 1e-8, True)),
    "adam, other moments": ("adam", {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.8, "epsilon": 0.01},
                            lambda w: adam(w, 3, 0.1, 0.0, 0.5, 0.8, 0.01, True)),
    "adamw": ("adamw", {"learning_rate": 0.1, "weight_decay": 0.2},
              lambda w: adam(w, 3, 0.1, 0.2, 0.9, 0.999, 1e-8, False)),
    "adamw, default decay": ("adamw", {"learning_rate": 0.1},
                             lambda w: adam(w, 3, 0.1, 0.01, 0.9, 0.999, 1e-8, False)),
    "sgd": ("sgd", {"learning_rate": 0.1, "weight_decay": 0.2, "momentum": 0.5},
            lambda w: sgd(w, 3, 0.1, 0.2, 0.5, False)),
    "sgd, no momentum": ("sgd", {"learning_rate": 0.1, "momentum": 0.0, "nesterov": True},
                         lambda w: sgd(w, 3, 0.1, 0.0, 0.0, False)),
    "sgd, nesterov": ("sgd", {"learning_rate": 0.1, "momentum": 0.5, "nesterov": True},
                      lambda w: sgd(w, 3, 0.1, 0.0, 0.5, True)),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIMIZER_CASES)
def test_three_steps_equal_the_formula(case: str) -> None:
    name, settings, formula = OPTIMIZER_CASES[case]
    settings = build(OPTIMIZERS[name], settings, "here")
    w = torch.nn.Parameter(torch.tensor(START))
    group = {"params": [w], "lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimizer = settings.build([group])
    for _ in range(3):
        w.grad = torch.tensor(gradient(numpy(w)))
        optimizer.step()
    np.testing.assert_allclose(numpy(w), formula(START), rtol=1e-12)
    assert not np.allclose(formula(START), START)


@pytest.mark.parametrize("name", sorted(n for n in OPTIMIZERS if f"optimizers/{n}" in ALL))
def test_every_optimiser_keeps_each_groups_own_rate_and_decay(name: str) -> None:
    """What `parameter_groups` says is what happens: a group with rate 0 stays, others move downhill."""
    still, moving = (torch.nn.Parameter(torch.tensor(START)) for _ in range(2))
    optimizer = OPTIMIZERS[name]().build(
        [
            {"params": [still], "lr": 0.0, "weight_decay": 0.5},
            {"params": [moving], "lr": 0.01, "weight_decay": 0.0},
        ]
    )
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.0, 0.5), (0.01, 0.0)]
    for parameter in (still, moving):
        parameter.grad = torch.tensor(gradient(START))
    optimizer.step()
    np.testing.assert_array_equal(numpy(still), START)
    assert ((numpy(moving) - START) * gradient(START) < 0).all()


@pytest.mark.parametrize("depth", ["none", "some", "all"])
def test_decay_spares_vectors_and_the_head_has_its_own_rate(depth: str, models: Any) -> None:
    """On a real model: every weight that trains is in one group, matrices decay, biases and norms do not."""
    tuned = tiny(models)
    rungs = len(tuned.ladder.rungs)
    frozen = {"none": 0, "some": 2, "all": rungs}[depth]
    settings = build(
        OPTIMIZERS["adamw"], {"learning_rate": 0.5, "head_multiplier": 8.0, "weight_decay": 0.25}, "here"
    )
    recipe = Recipe(settings, None, Training(), ())
    groups = parameter_groups(recipe, tuned.weights(Stage(1, frozen)), rungs)
    names = {id(parameter): name for name, parameter in tuned.model.named_parameters()}
    seen: list[str] = []
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            is_bias_or_norm = name.endswith(".bias") or "LayerNorm" in name
            assert group["weight_decay"] == (0.0 if is_bias_or_norm else 0.25), name
            assert group["lr"] == (4.0 if name.startswith("classifier") else 0.5), name
    expected = [
        name for rung in [*tuned.ladder.rungs[frozen:], tuned.ladder.head] for name, _ in rung.parameters
    ]
    assert sorted(seen) == sorted(expected)
    assert (len(seen) == len(names)) == (depth == "none")


def test_frozen_weights_and_the_head_have_no_reference(models: Any) -> None:
    """A regulariser sees exactly what trains; θ⁰ is there for the ladder and stays when weights move."""
    tuned = tiny(models)
    for frozen in range(len(tuned.ladder.rungs) + 1):
        seen = tuned.weights(Stage(1, frozen))
        below = {name for rung in tuned.ladder.rungs[:frozen] for name, _ in rung.parameters}
        assert not below & {w.name for w in seen}
        for weight in seen:
            assert (weight.reference is None) == weight.name.startswith("classifier")
            if weight.reference is not None:
                assert torch.equal(weight.reference, weight.value)
                assert weight.reference.data_ptr() != weight.value.data_ptr()


def test_drift_is_the_relative_distance_from_the_start(models: Any) -> None:
    """0 before training; the norm of the change over the norm of θ⁰ after it; the head does not count."""
    tuned = tiny(models)
    assert distance(tuned) == {"relative_l2": 0, "rungs": [0] * len(tuned.ladder.rungs)}
    start = {name: numpy(tuned.reference[name]) for name in tuned.reference}
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.mul_(1.5)
    size = math.sqrt(sum(float((value.astype(float) ** 2).sum()) for value in start.values()))
    assert size > 0
    found = distance(tuned)
    assert found["relative_l2"] == pytest.approx(0.5, rel=1e-6)
    assert found["rungs"] == pytest.approx([0.5] * len(tuned.ladder.rungs), rel=1e-6)


def test_state_is_restored(models: Any) -> None:
    """What a checkpoint keeps brings back every weight that may have moved, and is a copy."""
    tuned = tiny(models)
    kept = tuned.state({weight.name for weight in tuned.weights(Stage(1, 2))})
    wanted = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    with torch.no_grad():
        for rung in [*tuned.ladder.rungs[2:], tuned.ladder.head]:
            for _, parameter in rung.parameters:
                parameter.add_(1.0)
    tuned.restore(kept)
    for name, tensor in tuned.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def tiny(models: Any) -> FineTuned:
    import copy

    from harness.backbones.base import Backbone
    from harness.backbones.ladder import build_ladder

    backbone = Backbone(path=str(models("bert")))
    origin = backbone.model(
        "AutoModelForSequenceClassification", backbone.processor("AutoTokenizer"), {"num_labels": 3}
    )
    model = copy.deepcopy(origin)
    ladder = build_ladder(model)
    start = dict(origin.named_parameters())
    return FineTuned(model, ladder, {n: start[n].detach() for r in ladder.rungs for n, _ in r.parameters})


# -- freezing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "rungs", "frozen"),
    [
        (0, 7, 0), (5, 7, 5), (7, 7, 7), ("all", 7, 7), ("all", 1, 1),
        (0.0, 7, 0), (1.0, 7, 7), (0.5, 7, 4), (0.5, 8, 4), (0.75, 4, 3), (0.06, 7, 0), (0.08, 7, 1),
    ],
)  # fmt: skip
def test_depths_count_rungs_from_the_input(depth: Any, rungs: int, frozen: int) -> None:
    """An int counts rungs, a float is a share of them rounded half up, `all` is every rung."""
    freeze = build(Freeze, Freeze.settings(depth), "freeze")
    assert freeze.reason_against(rungs) == ""
    assert freeze.stages((Stage(epochs=3), Stage(epochs=1, frozen=6)), rungs) == (
        Stage(epochs=3, frozen=frozen),
        Stage(epochs=1, frozen=max(6, frozen)),
    )
    assert freeze.value() == depth and type(freeze.value()) is type(depth)


@pytest.mark.parametrize("same", [("all", 1.0, 7), (0, 0.0, 0.05), (4, 0.5), (1, 0.1)])
def test_equal_depths_have_one_canonical_form(same: tuple[Any, ...]) -> None:
    """Fraction 1.0, the number of rungs and `all` are one trial; freezing nothing is no part at all."""
    forms = [build(Freeze, Freeze.settings(depth), "freeze").canonical(7) for depth in same]
    assert all(form == forms[0] for form in forms)
    if same[0] == 0:
        assert forms[0] is None
    else:
        assert forms[0] is not None and forms[0].canonical(7) == forms[0]


@pytest.mark.parametrize("depth", [-1, 8, 1.5, -0.1, 5.0])
def test_depth_beyond_the_ladder_says_why(depth: Any) -> None:
    """A share outside [0, 1], a negative depth, more rungs than there are."""
    assert build(Freeze, Freeze.settings(depth), "freeze").reason_against(7)


@pytest.mark.parametrize("depth", [True, "everything", None, [1], {"a": 1}, float("nan")])
def test_what_is_no_depth_is_refused(depth: Any) -> None:
    with pytest.raises(InputError):
        build(Freeze, Freeze.settings(depth), "freeze")


def test_presets_are_valid_strategies_with_a_source() -> None:
    """Every ready strategy parses, and its parts work on a short and a long ladder."""
    from harness.recipe import parse

    found = {name: preset for part in PARTS.values() for name, preset in part.presets.items()}
    assert set(found) >= {"full", "head-only"}
    for name, preset in found.items():
        recipe = parse(dict(preset.definition), name)
        assert preset.source
        for rungs in (4, 30):
            recipe.check(rungs, name)
            assert recipe.stages(rungs)
