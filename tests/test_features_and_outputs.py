"""Parts that work on what a model says and on what passes through it: each equals its formula, computed here
without the harness; each says what it cannot be used with."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_strategies as conformance
import torch
import transformers as tf
from conftest import sentences, word_task, write_table
from scipy.optimize import minimize_scalar
from test_conformance import SMALL
from test_sharing import planned as planned_for
from test_sharing import run
from test_strategies import planned, result, trial_of  # noqa: F401
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from harness import spec
from harness.errors import InputError
from harness.optimizers.adamw import AdamW
from harness.plan import Plan
from harness.prepare import prepare
from harness.recipe import Recipe, Training, parse
from harness.registry import build, plugins
from harness.stage import Stage
from harness.strategies import losses
from harness.strategies.base import Part
from harness.strategies.features import entering, leaving
from harness.training import prefix
from harness.training.job import Job
from harness.training.model import FineTuned, pretrained, source_model
from harness.training.run import job_of
from harness.training.workspace import Workspace, workspace_of

PARTS = plugins("strategies", Part)
CPU = torch.device("cpu")


def part_of(name: str, **settings: Any) -> Part:
    return build(PARTS[name], settings, name)


def bert(classes: int = 3, auto: str = "SequenceClassification") -> Any:
    """Random, in evaluation: nothing drops out."""
    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=classes, initializer_range=0.5,
    )  # fmt: skip
    return getattr(tf, f"BertFor{auto}")(config).eval()


def texts(examples: int = 6, longest: int = 9) -> dict[str, torch.Tensor]:
    """Of differing lengths, padded."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 40, (examples, longest), generator=generator)
    lengths = torch.arange(examples) % longest + 3
    mask = (torch.arange(longest) < lengths.clamp(max=longest)[:, None]).long()
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "labels": torch.arange(examples) % 3,
    }


def job_on(model: Any, part: Part, origin: Any = None) -> Job:
    from harness.backbones.ladder import build_ladder

    recipe = Recipe(AdamW(), None, Training(), (part,))
    tuned = FineTuned(model, build_ladder(model), {})
    nothing: Any = None
    return Job(
        recipe=recipe, task=nothing, facts=nothing, tuned=tuned, train=nothing, validation=nothing, seed=0,
        device=CPU, flops=[], start=lambda: origin,
    )  # fmt: skip


def bound(model: Any, part: Part, frozen: int = 0, origin: Any = None) -> tuple[Any, Job]:
    """The part in a stage that freezes so many rungs."""
    job = job_on(model, part, origin)
    moments = part.bind(job)
    assert moments is not None
    moments.entered(0, Stage(1, frozen), job.tuned.weights(Stage(1, frozen)))
    return moments, job


def embedded(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.bert.embeddings(input_ids=batch["input_ids"])


def logits_above(model: Any, hidden: torch.Tensor, mask: torch.Tensor, first: int = 0) -> torch.Tensor:
    """BERT from what enters the block `first` on, without its own forward pass."""
    added = torch.where(mask[:, None, None, :] > 0, 0.0, torch.finfo(hidden.dtype).min)
    for layer in model.bert.encoder.layer[first:]:
        found = layer(hidden, added.to(hidden.dtype))
        hidden = found[0] if isinstance(found, tuple) else found
    return model.classifier(model.bert.pooler(hidden))


def symmetric(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """KL(p‖q) + KL(q‖p) of each row of logits."""
    p, q = Categorical(logits=a), Categorical(logits=b)
    return kl_divergence(p, q) + kl_divergence(q, p)


# -- losses ----------------------------------------------------------------------------------------


def test_label_smoothing_equals_the_formula() -> None:
    """−Σ q·log p with q = (1 − ε)·onehot + ε/K, averaged over examples; elsewhere nothing changes."""
    model, batch = bert(), texts()
    moments, job = bound(model, part_of("label-smoothing", epsilon=0.3))
    found = moments.forward(job.tuned, batch)
    wanted = 0.7 * functional.one_hot(batch["labels"], 3) + 0.1
    likely = model(**batch).logits.log_softmax(-1)
    assert found.loss.item() == pytest.approx(-(wanted * likely).sum(-1).mean().item(), rel=1e-6)
    assert job.tuned(batch).loss.item() == pytest.approx(
        functional.nll_loss(likely, batch["labels"]).item(), rel=1e-6
    )


def test_words_that_do_not_count_are_not_smoothed() -> None:
    model, batch = bert(auto="TokenClassification"), texts()
    batch["labels"] = torch.where(batch["attention_mask"] > 0, batch["input_ids"] % 3, -100)
    moments, job = bound(model, part_of("label-smoothing", epsilon=0.3))
    likely = model(**batch).logits.log_softmax(-1)
    counted = batch["labels"] >= 0
    wanted = 0.7 * functional.one_hot(batch["labels"].clamp(min=0), 3) + 0.1
    each = -(wanted * likely).sum(-1)[counted]
    assert moments.forward(job.tuned, batch).loss.item() == pytest.approx(each.mean().item(), rel=1e-6)


def test_mixup_mixes_inputs_and_losses() -> None:
    """λ·x_i + (1 − λ)·x_j of embeddings with zeros for padding, joined masks, λ·L(y_i) + (1 − λ)·L(y_j)."""
    model, batch = bert(), texts()
    moments, job = bound(model, part_of("mixup", alpha=0.7))
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch).loss
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.7, 0.7).sample())
    partner = torch.randperm(6)
    assert 0.02 < share < 0.98 and partner.tolist() != list(range(6))
    own = embedded(model, batch) * batch["attention_mask"][..., None]
    mask = batch["attention_mask"] | batch["attention_mask"][partner]
    logits = logits_above(model, share * own + (1 - share) * own[partner], mask)
    ours, theirs = (functional.cross_entropy(logits, y) for y in (batch["labels"], batch["labels"][partner]))
    assert found.item() == pytest.approx((share * ours + (1 - share) * theirs).item(), rel=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_mixup_mixes_what_enters_the_head_where_only_that_trains() -> None:
    model, batch = bert(), texts()
    moments, job = bound(model, part_of("mixup", alpha=0.7), frozen=4)
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch).loss
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.7, 0.7).sample())
    partner = torch.randperm(6)
    features = model.bert(batch["input_ids"], batch["attention_mask"]).pooler_output
    logits = model.classifier(share * features + (1 - share) * features[partner])
    ours, theirs = (functional.cross_entropy(logits, y) for y in (batch["labels"], batch["labels"][partner]))
    assert found.item() == pytest.approx((share * ours + (1 - share) * theirs).item(), rel=1e-5)


