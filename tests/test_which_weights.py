"""Parts that say which weights train: masks, rates by gradient, and modules that are put into a model."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import word_task
from test_conformance import SMALL, TRIED_ON, _case
from torch import nn
from torch.nn import functional

from harness import document, spec
from harness.backbones.forward import accepted
from harness.backbones.ladder import base_of, build_ladder
from harness.errors import InputError, Mistake
from harness.moments import Moments
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.recipe import parse
from harness.registry import plugins
from harness.stage import Stage
from harness.strategies.base import Part
from harness.strategies.features import Outlet
from harness.strategies.modules.bottleneck import Bottleneck
from harness.strategies.modules.prefix import Prefix
from harness.training import prefix as sharing
from harness.training.kept import distance, put_back
from harness.training.model import FineTuned, prepared
from harness.training.run import run_trial
from harness.training.workspace import workspace_of

PARTS = plugins("strategies", Part)
KINDS = {
    "bert": "text-classification",
    "gpt2": "text-classification",
    "vit": "image-classification",
    "resnet": "image-classification",
    "wav2vec2": "audio-classification",
}
KIND_OF = {**KINDS, "timm_wrapper": "image-classification"}  # VGG, whose rungs are runs of modules
ADDED = ("adapter", "dora", "ia3", "lora", "prefix-tuning")
MERGED = ("dora", "ia3", "lora")
# What cannot be had, with a word of the reason.
REFUSED = {
    (part, family): word
    for family in ("resnet", "timm_wrapper")
    for part, word in (("ia3", "keys and values"), ("prefix-tuning", "attention"))
}
PAIRS = [(part, family) for part in ADDED for family in KINDS if (part, family) not in REFUSED]

every_pair = pytest.mark.parametrize(("name", "family"), PAIRS, ids=lambda value: value)


class Bound:
    """A model with the modules of one part, and a batch that it reads."""

    def __init__(self, part: Part, family: str, frozen: int = 0) -> None:
        case = _case(family, KINDS[family])
        self.part, self.batch, self.recipe = part, case.batch, parse({part.name: part.value()}, "one")
        self.plain = case.model.eval()
        model = copy.deepcopy(case.model).eval()
        ladder = build_ladder(model)
        start = {n: p.detach().clone() for rung in ladder.rungs for n, p in rung.parameters}
        self.tuned = prepared(FineTuned(model, ladder, start), frozen, [part], 0)
        self.tuned.model.eval()
        self.seed, self.steps, self.device = 0, 8, torch.device("cpu")
        self.weights = self.tuned.weights(Stage(1, frozen), [part])

    def moments(self) -> Moments:
        return self.part.bind(self) or Moments()  # type: ignore[arg-type]

    def shake(self) -> None:
        """As if it had been trained."""
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in self.weights:
                if weight.rung is not None:
                    weight.value.add_(0.5 * torch.randn(weight.value.shape, generator=generator))

    def __call__(self, model: Any = None) -> torch.Tensor:
        model = self.tuned.model if model is None else model
        with torch.no_grad():
            found: torch.Tensor = model(**accepted(model, self.batch)).logits
        return found


def bound(name: str, family: str = "bert", frozen: int = 0, **settings: Any) -> Bound:
    return Bound(PARTS[name](**settings), family, frozen)


# -- one rung --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "rungs", "index"),
    [(0, 7, 0), (6, 7, 6), (-1, 7, 6), (-7, 7, 0), (0.0, 7, 0), (1.0, 7, 6), (0.5, 7, 3), (0.5, 8, 4)],
)
def test_one_rung_trains(block: Any, rungs: int, index: int) -> None:
    """Counted from the input, from the top, or by its share of the way; equal ones are one trial."""
    recipe = parse({"block": block}, "one")
    recipe.check(rungs, "one")
    (stage,) = recipe.stages(rungs)
    assert [rung for rung in range(rungs) if stage.trains(rung)] == [index] and stage.head
    (part,) = recipe.canonical(rungs).parts
    assert part.value() == index


@pytest.mark.parametrize("strategy", [{"block": 7}, {"block": -8}, {"block": 1.5}, {"block": 2, "freeze": 3}])
def test_a_rung_that_is_not_there_or_frozen_is_refused(strategy: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        parse(strategy, "one").check(7, "one")


# -- rates by gradient -----------------------------------------------------------------------------


def test_rates_follow_relative_gradient_norms() -> None:
    """r = ‖g‖/‖w‖ over a rung, mean over the first two batches of each epoch, over the largest mean of a
    rung; the head keeps its rate. Four steps are an epoch."""
    part = PARTS["auto-rgn"](batches=2)
    recipe = parse({"auto-rgn": 2, "training": {"epochs": 2}}, "one")
    setting: Any = SimpleNamespace(steps=8, steps_per_epoch=4, recipe=recipe)
    rng = np.random.default_rng(0)
    weights = {0: [rng.normal(size=(3, 4)), rng.normal(size=3)], 1: [rng.normal(size=5)], None: [np.ones(2)]}
    steps = [{rung: [rng.normal(size=w.shape) for w in ws] for rung, ws in weights.items()} for _ in range(6)]

    def norm(tensors: list[Any]) -> float:
        return math.sqrt(sum(float((tensor**2).sum()) for tensor in tensors))

    ratios = [{rung: norm(g[rung]) / norm(weights[rung]) for rung in (0, 1)} for g in steps]
    measured = [[0], [0, 1], [0, 1], [0, 1], [4], [4, 5]]
    moments = part.bind(setting)
    for step, gradients in enumerate(steps):
        if step == 3:  # goes on where it was interrupted
            kept = moments.state()
            moments = part.bind(setting)
            moments.load(kept)
        moments.entered(0, Stage(2), ())
        groups = []
        for rung, values in weights.items():
            for value, gradient in zip(values, gradients[rung], strict=True):
                parameter = nn.Parameter(torch.tensor(value))
                parameter.grad = torch.tensor(gradient)
                groups.append({"params": [parameter], "lr": 0.5, "rung": rung})
        moments.stepping(groups)
        mean = {rung: np.mean([ratios[at][rung] for at in measured[step]]) for rung in (0, 1)}
        for group in groups:
            share = 1.0 if group["rung"] is None else mean[group["rung"]] / max(mean.values())
            assert group["lr"] == pytest.approx(0.5 * share)


# -- normalisations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind", "named"),
    [
        ("bert", "text-classification", ("LayerNorm.weight", "LayerNorm.bias")),
        ("llama", "text-classification", ("layernorm.weight", "norm.weight")),  # RMSNorm of its own
        ("resnet", "image-classification", ("normalization.weight", "normalization.bias")),  # BatchNorm
        ("wav2vec2", "audio-classification", ("layer_norm.weight", "layer_norm.bias")),  # GroupNorm, too
    ],
)
def test_normalisations_of_every_sort_train(family: str, kind: str, named: tuple[str, ...]) -> None:
    """They and no other weights of the rungs."""
    case = _case(family, kind)
    tuned = FineTuned(case.model, case.ladder, {})
    found = {w.name for w in tuned.weights(Stage(1), [PARTS["norms"]()]) if w.rung is not None}
    rungs = {name for rung in case.ladder.rungs for name, _ in rung.parameters}
    assert found == {name for name in rungs if name.endswith(named)}
    assert len(found) > 3


# -- what peft adds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "settings", "expected"),
    [
        ("lora", "bert", {}, {"attention.self.query", "attention.self.value"}),
        ("lora", "gpt2", {}, {"attn.c_attn"}),
        ("lora", "bert", {"targets": ("intermediate.dense",)}, {"intermediate.dense"}),
        ("lora", "vit", {}, {f"attention.{x}_proj" for x in "qkvo"} | {"mlp.fc1", "mlp.fc2"}),
        ("ia3", "vit", {}, {"attention.k_proj", "attention.v_proj", "mlp.fc2"}),
        ("ia3", "gpt2", {}, {"attn.c_attn", "mlp.c_proj"}),
    ],
)
def test_the_layers_that_the_docstring_says_have_adapters(
    name: str, family: str, settings: dict[str, Any], expected: set[str]
) -> None:
    """peft's own where it has some for the family, else all (LoRA) or keys, values and what narrows (IA³);
    in the last block, as the one below is frozen."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    top = len(_case(family, KINDS[family]).ladder.rungs) - 1
    made = bound(name, family, frozen=top, **settings)
    names = [n for n, module in made.tuned.model.named_modules() if isinstance(module, BaseTunerLayer)]
    last = made.tuned.ladder.rungs[-1]
    assert {n.partition(f"{last.name}.")[2] for n in names} == expected
    assert len(names) == len(expected)


def test_convolutions_have_low_rank_adapters() -> None:
    """All of a residual block, those that lead around it included."""
    made = bound("lora", "resnet")
    blocks = [block for rung in made.tuned.ladder.rungs for block in rung.blocks]
    convolutions = [m for b in blocks for n, m in b.named_modules() if type(m).__name__ == "Conv2d"]
    plain = [m for rung in build_ladder(made.plain).rungs for b in rung.blocks for m in b.modules()]
    assert len(convolutions) == 4 * sum(isinstance(m, nn.Conv2d) for m in plain)  # wrapper, own, A and B


@pytest.mark.parametrize(("name", "family"), [p for p in PAIRS if p[0] in MERGED], ids=lambda value: value)
def test_what_was_added_is_merged(name: str, family: str) -> None:
    """It does nothing at the start; the merged model computes the same, without what was added, which then
    does nothing again; and the distance from the start is that of the effective weights."""
    made = bound(name, family)
    torch.testing.assert_close(made(), made(made.plain), rtol=1e-4, atol=1e-5)
    assert distance(made.tuned)["relative_l2"] == 0
    made.shake()
    trained = made()
    assert not torch.allclose(trained, made(made.plain), rtol=1e-2, atol=1e-3)
    made.moments().settled()
    torch.testing.assert_close(made(), trained, rtol=1e-3, atol=1e-4)
    assert distance(made.tuned)["relative_l2"] > 0
    bare = copy.deepcopy(made.plain)
    state = {k.replace(".base_layer", ""): v for k, v in made.tuned.model.state_dict().items()}
    bare.load_state_dict({k: v for k, v in state.items() if k in bare.state_dict()})
    torch.testing.assert_close(made(bare), trained, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MERGED)