def test_mixed_words_have_mixed_tags() -> None:
    """Each position learns its own tag and its partner's, which is another number of them."""
    model, batch = bert(auto="TokenClassification"), texts()
    batch["labels"] = torch.where(batch["attention_mask"] > 0, batch["input_ids"] % 3, -100)
    moments, job = bound(model, part_of("mixup", alpha=0.7))
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch)
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.7, 0.7).sample())
    partner = torch.randperm(6)
    ours, theirs = (
        functional.cross_entropy(found.logits.transpose(1, 2), y)
        for y in (batch["labels"], batch["labels"][partner])
    )
    assert found.loss.item() == pytest.approx((share * ours + (1 - share) * theirs).item(), rel=1e-5)


def test_smoothing_and_mixing_go_together() -> None:
    """Smoothed losses are mixed."""
    model, batch = bert(), texts()
    smooth, job = bound(model, part_of("label-smoothing", epsilon=0.3))
    mix, _ = bound(model, part_of("mixup", alpha=0.7))
    torch.manual_seed(5)
    found = mix.forward(partial(smooth.forward, job.tuned), batch)
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.7, 0.7).sample())
    partner = torch.randperm(6)
    ours, theirs = (
        functional.cross_entropy(found.logits, y, label_smoothing=0.3)
        for y in (batch["labels"], batch["labels"][partner])
    )
    assert found.loss.item() == pytest.approx((share * ours + (1 - share) * theirs).item(), rel=1e-5)


def test_r_drop_equals_the_formula() -> None:
    """½(L₁ + L₂) + α·½(KL(p₁‖p₂) + KL(p₂‖p₁)) of two passes with different dropout."""
    model, batch = bert().train(), texts()
    moments, job = bound(model, part_of("r-drop", strength=0.7))
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch)
    torch.manual_seed(5)
    first, second = model(**batch), model(**batch)
    apart = symmetric(first.logits, second.logits).mean() / 2
    assert apart > 1e-3
    wanted = (first.loss + second.loss) / 2 + 0.7 * apart
    assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("noise", ["uniform", "normal"])