def test_merged_weights_equal_the_formula(name: str) -> None:
    """W⁰ + (α/r)·B·A; m·V/‖V‖ with a norm for each output; l·W⁰ by rows, and by columns where l is on
    inputs."""
    made = bound(name, "bert")
    made.shake()
    weights = {n: p.detach().numpy().astype(float) for n, p in made.tuned.model.named_parameters()}
    made.moments().settled()
    after = dict(made.tuned.model.named_parameters())
    layer = made.tuned.ladder.rungs[1].name
    for inner in ("attention.self.value", *(("output.dense",) if name == "ia3" else ())):
        at = f"bert.{layer}.{inner}"
        expected = weights[f"{at}.base_layer.weight"]
        if name == "ia3":
            scale = weights[f"{at}.ia3_l.default"]
            assert scale.shape == ((1, expected.shape[1]) if inner == "output.dense" else (len(expected), 1))
            expected = expected * scale
        else:
            low = weights[f"{at}.lora_B.default.weight"] @ weights[f"{at}.lora_A.default.weight"]
            expected = expected + made.part.alpha / made.part.rank * low  # type: ignore[attr-defined]
        if name == "dora":
            norm = np.linalg.norm(expected, axis=1, keepdims=True)
            expected = weights[f"{at}.lora_magnitude_vector.default.weight"][:, None] * expected / norm
        np.testing.assert_allclose(after[f"{at}.base_layer.weight"].detach(), expected, rtol=1e-4, atol=1e-6)