@pytest.mark.parametrize("frozen", [0, 2])
def test_r3f_equals_the_formula(noise: str, frozen: int) -> None:
    """L + λ·(KL(p‖q) + KL(q‖p)); no gradient reaches what the noise is added to through the noised pass."""
    model, batch = bert(), texts()
    moments, job = bound(model, part_of("r3f", strength=0.7, epsilon=0.2, noise=noise), frozen)
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch).loss
    below = model.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
    hidden = below.hidden_states[max(0, frozen - 1)].detach()
    torch.manual_seed(5)
    drawn = torch.rand_like(hidden) * 2 - 1 if noise == "uniform" else torch.randn_like(hidden)
    noised = logits_above(model, hidden + 0.2 * drawn, batch["attention_mask"], max(0, frozen - 1))
    clean = model(**batch)
    wanted = clean.loss + 0.7 * symmetric(clean.logits, noised).mean()
    assert wanted - clean.loss > 1e-3
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    weight = model.bert.embeddings.word_embeddings.weight
    ours, theirs = (torch.autograd.grad(loss, weight)[0] for loss in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("steps", [1, 3])
def test_smart_equals_the_formula(norm: str, steps: int) -> None:
    """δ ← Π(δ + η·g/‖g‖) at each position, from N(0, σ²); then λ times the divergence there."""
    settings = {"strength": 0.7, "epsilon": 0.1, "sigma": 0.05, "step": 0.08, "norm": norm, "proximal": 0.0}
    model, batch = bert(), texts()
    moments, job = bound(model, part_of("smart", steps=steps, **settings))
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch).loss
    clean, hidden = model(**batch), embedded(model, batch).detach()
    torch.manual_seed(5)
    delta = 0.05 * torch.randn_like(hidden)
    order = math.inf if norm == "inf" else 2
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        said = logits_above(model, hidden + delta, batch["attention_mask"])
        (g,) = torch.autograd.grad(symmetric(said, clean.logits.detach()).mean(), delta)
        moved = delta.detach() + 0.08 * g / (g.norm(order, dim=-1, keepdim=True) + 1e-12)
        size = moved.norm(order, dim=-1, keepdim=True)
        delta = (
            moved.clamp(-0.1, 0.1) if norm == "inf" else torch.where(size > 0.1, moved * 0.1 / size, moved)
        )
    worst = symmetric(logits_above(model, hidden + delta, batch["attention_mask"]), clean.logits).mean()
    assert worst > 1e-3
    assert found.item() == pytest.approx((clean.loss + 0.7 * worst).item(), rel=1e-4)
    weight = model.bert.encoder.layer[0].output.dense.weight
    ours, theirs = (torch.autograd.grad(loss, weight)[0] for loss in (found, clean.loss + 0.7 * worst))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_smart_stays_near_the_average_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """w̃ ← β·w̃ + (1 − β)·w after each step, β first the early one; μ times the divergence from what w̃ says."""
    monkeypatch.setattr(Job, "steps", 20)
    model, batch = bert(), texts()
    part = part_of("smart", strength=0.0, proximal=0.5, beta_early=0.5, beta=0.9)
    moments, job = bound(model, part)
    average = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(2)
    for beta in (0.5, 0.5, 0.9):
        with torch.no_grad():
            for own, mean in zip(model.parameters(), average.parameters(), strict=True):
                own.add_(0.1 * torch.randn(own.shape, generator=generator))
                mean.mul_(beta).add_((1 - beta) * own)
        moments.stepped()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = moments.forward(job.tuned, batch).loss
    clean = model(**batch)
    apart = symmetric(clean.logits, average(**batch).logits.detach()).mean()
    assert apart > 1e-3
    assert found.item() == pytest.approx((clean.loss + 0.5 * apart).item(), rel=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train()
    moments.forward(job.tuned, batch)
    assert all(module.training for module in model.modules())


def test_numbers_are_compared_by_their_squared_difference() -> None:
    model, batch = bert(classes=1), texts()
    batch["labels"] = batch["labels"].float()
    moments, job = bound(model, part_of("r3f", strength=0.7, epsilon=0.2))
    torch.manual_seed(5)
    found = moments.forward(job.tuned, batch).loss
    torch.manual_seed(5)
    hidden = embedded(model, batch).detach()
    noised = logits_above(model, hidden + 0.2 * (torch.rand_like(hidden) * 2 - 1), batch["attention_mask"])
    clean = model(**batch)
    wanted = clean.loss + 0.7 * (clean.logits - noised).square().mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


# -- features --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4])
def test_bss_equals_the_formula(k: int) -> None:
    """η·Σ of the k smallest squared singular values of what enters the head; its gradient is that of
    uᵀFv, 2σ·uvᵀ."""
    model, batch = bert(), texts()
    moments, job = bound(model, part_of("bss", strength=0.5, k=k))
    found = moments.forward(job.tuned, batch).loss
    clean = model(**batch)
    features = model.bert(batch["input_ids"], batch["attention_mask"]).pooler_output
    u, s, v = np.linalg.svd(features.detach().numpy(), full_matrices=False)
    assert (found - clean.loss).item() == pytest.approx(0.5 * (s[-k:] ** 2).sum(), rel=1e-3)
    slope = sum(2 * s[i] * np.outer(u[:, i], v[i]) for i in range(len(s) - k, len(s)))
    weight = model.bert.pooler.dense.weight
    (wanted,) = torch.autograd.grad(clean.loss, weight)
    (added,) = torch.autograd.grad(features, weight, 0.5 * torch.from_numpy(slope).float())
    torch.testing.assert_close(torch.autograd.grad(found, weight)[0], wanted + added, rtol=1e-3, atol=1e-5)


def test_bss_takes_the_mean_over_the_words_of_a_text() -> None:
    """Where the head takes all positions: of those that are padding none counts."""
    model, batch = bert(auto="TokenClassification"), texts()
    batch["labels"] = torch.where(batch["attention_mask"] > 0, batch["input_ids"] % 3, -100)
    moments, job = bound(model, part_of("bss", strength=0.5))
    hidden = model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state.detach()
    rows = [row[mask > 0].mean(0) for row, mask in zip(hidden, batch["attention_mask"], strict=True)]
    smallest = np.linalg.svd(torch.stack(rows).numpy(), compute_uv=False)[-1]
    found = moments.forward(job.tuned, batch).loss - model(**batch).loss
    assert found.item() == pytest.approx(0.5 * smallest**2, rel=1e-3)


def words_by_rung(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What leaves each block, at the positions that are no padding."""
    found = model.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
    return list(found.hidden_states[1:])


@pytest.mark.parametrize("frozen", [0, 2])
def test_delta_without_attention_equals_the_formula(frozen: int) -> None:
    """(α/2)·Σ_l ‖F − F⁰‖²/n over the words of each text, averaged over texts, plus (β/2)·‖head‖²."""
    origin, batch = bert(), texts()
    model = copy.deepcopy(origin)
    with torch.no_grad():
        for index, layer in enumerate(model.bert.encoder.layer):
            if index >= frozen - 1:
                layer.output.dense.weight.mul_(1.5)
    part = part_of("delta", strength=0.7, head_strength=0.2, attention=False)
    moments, job = bound(model, part, frozen, origin)
    distance = torch.zeros(())
    pairs = list(zip(words_by_rung(model, batch), words_by_rung(origin, batch), strict=True))
    for ours, theirs in pairs[max(0, frozen - 1) :]:
        for a, b, mask in zip(ours, theirs, batch["attention_mask"], strict=True):
            distance = distance + (a - b)[mask > 0].square().sum() / mask.sum() / len(ours)
    head = sum(p.square().sum() for p in model.classifier.parameters())
    clean = model(**batch).loss
    wanted = clean + 0.35 * distance + 0.1 * head
    assert distance > 0.1
    assert moments.forward(job.tuned, batch).loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_delta_knows_channels_from_what_other_parts_add() -> None:
    """As many added vectors as there are words: the words' channels stay those of the pretrained block."""
    origin, batch = bert(), texts(longest=9)
    model = copy.deepcopy(origin)
    prefix = part_of("prefix-tuning", length=9)
    prefix.prepare(job_on(model, prefix).tuned, 0)
    part = part_of("delta", strength=0.7, head_strength=0.0, attention=False)
    moments, job = bound(model.eval(), part, 0, origin)
    distance = torch.zeros(())
    left: list[Any] = []
    for layer in model.bert.encoder.layer:
        layer.register_forward_hook(lambda module, args, output: left.append(output))
    clean = model(**batch).loss
    for ours, theirs in zip(list(left), words_by_rung(origin, batch), strict=True):
        ours = ours[0] if isinstance(ours, tuple) else ours
        for a, b, mask in zip(ours, theirs, batch["attention_mask"], strict=True):
            distance = distance + (a - b)[mask > 0].square().sum() / mask.sum() / len(ours)
    assert distance > 0.1
    wanted = clean + 0.35 * distance
    assert moments.forward(job.tuned, batch).loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_delta_weighs_channels_by_what_shutting_them_off_costs(planned: Any) -> None:  # noqa: F811
    """To first order, measured here by turning each channel down a little below a head that was trained here:
    softmax of a fifth of the standard scores. Then C·Σ_j W_j·‖F_j − F⁰_j‖²/n stands in the loss."""
    plan, workspace = planned(
        {"delta": {"samples": 16, "weighed": 16, "strength": 0.7, "head_strength": 0.0}}
    )
    trial = trial_of(plan)
    job = job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), CPU)
    origin = copy.deepcopy(pretrained(workspace, "words", "tiny", CPU)).double().eval()
    job = replace(job, start=lambda: origin)
    job.tuned.model.double().eval()
    moments = job.recipe.parts[0].bind(job)
    assert moments is not None
    state = torch.get_rng_state()
    moments.entered(0, job.stages[0], job.tuned.weights(job.stages[0]))
    assert torch.equal(state, torch.get_rng_state()), "what is weighed draws nothing"
    weights = moments.state()["weights"]

    batches = list(job.sample(16))
    probe = copy.deepcopy(origin.classifier)
    optimizer = torch.optim.SGD(probe.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(10):
        for batch in batches:
            features = origin.bert(batch["input_ids"], batch["attention_mask"]).pooler_output.detach()
            optimizer.zero_grad()
            functional.cross_entropy(probe(features), batch["labels"]).backward()
            optimizer.step()
    probed = copy.deepcopy(origin)
    probed.classifier = probe
    keys = ("input_ids", "attention_mask", "labels")
    small = 1e-4

    def loss_with(rung: int, channel: int) -> float:
        def turn_down(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[..., channel] *= 1 - small
            return output

        handle = probed.bert.encoder.layer[rung - 1].register_forward_hook(turn_down)
        with torch.no_grad():
            found = [float(probed(**{k: batch[k] for k in keys}).loss) for batch in batches]
        handle.remove()
        return float(np.mean(found))

    assert sorted(weights) == [1, 2, 3]
    with torch.no_grad():
        plain = np.mean([float(probed(**{k: batch[k] for k in keys}).loss) for batch in batches])
    for rung, found in weights.items():
        rise = np.array([(loss_with(rung, channel) - plain) / small for channel in range(16)])
        scores = np.exp((rise - rise.mean()) / rise.std() / 5)
        np.testing.assert_allclose(found.numpy(), scores / scores.sum(), rtol=2e-3)
        assert found.std() > 0.005

    with torch.no_grad():
        job.tuned.model.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    batch = batches[0]
    distance = 0.0
    both = zip(words_by_rung(job.tuned.model, batch), words_by_rung(origin, batch), strict=True)
    for rung, (ours, theirs) in enumerate(both, start=1):
        for a, b, mask in zip(ours, theirs, batch["attention_mask"], strict=True):
            squares = (a - b)[mask > 0].square().mean(0).detach()
            distance += 16 * float((weights[rung] * squares).sum()) / len(ours)
    clean = float(job.tuned.model(**{k: batch[k] for k in keys}).loss)
    assert distance > 0.1
    assert float(moments.forward(job.tuned, batch).loss) == pytest.approx(clean + 0.35 * distance, rel=1e-5)


def test_stochastic_normalisation_equals_the_formula() -> None:
    """Each channel by the batch's statistics, or with probability p by the moving ones, which follow all the
    same; in training, and in rungs that train."""
    config = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    model = tf.ResNetForImageClassification(config)
    moments, job = bound(model, part_of("stochnorm", p=0.4), frozen=1)
    job.tuned.train(Stage(1, 1))
    stem = model.resnet.embedder.embedder.normalization
    norm = job.tuned.ladder.rungs[1].blocks[0].layer[0].normalization
    assert not stem.training and norm.training
    x = torch.randn(4, 8, 5, 5) * 3 + 1
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    torch.manual_seed(5)
    with moments.computing():
        found = norm(x)
        resting = stem(x)
    torch.manual_seed(5)
    chosen = torch.bernoulli(torch.full((8,), 0.4)).bool()
    assert 0 < chosen.sum() < 8
    places = (0, 2, 3)
    mean, variance = 0.9 * mean + 0.1 * x.mean(places), 0.9 * variance + 0.1 * x.var(places, unbiased=True)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    m = torch.where(chosen, mean, x.mean(places)).view(1, 8, 1, 1)
    v = torch.where(chosen, variance, x.var(places, unbiased=False)).view(1, 8, 1, 1)
    torch.testing.assert_close(found, (x - m) / (v + norm.eps).sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(resting, stem(x))
    outside = norm(x)
    torch.testing.assert_close(outside.mean(places), torch.zeros(8), rtol=0, atol=1e-5)


# -- what passes through a model -------------------------------------------------------------------


def test_padding_is_known_by_the_masks_that_blocks_get() -> None:
    """Additive, boolean, causal: which positions count."""
    batch = texts()
    wanted = batch["attention_mask"].bool()
    gpt = tf.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3, pad_token_id=0
    )
    deberta = tf.DebertaV2Config(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], num_labels=3,
    )  # fmt: skip
    models = [
        tf.AutoModelForSequenceClassification.from_config(config, attn_implementation=implementation)
        for config in (bert().config, gpt)
        for implementation in ("eager", "sdpa")
    ]
    for model in [*models, tf.DebertaV2ForSequenceClassification(deberta)]:
        job = job_on(model.eval(), part_of("mixup"))
        seen: list[Any] = []

        def keep(hidden: torch.Tensor, valid: Any, seen: list[Any] = seen) -> torch.Tensor:
            seen.append(valid)
            return hidden

        with entering(job.tuned.ladder, 1, keep), leaving(job.tuned.ladder, 1) as left:
            job.tuned(batch)
        assert len(seen) == 1, type(model)
        assert torch.equal(seen[0], wanted), type(model)
        assert sorted(left) == list(range(1, len(job.tuned.ladder.rungs)))
        assert all(torch.equal(each.valid, wanted) for each in left.values())


@pytest.fixture
def free_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing always pays: small models are cheaper to run again than to read."""
    monkeypatch.setattr(prefix, "bandwidth", lambda folder: (math.inf, math.inf))


LOUD: dict[str, Any] = {
    "bss": {"strength": 1.0},
    "delta": {},
    "label-smoothing": 0.3,
    "mixup": 0.5,
    "r-drop": 1.0,
    "r3f": {"strength": 1.0, "epsilon": 0.1},
    "smart": {"strength": 1.0, "epsilon": 0.1, "sigma": 0.1, "proximal": 1.0},
}


# What leaves their blocks: sequences with padding, with channels second, maps, several maps, frames.
SHAPES = [
    ("bert", "text-classification"),
    ("wavenet", "audio-classification"),
    ("resnet", "image-classification"),
    ("segformer", "image-segmentation"),
    ("deepspeech", "automatic-speech-recognition"),
]


@pytest.mark.parametrize(("family", "kind"), SHAPES)
def test_whatever_leaves_their_blocks(family: str, kind: str, tmp_path: Path) -> None:
    """Above no, some and all frozen rungs a part either is refused for the kind's loss, or comes to a finite
    loss whose gradient reaches what trains."""
    plan = planned_for(family, kind, tmp_path, 0, "fp32")
    trial, workspace = trial_of(plan), workspace_of(plan, tmp_path / "out")
    job = job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), CPU)
    rungs = len(job.tuned.ladder.rungs)
    (batch,) = itertools.islice(job.sample(8), 1)
    with losses.named() as called:
        job.tuned(batch)
    with torch.no_grad():  # so that features differ from those at the start
        for weight in job.tuned.weights(Stage(1, 0)):
            weight.value.mul_(1.01)
    tried = 0
    for (name, settings), frozen in itertools.product(LOUD.items(), (0, rungs // 2, rungs)):
        part = build(PARTS[name], PARTS[name].settings(settings), name)
        if part.reason_against_losses(called) or (part.only_rungs and frozen == rungs):
            continue
        weights = job.tuned.weights(Stage(1, frozen))
        job.tuned.enter(weights)
        moments = part.bind(replace(job, recipe=Recipe(AdamW(), None, Training(), (part,))))
        assert moments is not None
        moments.entered(0, Stage(1, frozen), weights)
        loss = moments.forward(job.tuned, batch).loss
        assert loss.isfinite(), (name, frozen)
        slopes = torch.autograd.grad(loss, [weight.value for weight in weights], allow_unused=True)
        assert any(slope is not None and slope.abs().sum() > 0 for slope in slopes), (name, frozen)
        tried += 1
    assert tried > 3


@pytest.mark.usefixtures("free_storage")
@pytest.mark.parametrize("frozen", [2, "all"])
@pytest.mark.parametrize("name", sorted(LOUD))
def test_a_stored_prefix_changes_nothing(
    name: str,
    frozen: Any,
    planned: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    """With texts of differing lengths, and in pieces: what was stored has zeros where padding was."""
    training = {"epochs": 2, "batch_size": 8, "accumulation": 2, "max_length": 16}
    plan, workspace = planned({name: LOUD[name], "freeze": frozen}, training=training)
    trial = trial_of(plan)
    shared = run(trial, workspace)
    alone = run(trial, replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False))
    assert shared["sharing"]["stored"] and not alone["sharing"]["stored"]
    assert len(shared["curve"]) == 2
    for ours, theirs in zip(shared["curve"], alone["curve"], strict=True):
        for key in ("train_loss", "validation_loss"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-4)


# -- what cannot be --------------------------------------------------------------------------------


def refusals(path: Path) -> dict[str, str]:
    """What planning a sweep file says, by place."""
    try:
        prepare(spec.load(path))
    except InputError as error:
        return {mistake.place: mistake.reason for mistake in error.mistakes}
    return {}


FITS_CLASSES = ("label-smoothing", "mixup", "r-drop", "r3f", "smart")


@pytest.mark.parametrize(
    ("family", "task", "refused"),
    [
        ("bert", "bbc-topics", set()),
        ("resnet", "digits", set()),
        ("detr", "digit-scenes", set(FITS_CLASSES)),
        ("segformer", "digit-masks", set()),
        ("wav2vec2", "keypad-tones", set()),
        ("wav2vec2", "keypad-strings", set(FITS_CLASSES)),
    ],
)
def test_kinds_without_the_right_loss_are_refused_before_training(
    family: str, task: str, refused: set[str], sweep: Any
) -> None:
    """Found by looking at what the model's forward pass computes."""
    path = sweep(
        backbones=[{"use": "untrained", "family": family}],
        tasks=[{"use": task, **SMALL}],
        strategies={name: {"use": name} for name in FITS_CLASSES},
        baseline=None,
    )
    found = refusals(path)
    assert set(found) == {f"strategies.{name}" for name in refused}
    assert all("this one's is made of" in reason for reason in found.values())


def test_numbers_have_no_labels_to_smooth(sweep: Any, tmp_path: Path) -> None:
    rows = [(text, str(len(text) / 7)) for text, _ in sentences(60, seed=4)]
    task = word_task(
        write_table(tmp_path / "n.csv", rows), regression=True, train_size=16, validation_size=8, test_size=8
    )
    strategies = {name: {"use": name} for name in FITS_CLASSES}
    assert set(refusals(sweep(tasks=[task], strategies=strategies, baseline=None))) == {
        "strategies.label-smoothing"
    }


def test_a_model_without_batchnorm_is_refused(sweep: Any) -> None:
    found = refusals(sweep(strategies={"a": {"stochnorm": 0.5}, "b": {"stochnorm": 0.0}}, baseline=None))
    assert found == {"strategies.a.stochnorm": "the model has no BatchNorm"}


@pytest.mark.parametrize("name", ["co-tuning", "lwf"])
def test_a_backbone_without_a_source_task_is_refused_when_the_file_is_read(name: str, sweep: Any) -> None:
    for strategy, place in (({name: {}}, f"strategies.a.{name}"), ({"use": name}, "strategies.a")):
        with pytest.raises(InputError) as caught:
            spec.load(sweep(strategies={"a": strategy}, baseline=None))
        (mistake,) = caught.value.mistakes
        assert mistake.place.endswith(f": {place}")
        assert "has none (`source:`)" in mistake.reason and "tiny" in mistake.reason


def test_mixed_examples_cannot_be_looked_at_one_by_one() -> None:
    for name in ("delta", "r-drop", "co-tuning", "lwf"):
        with pytest.raises(InputError, match=f"mixes examples, and '{name}' looks at each one"):
            parse({"mixup": 0.2, name: PARTS[name]().value()}, "here")
    for name in ("r3f", "smart"):
        with pytest.raises(InputError, match="both decide what enters the model"):
            parse({"mixup": 0.2, name: PARTS[name]().value()}, "here")
    parse({"mixup": 0.2, "bss": 0.001, "label-smoothing": 0.1}, "here")


def test_more_passes_are_more_work(planned: Any) -> None:  # noqa: F811
    """R-Drop's steps cost twice as much, SMART's three times; evaluations cost what they do."""
    plain = trial_of(planned({"freeze": 0})[0]).flops
    evaluations = plain - _training_flops(planned({"freeze": 0})[0])
    for name, times in (("r-drop", 2), ("r3f", 2), ("smart", 3), ("label-smoothing", 1), ("delta", 4 / 3)):
        found = trial_of(planned({name: PARTS[name]().value()})[0]).flops
        assert found == pytest.approx(evaluations + times * (plain - evaluations))
    plan, workspace = planned({"r-drop": 1.0})
    record = run(trial_of(plan), workspace)
    assert record["cost"]["flops"] > 1.8 * plain


def _training_flops(plan: Plan) -> float:
    model = plan.prepared.models["words", "tiny"]
    return 6 * 32 * 3 * sum(model.flops)


# -- parts that tiny-bert alone cannot have --------------------------------------------------------


def sourced(words: Path, **changes: Any) -> dict[str, Any]:
    """tiny-bert, trained first on two of the three classes."""
    source = word_task(words, "first", target="kind", test_size=8, train_size=32, validation_size=8)
    return {
        "task": source,
        "training": {"epochs": 3, "batch_size": 8, "max_length": 16},
        "optimizer": {"learning_rate": 3e-3},
        **changes,
    }


@pytest.fixture(scope="session")
def kinds_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences with another target, of two classes."""
    rows = [(text, "living" if label == "animals" else "other") for text, label in sentences(90, seed=9)]
    return write_table(tmp_path_factory.mktemp("data") / "kinds.csv", rows, ("text", "kind"))


@pytest.fixture
def elsewhere(planned: Any, models: Any, kinds_csv: Path) -> Any:  # noqa: F811
    """`elsewhere(part)` plans like `planned`, on a backbone that the part needs, trained if it has to be."""

    def make(name: str, strategy: dict[str, Any], **changes: Any) -> tuple[Plan, Workspace]:
        if name == "stochnorm":
            backbone: Any = {"use": "untrained", "family": "resnet", "name": "tiny"}
            task: Any = {"use": "digits", "train_size": 32, "validation_size": 16, "test_size": 16}
            return planned(strategy, backbones=[backbone], tasks=[task], **changes)
        backbone = {"name": "tiny", "path": str(models("bert")), "source": sourced(kinds_csv)}
        plan, workspace = planned(strategy, backbones=[backbone], **changes)
        if not workspace.trained(plan.sources["tiny"].trial_id).exists():
            run(plan.sources["tiny"], workspace)
        return plan, workspace

    return lambda name: partial(make, name)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["stochnorm", "co-tuning", "lwf"])
def test_it_conforms_where_it_can_be_had(name: str, elsewhere: Any, tmp_path: Path) -> None:
    """What every part promises (tests/test_strategies.py)."""
    there = elsewhere(name)
    conformance.test_it_trains_exactly_the_weights_that_it_says(name, there, tmp_path)

    def whole(part: str) -> Any:
        return result(*there(conformance.strategy_of(part)))

    conformance.test_it_leaves_nothing_behind(name, there, whole)
    for points in (1, 6):
        conformance.test_it_goes_on_where_it_was_interrupted(name, points, there, whole)
    conformance.test_its_work_is_counted(name, there)
    plan, _ = there({}, strategies={"one": {"use": name}})
    assert trial_of(plan).stages


def sourced_job(elsewhere: Any, strategy: dict[str, Any]) -> tuple[Any, Job, Any]:
    """The part's moments in the first stage of its trial, the job, and the source model."""
    plan, workspace = elsewhere("lwf")(strategy)
    trial = trial_of(plan)
    job = job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), CPU)
    job.tuned.model.eval()
    moments = job.recipe.parts[0].bind(job)
    assert moments is not None
    state = torch.get_rng_state()
    moments.entered(0, job.stages[0], job.tuned.weights(job.stages[0]))
    assert torch.equal(state, torch.get_rng_state()), "what is learnt beforehand draws nothing"
    return moments, job, source_model(workspace, "tiny")