def test_without_peft_the_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it; other strategies do without."""
    monkeypatch.setattr("harness.strategies.injected.find_spec", lambda name: None)
    for name in MERGED:
        with pytest.raises(InputError, match=r"pip install 'finetune-harness\[peft\]'"):
            parse({name: PARTS[name]().value()}, "one")
    assert parse({"adapter": 16.0}, "one")


# -- what we add -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", KINDS)
def test_an_adapter_does_nothing_at_first_and_then_what_it_says(family: str) -> None:
    """Bit for bit the model without; then `h + W₂·ReLU(W₁h + b₁) + b₂` of what leaves the last block."""
    made = bound("adapter", family)
    assert torch.equal(made(), made(made.plain))
    made.shake()
    found: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append(output if isinstance(output, torch.Tensor) else output[0])

    inside = made.tuned.ladder.rungs[-1].blocks[-1]
    holder = made.tuned.ladder.rungs[-1].blocks[0]
    own = inside._forward_hooks.copy()
    inside._forward_hooks.clear()
    inside.register_forward_hook(keep)
    inside._forward_hooks.update(own)
    inside.register_forward_hook(keep)
    made()
    before, after = (h.movedim(1, -1) if h.ndim == 4 else h for h in found)
    w = {n: p.detach() for n, p in holder.bottleneck.named_parameters()}  # type: ignore[union-attr]
    assert w["down.weight"].shape == (max(1, before.shape[-1] // 16), before.shape[-1])
    inner = (before @ w["down.weight"].T + w["down.bias"]).clamp(min=0)
    torch.testing.assert_close(after, before + inner @ w["up.weight"].T + w["up.bias"])


def test_features_are_where_the_width_is() -> None:
    """The last dimension, or the second; by the kind of layer where both could be; else a reason."""
    torch.manual_seed(0)
    for second, shape, axis in ((False, (2, 5, 4), -1), (False, (2, 4, 5), 1), (True, (2, 4, 4), 1)):
        module = Bottleneck(Outlet(4, second), 2, "here")
        nn.init.normal_(module.up.weight)
        hidden = torch.randn(shape)
        moved = hidden.movedim(axis, -1)
        expected = moved + module.up(module.down(moved).relu())
        torch.testing.assert_close(module(hidden), expected.movedim(-1, axis))
    with pytest.raises(InputError, match="what leaves here"):
        Bottleneck(Outlet(4, False), 2, "here")(torch.randn(2, 5, 6))


def test_normalisations_train_beside_adapters_where_asked() -> None:
    with_norms = {w.name for w in bound("adapter", norms=True).weights}
    without = {w.name for w in bound("adapter").weights}
    assert with_norms - without and all("LayerNorm" in name for name in with_norms - without)


def attend(q: Any, k: Any, v: Any, bias: Any) -> Any:
    """softmax(qkᵀ/√d + bias)·v."""
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1]) + bias
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bhkd->bhqd", shares / shares.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "grouped"])
def test_attention_sees_the_prefix_first(mask: str) -> None:
    """`softmax(Q·[P_k; K]ᵀ/√d)·[P_v; V]`; masks of the inputs stay, all see the prefix; a head of keys may
    serve several of queries. The second attention of a block (to another model's output) is as it was."""
    torch.manual_seed(0)
    heads = 2 if mask == "grouped" else 4
    q, k, v = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    hidden = torch.rand(2, 1, 5, 5) < 0.4
    hidden[..., 0] = False
    given: dict[str, Any] = {
        "causal": {"is_causal": True},
        "bool": {"attn_mask": ~hidden},
        "float": {"attn_mask": torch.zeros(2, 1, 5, 5).masked_fill(hidden, -1e9)},
    }.get(mask, {})
    prefix = Prefix(6, heads, 3, "here", torch.device("cpu"))
    block = nn.Identity()
    prefix.enter(block, ())
    found = functional.scaled_dot_product_attention(q, k, v, **given)
    again = functional.scaled_dot_product_attention(q, k, v, **given)
    prefix.leave(block, (), found)
    bias = np.where(np.tril(np.ones((5, 5))) > 0, 0.0, -1e9) if mask == "causal" else np.zeros((2, 1, 5, 5))
    bias = np.broadcast_to(np.where(hidden, -1e9, 0.0) if mask in ("bool", "float") else bias, (2, 1, 5, 5))

    def full(learned: torch.Tensor, own: torch.Tensor) -> Any:
        repeated = np.repeat(learned.detach().numpy().transpose(1, 0, 2), 4 // heads, axis=0)
        return np.concatenate([np.broadcast_to(repeated, (2, *repeated.shape)), own], axis=2)

    wide = np.concatenate([np.zeros((2, 1, 5, 6)), bias], axis=-1)
    expected = attend(q.numpy(), full(prefix.key, k), full(prefix.value, v), wide)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again, attend(q.numpy(), k.numpy(), v.numpy(), bias), rtol=1e-4, atol=1e-5)
    outside = functional.scaled_dot_product_attention(q, k, v, **given)
    assert torch.equal(outside, again)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_stays_unseen_behind_a_prefix(family: str) -> None:
    """An example alone and in a padded batch comes to the same."""
    made = bound("prefix-tuning", family)
    lengths = [7, 3, 5, 2]
    inputs = made.batch["input_ids"][:, :7].clone()
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    made.batch = {"input_ids": inputs.masked_fill(~mask, 0), "attention_mask": mask.long()}
    together = made()
    assert not torch.allclose(together, made(made.plain), atol=1e-3)
    for index, length in enumerate(lengths):
        made.batch = {"input_ids": inputs[index : index + 1, :length]}
        torch.testing.assert_close(made()[0], together[index], rtol=1e-4, atol=1e-5)


def test_a_prefix_counts_from_where_it_trains() -> None:
    """A model in whose stages none has trained computes as without; later it is with the checkpoint's
    weights."""
    made = bound("prefix-tuning", "vit")
    moments = made.moments()
    assert torch.equal(made(), made(made.plain))
    moments.entered(0, Stage(1, len(made.tuned.ladder.rungs)), [w for w in made.weights if w.rung is None])
    assert torch.equal(made(), made(made.plain))
    kept = made.tuned.state(())
    moments.entered(1, Stage(1), made.weights)
    assert not torch.allclose(made(), made(made.plain), atol=1e-3)
    made.tuned.restore(kept)
    assert torch.equal(made(), made(made.plain))


# -- all of them in trials -------------------------------------------------------------------------


@every_pair
def test_retention_looks_at_the_whole_model(name: str, family: str) -> None:
    """The source task's model, prepared alike, computes what the trained one does below the head."""
    made, source = bound(name, family), bound(name, family)
    moments = made.moments()
    moments.entered(0, Stage(1), made.weights)
    made.shake()
    moments.settled()
    put_back(made.tuned.model, source.tuned.model)
    inputs = {n: v for n, v in made.batch.items() if n != "labels"}
    with torch.no_grad():
        ours, theirs, start = (
            base(**accepted(base, inputs))[0]
            for base in map(base_of, (made.tuned.model, source.tuned.model, made.plain))
        )
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, start, atol=1e-3)


def planned(family: str, strategies: dict[str, Any], folder: Path, **changes: Any) -> Plan:
    content = {
        "name": "which",
        "backbones": [{"use": "untrained", "family": family, "name": "small"}],
        "tasks": [{"use": TRIED_ON[KIND_OF.get(family, "text-classification")], **SMALL}],
        "strategies": strategies,
        "baseline": None,
        "training": {"epochs": 2, "batch_size": 8, "max_length": 32},
        "seeds": {"tune": 1, "confirm": 1},
        **changes,
    }
    sweep = spec.from_document(document.read(json.dumps(content), "test"), [folder])
    return make_plan(sweep, prepare(sweep))


def run(plan: Plan, cell: int, folder: Path) -> Any:
    trial = plan.trial(plan.cells[cell], plan.cells[cell].space.default, 0, "confirm")
    running = run_trial(trial.as_dict(), workspace_of(plan, folder))
    while True:
        try:
            next(running)
        except StopIteration as ended:
            return ended.value


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision"),
    [("gpt2", "fp32"), ("vit", "bf16"), ("resnet", "bf16"), ("wav2vec2", "fp32"), ("timm_wrapper", "fp32")],
)
def test_they_train_on_other_families(family: str, precision: str, tmp_path: Path) -> None:
    """Above a frozen rung, in two pieces per step; few weights train, and the record lacks nothing."""
    names = ["norms", *(name for name in ADDED if (name, family) not in REFUSED)]
    training = {"epochs": 1, "batch_size": 8, "max_length": 32, "accumulation": 2, "precision": precision}
    strategies = {name: {"use": name, "freeze": 1} for name in names}
    plan = planned(family, strategies, tmp_path, training=training)
    ((_, model),) = plan.prepared.models.items()
    for cell, name in enumerate(names):
        record = run(plan, cell, tmp_path)
        assert record["status"] == "finished", (name, record["reason"])
        assert not [note for note in record["notes"] if "kept" in note], name
        assert record["cost"]["trainable_params"] < 0.5 * sum(model.sizes[1:]), name