def pooled_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.bert(batch["input_ids"], batch["attention_mask"]).pooler_output


def test_co_tuning_equals_the_formula(elsewhere: Any) -> None:
    """p(y_s | y): the mean of softmax(z/T) over training examples of y, T the best on the source's training
    examples; then the cross-entropy of the source head on the features that are tuned."""
    moments, job, source = sourced_job(elsewhere, {"co-tuning": {"strength": 0.7}})
    found = job.source()
    assert found is not None
    with torch.no_grad():
        pairs = [(source.classifier(pooled_of(source, b)).double(), b["labels"]) for b in found[1]]
        logits, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
        best = minimize_scalar(
            lambda scale: float(functional.cross_entropy(logits * scale, labels)),
            bounds=(0.1, 10),
            method="bounded",
            options={"xatol": 1e-8},
        )
        likely: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}
        for batch in job.sample(10_000):
            said = (best.x * source.classifier(pooled_of(source, batch))).softmax(-1)
            for row, label in zip(said, batch["labels"], strict=True):
                likely[int(label)].append(row)
        related = torch.stack([torch.stack(rows).mean(0) for _, rows in sorted(likely.items())])
    torch.testing.assert_close(moments.state()["related"], related.float(), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        job.tuned.model.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    (batch,) = itertools.islice(job.sample(6), 1)
    said = source.classifier(pooled_of(job.tuned.model, batch)).log_softmax(-1)
    wanted = job.tuned(batch).loss - 0.7 * (related[batch["labels"]] * said).sum(-1).mean()
    loss = moments.forward(job.tuned, batch).loss
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-3)
    weight = job.tuned.model.bert.encoder.layer[0].output.dense.weight
    ours, theirs = (torch.autograd.grad(each, weight)[0] for each in (loss, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


def test_learning_without_forgetting_equals_the_formula(elsewhere: Any) -> None:
    """L − λ·Σ softmax(z⁰/T)·log softmax(z/T), z⁰ of the source model and z of its head on tuned features."""
    moments, job, source = sourced_job(elsewhere, {"lwf": {"strength": 0.7, "temperature": 1.5}})
    with torch.no_grad():
        job.tuned.model.bert.encoder.layer[0].output.dense.weight.mul_(1.5)
    (batch,) = itertools.islice(job.sample(6), 1)
    before = source.classifier(pooled_of(source, batch)).detach()
    now = source.classifier(pooled_of(job.tuned.model, batch))
    apart = -((before / 1.5).softmax(-1) * (now / 1.5).log_softmax(-1)).sum(-1).mean()
    wanted = job.tuned(batch).loss + 0.7 * apart
    assert moments.forward(job.tuned, batch).loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert source.classifier.weight.shape != job.tuned.model.classifier.weight.shape


def test_a_source_task_of_another_kind_is_refused(sweep: Any, kinds_csv: Path, models: Any) -> None:
    numbers = sourced(kinds_csv)
    numbers["task"] = {**numbers["task"], "regression": True}
    backbone = {"name": "tiny", "path": str(models("bert")), "source": numbers}
    with pytest.raises(InputError, match="needs a source task with classes of the same kind"):
        spec.load(sweep(backbones=[backbone], strategies={"a": {"use": "lwf"}}, baseline=None))


# -- what else is promised -------------------------------------------------------------------------


def test_losses_are_known_by_name() -> None:
    """Each once; of a model that computes none, none."""
    model, batch = bert(), texts()
    with losses.named() as found:
        model(**batch)
        model(**batch)
    assert found == ["cross_entropy"]
    with losses.named() as found:
        model(batch["input_ids"])
    assert found == []
    assert "none of torch's own" in losses.unless([], losses.CLASSES)


@pytest.mark.parametrize("precision", ["bf16"])
@pytest.mark.parametrize("name", sorted(LOUD))
def test_it_trains_in_reduced_precision(name: str, precision: str, planned: Any) -> None:  # noqa: F811
    training = {"epochs": 1, "batch_size": 8, "max_length": 16, "precision": precision}
    plan, workspace = planned({name: LOUD[name]}, training=training)
    record = run(trial_of(plan), workspace)
    assert record["status"] == "finished", record["reason"]
    assert math.isfinite(record["curve"][-1]["train_loss"])