@pytest.mark.parametrize("name", ADDED)
def test_a_probe_first_is_the_same_with_and_without_sharing(
    name: str, sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored is of the model without what is added, which does nothing till it trains."""
    monkeypatch.setattr(sharing, "bandwidth", lambda folder: (math.inf, math.inf))

    def made(share: bool) -> Any:
        strategies = {"one": {"use": name, "lp-ft": 1}}
        optimizer, resources = {"learning_rate": 1e-2}, {"share": share}
        loaded = spec.load(
            sweep(strategies=strategies, baseline=None, optimizer=optimizer, resources=resources)
        )
        return run(make_plan(loaded, prepare(loaded)), 0, tmp_path / str(share))

    shared, alone = made(True), made(False)
    assert shared["sharing"]["stored"] and not alone["sharing"]["stored"]
    for ours, theirs in zip(shared["curve"], alone["curve"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-3)
    assert shared["metrics"]["test"] == pytest.approx(alone["metrics"]["test"], abs=1e-6)


def refused(*args: Any, **changes: Any) -> tuple[Mistake, ...]:
    with pytest.raises(InputError) as caught:
        planned(*args, **changes)
    return caught.value.mistakes


@pytest.mark.parametrize(("name", "family"), [*REFUSED, ("prefix-tuning", "deberta-v2")])
def test_what_a_model_cannot_have_is_said_before_anything_runs(
    name: str, family: str, tmp_path: Path
) -> None:
    """At its place, with a reason."""
    word = REFUSED.get((name, family), "scaled_dot_product_attention")
    (mistake,) = refused(family, {"one": {name: PARTS[name]().value()}}, tmp_path)
    assert mistake.place == f"strategies.one.{name}" and word in mistake.reason
    (mistake,) = refused(family, {"one": {"use": name}}, tmp_path)
    assert mistake.place == "strategies.one" and word in mistake.reason


def test_what_finds_nothing_to_train_is_refused(tmp_path: Path) -> None:
    """No layer of these names; no biases in LLaMA; no block where only the stem trains."""
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("bert", {"lora": {"targets": ["no_such"]}}, "lora"),
        ("llama", {"bitfit": True}, "bitfit"),
        ("bert", {"adapter": 16.0, "block": 0}, "adapter"),
    ]
    for family, strategy, part in cases:
        (mistake,) = refused(family, {"one": strategy}, tmp_path)
        assert mistake.place == f"strategies.one.{part}" and mistake.reason


def test_a_source_is_not_trained_with_added_modules(sweep: Any, models: Any, words_csv: Path) -> None:
    """What others start from is a plain model."""
    source = {"task": word_task(words_csv, "first"), "adapter": 16.0}
    backbones = [{"name": "tiny", "path": str(models("bert")), "source": source}]
    with pytest.raises(InputError, match="puts modules into the model"):
        spec.load(sweep(backbones=backbones))
