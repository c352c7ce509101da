"""What holds a model near its start, perturbs it or masks its gradients, and the recipes of BERT: each equals
its formula, computed here without the harness."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import word_task
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness import spec
from harness.entries import presets
from harness.errors import InputError
from harness.moments import Moments
from harness.optimizers.adamw import AdamW
from harness.plan import Plan, make_plan
from harness.prepare import prepare
from harness.recipe import parse
from harness.records.paths import ResultPaths
from harness.registry import plugins
from harness.regularizers import fisher
from harness.regularizers.base import Quadratic
from harness.regularizers.ewc import Ewc
from harness.regularizers.fisher import diagonal
from harness.regularizers.l2_sp_fisher import Informed, L2SPFisher
from harness.regularizers.pretrained_weight_decay import PretrainedWeightDecay
from harness.stage import Stage
from harness.strategies.base import Part
from harness.strategies.child_tuning_f import ChildTuningF
from harness.strategies.mixout import Mixout
from harness.strategies.recadam import RecAdam
from harness.strategies.sam import Sam
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.job import Job
from harness.training.kept import distance
from harness.training.loop import fit
from harness.training.member import Member
from harness.training.model import parameter_groups
from harness.training.run import job_of, run_trial
from harness.training.workspace import Workspace, workspace_of
from harness.weights import Weight

CPU = torch.device("cpu")


@pytest.fixture
def planned(sweep: Any, tmp_path: Path, words_csv: Path) -> Any:
    """`planned(strategy, **changes)`: plan and workspace of a sweep of this strategy on tiny BERT: two epochs
    of four steps at a constant rate, 32 examples."""

    def make(strategy: dict[str, Any], **changes: Any) -> tuple[Plan, Workspace]:
        defaults: dict[str, Any] = {
            "strategies": {"one": {"optimizer": {"learning_rate": 3e-3}, **strategy}},
            "baseline": None,
            "tasks": [word_task(words_csv, train_size=32)],
            "training": {
                "epochs": 2, "batch_size": 8, "max_length": 16, "warmup": 0.0, "schedule": "constant",
                "keep": "last",
            },
            "optimizer": {"learning_rate": 3e-3},
        }  # fmt: skip
        loaded = spec.load(sweep(**{**defaults, **changes}))
        plan = make_plan(loaded, prepare(loaded))
        return plan, workspace_of(plan, tmp_path / "results")

    return make


def job_in(planned: tuple[Plan, Workspace], seed: int = 0) -> Job:
    plan, workspace = planned
    cell = plan.cells[0]
    trial = plan.trial(cell, cell.space.default, seed, "tune")
    return job_of(trial.as_dict(), workspace, parse(trial.recipe, "one"), CPU)


def trained(job: Job, folder: Path) -> Member:
    member = Member(job, Progress(), None, Checkpoints(ResultPaths(folder), "t", 1e9))
    for _ in fit([member]):
        pass
    assert member.error is None
    return member


def numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().numpy().copy()


# -- the recipes of BERT ---------------------------------------------------------------------------


def gradients(seed: int = 0) -> Sequence[np.ndarray[Any, Any]]:
    return list(np.random.default_rng(seed).normal(size=(4, 3, 2)))


def test_adamw_without_bias_correction_takes_the_moments_as_they_are() -> None:
    """w ← w − η(m/(√v + ε) + λ·w), which is what BERT was fine-tuned with; without a gradient it stays."""
    settings = AdamW(learning_rate=0.1, weight_decay=0.2, epsilon=1e-6, bias_correction=False)
    start = np.arange(6.0).reshape(3, 2)
    weight, idle = (torch.nn.Parameter(torch.tensor(start)) for _ in range(2))
    built = settings.build([{"params": [weight, idle], "lr": 0.1, "weight_decay": 0.2}])
    w, m, v = start, 0.0, 0.0
    for g in gradients():
        weight.grad = torch.tensor(g)
        built.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.1 * (m / (np.sqrt(v) + 1e-6) + 0.2 * w)
    np.testing.assert_allclose(numpy(weight), w, rtol=1e-12)
    np.testing.assert_array_equal(numpy(idle), start)


def test_adamw_without_bias_correction_goes_on_from_its_state() -> None:
    """Its moments are in its state, like those of torch's own optimisers."""
    found = []
    for interrupted in (False, True):
        weight = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
        groups = [{"params": [weight], "lr": 0.1, "weight_decay": 0.2}]
        built = AdamW(bias_correction=False).build(groups)
        for number, g in enumerate(gradients()):
            if interrupted and number == 2:
                state = built.state_dict()
                built = AdamW(bias_correction=False).build([{**groups[0], "params": [weight]}])
                built.load_state_dict(state)
            weight.grad = torch.tensor(g)
            built.step()
        found.append(numpy(weight))
    np.testing.assert_array_equal(*found)


def test_what_came_later_leaves_old_hashes_alone() -> None:
    """A recipe with bias correction is written as it was before that could be switched off."""
    assert "bias_correction" not in parse({"optimizer": "adamw"}, "here").as_dict()["optimizer"]
    without = parse({"optimizer": {"name": "adamw", "bias_correction": False}}, "here")
    assert parse(without.as_dict(), "here") == without
    assert without.as_dict()["optimizer"]["bias_correction"] is False


def test_full_is_the_corrected_recipe() -> None:
    """Mosbach et al. 2021: rate 2e-5, decay 0.01, bias correction, 10 % warm-up, linear decay, clipping at 1,
    batches of 16; `mosbach` is that over their 20 epochs and with their ε; BERT's own has no correction."""

    def differing(name: str) -> dict[str, Any]:
        full, other = (parse(dict(presets()[n].definition), n).as_dict() for n in ("full", name))
        return {
            f"{section}.{key}": value
            for section in ("optimizer", "training")
            for key, value in other[section].items()
            if full[section].get(key) != value
        }

    full = parse(dict(presets()["full"].definition), "full")
    optimizer, training = full.optimizer, full.training
    assert isinstance(optimizer, AdamW) and optimizer.bias_correction
    assert (optimizer.learning_rate, optimizer.weight_decay) == (2e-5, 0.01)
    assert (training.warmup, training.schedule, training.clip) == (0.1, "linear", 1.0)
    assert (training.batch_size, training.epochs) == (16, 3)
    assert differing("mosbach") == {"optimizer.epsilon": 1e-6, "training.epochs": 20}
    assert differing("bert-original") == {"optimizer.epsilon": 1e-6, "optimizer.bias_correction": False}


# -- pulls towards the start -----------------------------------------------------------------------


def drawn_weights() -> list[Weight]:
    """Two tensors of the ladder with their pretrained values, and one of the head."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        Weight("w", torch.nn.Parameter(draw(3, 4)), draw(3, 4), 1),
        Weight("b", torch.nn.Parameter(draw(5)), draw(5), 2),
        Weight("head", torch.nn.Parameter(draw(2, 3)), None),
    ]


def test_pretrained_weight_decay_pulls_towards_the_start() -> None:
    """w ← w − η·λ·(w − w⁰), biases too; the head stays."""
    weights = drawn_weights()
    wanted = [
        numpy(w.value) - (0 if w.reference is None else 0.3 * 0.05 * numpy(w.value - w.reference))
        for w in weights
    ]
    decay = PretrainedWeightDecay(strength=0.3)
    assert decay.mode == "decoupled"
    decay.bind(weights).shrink({w.value: 0.05 for w in weights})
    for weight, value in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(numpy(weight.value), value, rtol=1e-12)


def test_pretrained_weight_decay_is_l2_sp_in_the_step(planned: Any) -> None:
    """The same mathematics under another name is the same trial; without strength it is none."""

    def trial(regularizer: Any) -> str:
        plan, _ = planned({"regularizer": regularizer})
        return plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune").trial_id

    mine = trial("pretrained-weight-decay")
    assert mine == trial({"name": "l2-sp", "strength": 0.01, "mode": "decoupled"})
    assert mine != trial({"name": "l2-sp", "strength": 0.01})
    assert trial({"name": "pretrained-weight-decay", "strength": 0}) == trial(None)


def test_a_pull_by_information_and_its_gradient_equal_the_formula() -> None:
    """(α/2)·Σ fᵢ(wᵢ − rᵢ)² + (β/2)·‖head‖², through autograd, in closed form and as a decoupled step."""
    weights = drawn_weights()
    f = [torch.rand_like(w.value) for w in weights[:2]]
    terms = [(w.value, w.reference, each) for w, each in zip(weights, f, strict=False)]
    penalty = Informed(0.3, terms, Quadratic([(weights[2].value, None, 0.7)]))  # type: ignore[arg-type]
    pulls = [0.3 * numpy(each * (w.value - w.reference)) for w, each in zip(weights, f, strict=False)]
    pulls.append(0.7 * numpy(weights[2].value))
    wanted = sum(0.15 * (numpy(e) * numpy(w - r) ** 2).sum() for w, r, e in terms)  # type: ignore[operator]
    wanted += 0.35 * (numpy(weights[2].value) ** 2).sum()
    value = penalty.value()
    assert value.item() == pytest.approx(wanted, rel=1e-12)
    value.backward()
    assert penalty.backward(scale=2.0).item() == pytest.approx(wanted, rel=1e-12)
    for weight, pull in zip(weights, pulls, strict=True):
        assert weight.value.grad is not None
        np.testing.assert_allclose(numpy(weight.value.grad), 3 * pull, rtol=1e-12)
    before = [numpy(w.value) for w in weights]
    penalty.shrink({w.value: 0.05 for w in weights})
    for weight, start, pull in zip(weights, before, pulls, strict=True):
        np.testing.assert_allclose(numpy(weight.value), start - 0.05 * pull, rtol=1e-12)


def by_hand(model: Any, batches: Any, seed: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The diagonal with drawn labels, and with the sum over all classes, from log-probabilities, by name."""
    sampled: dict[str, Any] = {name: 0.0 for name, _ in model.named_parameters()}
    exact: dict[str, Any] = dict(sampled)
    examples = []
    for batch in batches:
        examples += [{k: v[i : i + 1] for k, v in batch.items()} for i in range(len(batch["labels"]))]
    torch.manual_seed(seed)
    for example in examples[:count]:
        log_p = model(**example).logits[0].log_softmax(0)
        drawn = int(torch.multinomial(log_p.exp(), 1))
        for label, p in enumerate(log_p.exp().tolist()):
            model.zero_grad()
            log_p[label].backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                square = numpy(parameter.grad) ** 2 / count
                exact[name] = exact[name] + p * square
                sampled[name] = sampled[name] + (square if label == drawn else 0.0)
    return sampled, exact


def test_information_is_measured_at_the_start_from_labels_that_the_model_draws(planned: Any) -> None:
    """Without a source task: on examples of the task, one by one; on average what the sum over classes is.
    It is measured once, and leaves generators and model as they were."""
    job = job_in(planned({}))
    weights = job.tuned.weights(job.stages[0])
    with torch.no_grad():  # training has gone on since: θ⁰ is what counts
        for weight in weights:
            weight.value.add_(0.1)
    origin, noise = job.origin(), torch.get_rng_state()
    before = {name: p.clone() for name, p in origin.named_parameters()}
    found = diagonal(weights, job, 30)
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in origin.named_parameters())
    sampled, exact = by_hand(copy.deepcopy(origin), job.sample(30), job.seed, 30)
    sums = [0.0, 0.0]
    for weight, f in zip(weights, found, strict=True):
        assert (f is None) == (weight.rung is None)
        if f is not None:
            np.testing.assert_allclose(numpy(f), sampled[weight.name], rtol=1e-3, atol=1e-9)
            sums = [sums[0] + float(f.sum()), sums[1] + float(exact[weight.name].sum())]
    assert sums[0] == pytest.approx(sums[1], rel=0.3)
    again = diagonal(weights, job, 30)
    assert all(one is other for one, other in zip(found, again, strict=True))
    fewer = diagonal(weights, job, 5)
    assert fewer[0] is not None and not torch.equal(fewer[0], found[0])  # type: ignore[arg-type]


def test_information_is_that_of_the_source_task(
    planned: Any, models: Any, words_csv: Path, tmp_path: Path
) -> None:
    """Where the backbone has one: its examples, its head, its weights."""
    source = {
        "task": word_task(words_csv, "groups", train_size=48), "training": {"epochs": 2},
        "optimizer": {"learning_rate": 1e-2},
    }  # fmt: skip
    backbone = {"name": "tiny", "path": str(models("bert")), "source": source}
    made = planned({}, backbones=[backbone], tasks=[word_task(words_csv, train_size=32, split_seed=7)])
    plan, workspace = made
    for _ in run_trial(plan.sources["tiny"].as_dict(), workspace):
        pass
    job = job_in(made)
    weights = job.tuned.weights(job.stages[0])
    found = diagonal(weights, job, 20)
    learned = job.source()
    assert learned is not None
    sampled, _ = by_hand(*learned, job.seed, 20)
    for weight, f in zip(weights, found, strict=True):
        if f is not None:
            np.testing.assert_allclose(numpy(f), sampled[weight.name], rtol=1e-3, atol=1e-9)


def test_labels_are_drawn_only_where_classes_are_predicted() -> None:
    """Numbers keep the true label; of tokens those without one stay out."""
    import transformers as tf

    config: dict[str, Any] = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
        "vocab_size": 20,
    }  # fmt: skip
    inputs = torch.tensor([[2, 5, 7, 3]])
    number = tf.BertForSequenceClassification(tf.BertConfig(**config, num_labels=1)).eval()
    true = torch.tensor([0.5])
    outputs = number(input_ids=inputs, labels=true)
    assert fisher._negative_log_likelihood(outputs, true) is outputs.loss
    tagger = tf.BertForTokenClassification(tf.BertConfig(**config, num_labels=3)).eval()
    with torch.no_grad():
        tagger.classifier.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))  # it is sure of class 0
    tags = torch.tensor([[-100, 1, 2, -100]])
    outputs = tagger(input_ids=inputs, labels=tags)
    assert outputs.loss > 10
    assert fisher._negative_log_likelihood(outputs, tags) < 1e-3


def test_what_matters_moves_less(planned: Any, tmp_path: Path) -> None:
    """EWC in a trial: the change, weighted by information, is a fraction of what it is without; the canonical
    form is that of L2-SP-Fisher, which trains on under its own name."""
    moved = []
    for regularizer in (None, "ewc"):
        strong = None if regularizer is None else {"name": "ewc", "strength": 1e4, "samples": 16}
        job = job_in(planned({"regularizer": strong}))
        assert (job.recipe.regularizer is None) == (regularizer is None)
        if job.recipe.regularizer is not None:
            assert job.recipe.regularizer.name == "l2-sp-fisher"
        weights = job.tuned.weights(job.stages[0])
        trained(job, tmp_path)
        moved.append(
            sum(
                float((f * (w.value.detach() - w.reference).square()).sum())
                for w, f in zip(weights, diagonal(weights, job, 16), strict=True)
                if f is not None and w.reference is not None
            )
        )
    assert moved[1] < 0.2 * moved[0]


def test_where_nothing_pretrained_trains_nothing_is_measured() -> None:
    """The pull is dropped, and with it how it would be measured; β stays."""
    for settings in ({"strength": 3.0, "samples": 5}, {"strength": 0.0, "samples": 7}):
        assert L2SPFisher(**settings).canonical(no_start=True) is None
        kept = L2SPFisher(**settings, head_strength=0.7).canonical(no_start=True)
        assert kept == L2SPFisher(strength=0.0, head_strength=0.7)
    head = drawn_weights()[2:]
    assert kept.bind(head).value().item() == pytest.approx(0.35 * (numpy(head[0].value) ** 2).sum())
    assert Ewc(strength=0.0).canonical(no_start=False) is None


# -- RecAdam ---------------------------------------------------------------------------------------


def groups_of(weights: Sequence[Weight], rate: float, decay: float) -> list[dict[str, Any]]:
    """As the loop makes them: one per tensor, vectors without decay."""
    return [
        {
            "params": [w.value], "lr": rate * (1 + index), "weight_decay": decay if w.value.ndim > 1 else 0.0,
            "rung": w.rung, "pretrained": w.reference is not None,
        }
        for index, w in enumerate(weights)
    ]  # fmt: skip


@pytest.mark.parametrize("t0", [2, 0.25])
def test_recadam_equals_the_authors_optimiser(t0: Any) -> None:
    """Their step written out: λ(t) times Adam's update, the pull, then the decay; nothing but Adam and decay
    for the head. The groups' decay is as it was after it, and an interruption changes nothing."""
    weights = drawn_weights()
    settings = AdamW(epsilon=1e-12)
    built = settings.build(groups_of(weights, 0.01, 0.2))
    part = RecAdam(k=0.7, t0=t0, gamma=20.0)
    setting = SimpleNamespace(steps=8, recipe=SimpleNamespace(optimizer=settings))
    moments = part.bind(cast(Any, setting))
    moments.entered(0, Stage(1), weights)
    rng = np.random.default_rng(0)
    w = [numpy(each.value) for each in weights]
    m, v = [0.0] * 3, [0.0] * 3
    for t in range(1, 9):
        if t == 5:
            state, moments = moments.state(), part.bind(cast(Any, setting))
            moments.load(state)
            moments.entered(0, Stage(1), weights)
        moved = 1 / (1 + np.exp(-0.7 * (t - 2)))
        for i, weight in enumerate(weights):
            g = rng.normal(size=tuple(weight.value.shape))
            weight.value.grad = torch.tensor(g)
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
            rate, decay = 0.01 * (1 + i), 0.2 if weight.value.ndim > 1 else 0.0
            step = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            share = 1.0 if weight.reference is None else moved
            if weight.reference is None:  # torch's AdamW decays first, and not as last
                w[i] = w[i] - rate * decay * w[i]
            w[i] = w[i] - step * share * m[i] / (np.sqrt(v[i]) + 1e-12)
            if weight.reference is not None:
                w[i] = w[i] - rate * (1 - moved) * 20.0 * (w[i] - numpy(weight.reference))
                w[i] = w[i] - rate * decay * w[i]
        moments.stepping(built.param_groups)
        built.step()
        moments.stepped()
        for group, before in zip(built.param_groups, groups_of(weights, 0.01, 0.2), strict=True):
            assert group["weight_decay"] == before["weight_decay"]
            group["lr"] = before["lr"]  # as the schedule does
    for weight, value in zip(weights, w, strict=True):
        np.testing.assert_allclose(numpy(weight.value), value, rtol=1e-7)


def test_recadam_stays_near_the_start_before_the_shift(planned: Any, tmp_path: Path) -> None:
    """In the loop: before t₀ the rungs hardly move and the head does."""
    found = []
    for t0 in (0, 1000):
        shift = {"recadam": {"k": 1.0, "t0": t0, "gamma": 100.0}}
        job = job_in(planned({**shift, "optimizer": {"learning_rate": 3e-3, "weight_decay": 0}}))
        head = job.tuned.model.classifier.weight.clone()
        trained(job, tmp_path)
        found.append(distance(job.tuned)["relative_l2"])
        assert not torch.equal(job.tuned.model.classifier.weight, head)
    assert found[1] < 1e-3 * found[0]


@pytest.mark.parametrize("t0", [-1, 1.5, -0.1, True, "late"])
def test_what_is_no_middle_of_a_shift_is_refused(t0: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse({"recadam": {"t0": t0}}, "here")
    assert all(mistake.place.startswith("here.recadam") for mistake in caught.value.mistakes)


def test_recadam_needs_adam() -> None:
    with pytest.raises(InputError) as caught:
        parse({"recadam": {}, "optimizer": "sgd"}, "here")
    assert [mistake.place for mistake in caught.value.mistakes] == ["here.recadam"]
    parse({"recadam": {}, "optimizer": "adam"}, "here")


def test_groups_part_what_was_pretrained_from_what_was_not() -> None:
    """Also within a rung, some of whose weights a strategy has drawn anew."""
    weights = drawn_weights()
    anew = Weight("anew", torch.nn.Parameter(torch.ones(2, 2)), None, 1)
    groups = parameter_groups(parse({}, "here"), [*weights, anew], 3)
    found = {(group["rung"], group["pretrained"]): group["params"] for group in groups}
    assert [len(found[key]) for key in ((1, True), (1, False), (2, True), (None, False))] == [1, 1, 1, 1]
    assert found[1, False][0] is anew.value


@pytest.mark.parametrize("part", ["recadam", "mixout", "child-tuning-d"])
def test_what_needs_pretrained_weights_is_dropped_where_none_train(part: str, planned: Any) -> None:
    """It is then the same trial as without it."""

    def trial(strategy: dict[str, Any]) -> str:
        plan, _ = planned(strategy)
        return plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune").trial_id

    value = plugins("strategies", Part)[part]().value()
    assert trial({part: value, "freeze": "all"}) == trial({"freeze": "all"})
    assert trial({part: value}) != trial({})


# -- mixout ----------------------------------------------------------------------------------------


def layered(module: Any, name: str = "weight") -> Weight:
    """The weight of a layer, away from where it started."""
    value = module.get_parameter(name)
    return Weight(f"layer.{name}", value, value.detach() + torch.rand_like(value) + 0.5, 1, module)


def mixing(p: float) -> Any:
    return Mixout(p=p).bind(cast(Any, None))


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(40, 3), lambda w: w.T),
        (Conv1D(3, 40), lambda w: w),  # GPT-2's: the matrix is transposed, with 40 inputs
        (nn.Conv2d(20, 3, (2, 1)), lambda w: w.flatten(1).T),
    ],
)
def test_mixout_replaces_what_leaves_an_input(layer: Any, inputs: Any) -> None:
    """Each input's weights are w⁰ + k·(w − w⁰), k = 0 or 1/(1 − p), the same for all outputs; w is there
    again afterwards to the bit, and its gradient is multiplied by k."""
    weight, moments = layered(layer), mixing(0.6)
    moments.entered(0, Stage(1), [weight])
    before = weight.value.detach().clone()
    torch.manual_seed(0)
    with moments.computing():
        assert weight.reference is not None
        k = inputs((weight.value.detach() - weight.reference) / (before - weight.reference))
        weight.value.grad = torch.ones_like(weight.value)
    assert torch.equal(weight.value, before)
    np.testing.assert_allclose(numpy(inputs(weight.value.grad)), numpy(k), rtol=1e-3, atol=1e-5)
    assert (k.std(dim=1) < 1e-3).all()
    kept = k.mean(dim=1) > 1
    assert 0.2 < kept.float().mean() < 0.6
    np.testing.assert_allclose(numpy(k[kept]), 2.5, rtol=1e-3)
    np.testing.assert_allclose(numpy(k[~kept]), 0.0, atol=1e-3)


def test_mixout_is_right_in_the_mean() -> None:
    weight, moments = layered(nn.Linear(5, 4)), mixing(0.5)
    moments.entered(0, Stage(1), [weight])
    torch.manual_seed(0)
    total = torch.zeros_like(weight.value)
    for _ in range(2000):
        with moments.computing():
            total += weight.value.detach() / 2000
    np.testing.assert_allclose(numpy(total), numpy(weight.value), atol=0.15)


def test_mixout_leaves_vectors_embeddings_and_the_head_alone() -> None:
    weights = [
        layered(nn.Linear(5, 4), "bias"), layered(nn.Embedding(5, 4)), layered(nn.LayerNorm(5)),
        Weight("head", nn.Linear(5, 4).weight, None),
    ]  # fmt: skip
    moments = mixing(0.9)
    moments.entered(0, Stage(1), weights)
    before = [w.value.detach().clone() for w in weights]
    with moments.computing():
        assert all(torch.equal(w.value, value) for w, value in zip(weights, before, strict=True))


def test_mixout_takes_the_gradient_at_the_mixed_weights(planned: Any) -> None:
    """On a model: its gradient is that of a model that has the mixed weights, times k for what was mixed."""
    job = job_in(planned({"mixout": 0.5}))
    weights = job.tuned.weights(job.stages[0])
    with torch.no_grad():
        for weight in weights:
            weight.value.add_(0.1 * torch.randn_like(weight.value))
    moments = job.recipe.parts[0].bind(job)
    moments.entered(0, job.stages[0], weights)
    (batch,) = job.sample(8)
    job.tuned.model.eval()
    before = {w.name: w.value.detach().clone() for w in weights}
    with moments.computing():
        mixed = copy.deepcopy(job.tuned.model)
        job.tuned(batch).loss.backward()
    mixed(**batch).loss.backward()
    there = dict(mixed.named_parameters())
    some = 0
    for weight in weights:
        moved = (there[weight.name] - before[weight.name]).abs().max() > 0
        k: Any = 1.0
        if moved:
            assert weight.reference is not None
            k = (there[weight.name].detach() - weight.reference) / (before[weight.name] - weight.reference)
            some += 1
        wanted = torch.as_tensor(there[weight.name].grad * k)
        torch.testing.assert_close(weight.value.grad, wanted, rtol=1e-2, atol=1e-5)
    assert some == 3 * 6 + 1  # six matrices per block, and the pooler's


def test_mixout_stands_in_the_place_of_dropout(planned: Any) -> None:
    """In the rungs that train, not in those below nor in the head."""
    model = job_in(planned({"mixout": 0.5, "freeze": 2})).tuned.model
    assert model.bert.encoder.layer[0].output.dropout.p == 0.1
    assert model.bert.encoder.layer[1].output.dropout.p == 0.0
    assert model.bert.encoder.layer[1].attention.self.dropout.p == 0.0
    assert model.dropout.p == 0.1


# -- child networks --------------------------------------------------------------------------------


def test_child_tuning_without_a_task_lets_gradients_count_by_chance() -> None:
    """Each is 0 or g/p, with probability p; another draw in each step, from the generator of the process."""
    weight = torch.nn.Parameter(torch.ones(200, 100))
    idle = torch.nn.Parameter(torch.ones(2))
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weight.grad = torch.full_like(weight, 3.0)
        ChildTuningF(p=0.2).bind(cast(Any, None)).stepping([{"params": [weight, idle]}])
        found.append(weight.grad)
    counted = found[0] != 0
    assert counted.float().mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_allclose(numpy(found[0][counted]), 15.0, rtol=1e-6)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert idle.grad is None


def test_child_tuning_for_a_task_keeps_what_matters_most(planned: Any) -> None:
    """The mask is that of the authors' code: squared gradients of each batch's loss, each tensor's clipped at
    1, summed; those of all blocks that train above one threshold. All else gets its whole gradient."""
    job = job_in(planned({"child-tuning-d": 0.25, "freeze": 2}))
    model = copy.deepcopy(job.tuned.model)
    (part,) = (part for part in job.recipe.parts if part.name == "child-tuning-d")
    noise = torch.get_rng_state()
    moments = part.bind(job)
    assert torch.equal(torch.get_rng_state(), noise)
    weights = job.tuned.weights(job.stages[0])
    moments.entered(0, job.stages[0], weights)
    for weight in weights:
        weight.value.grad = torch.ones_like(weight.value)
    moments.stepping([])
    kept = {w.name: numpy(w.value.grad) for w in weights if w.value.grad is not None}

    sums: dict[str, Any] = {}
    for batch in job.sample(1024):
        model.zero_grad()
        model.eval()(**batch).loss.backward()
        for name, parameter in model.named_parameters():
            if "layer.1." in name or "layer.2." in name:
                torch.nn.utils.clip_grad_norm_(parameter, 1.0)
                sums[name] = sums.get(name, 0.0) + numpy(parameter.grad) ** 2
    flat = np.concatenate([sums[name].ravel() for name in sums])
    threshold = np.percentile(flat, 75)
    assert sum(int(kept[name].sum()) for name in sums) == round(0.25 * len(flat))
    assert (
        sum(int((kept[name] != (sums[name] >= threshold)).sum()) for name in sums) <= 4
    )  # near the threshold
    others = set(kept) - set(sums)
    assert others == {
        f"{name}.{part}" for name in ("bert.pooler.dense", "classifier") for part in ("weight", "bias")
    }
    assert all((kept[name] == 1).all() for name in others)


def test_a_child_is_chosen_at_the_start_wherever_training_stands(planned: Any) -> None:
    """Bound anew, as after an interruption, it is the same; other seeds, with other heads, have others."""
    masks = []
    for seed in (0, 0, 1):
        job = job_in(planned({"child-tuning-d": 0.3}), seed)
        masks.append(job.recipe.parts[0].bind(job)._masks)
    first, again, other = (np.concatenate([numpy(m).ravel() for m in found.values()]) for found in masks)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# -- sharpness -------------------------------------------------------------------------------------


def climbed(model: Any, batch: Any, rho: float, seed: int, around: Any = nullcontext) -> dict[str, Any]:
    """The gradient at w + ρ·g/‖g‖, both passes with the dropout of a seed, by name."""
    model = copy.deepcopy(model)
    torch.manual_seed(seed)
    with around():
        loss = model(**batch).loss
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(rho * parameter.grad / norm)
            parameter.grad = None
    torch.manual_seed(seed)
    with around():
        loss = model(**batch).loss
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def bf16() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("around", [nullcontext, bf16])
def test_sam_takes_the_gradient_uphill(around: Any, planned: Any) -> None:
    """At w + ρ·g/‖g‖ with the same dropout, in bf16 too; the weights are back to the bit, and the generator
    is where one pass would have left it."""
    job = job_in(planned({"sam": 0.5}))
    weights = job.tuned.weights(job.stages[0])
    moments = job.recipe.parts[0].bind(job)
    moments.entered(0, job.stages[0], weights)
    (batch,) = job.sample(8)
    job.tuned.model.train()
    wanted = climbed(job.tuned.model, batch, 0.5, 7, around)
    flat = climbed(job.tuned.model, batch, 0.0, 7, around)
    before = [w.value.detach().clone() for w in weights]
    torch.manual_seed(7)
    with around():
        job.tuned(batch)
    after_one = torch.get_rng_state()
    torch.manual_seed(7)
    with moments.computing():
        with around():
            loss = moments.forward(job.tuned, batch).loss
        loss.backward()
    assert torch.equal(torch.get_rng_state(), after_one)
    tolerance = 1e-5 if around is nullcontext else 2e-3
    moved = 0.0
    for weight, value in zip(weights, before, strict=True):
        assert torch.equal(weight.value, value)
        torch.testing.assert_close(weight.value.grad, wanted[weight.name], rtol=1e-3, atol=tolerance)
        moved = max(moved, float((wanted[weight.name] - flat[weight.name]).abs().max()))
    assert moved > 10 * tolerance, "the two points do not differ"


def test_sam_climbs_anew_for_each_piece_of_a_batch(planned: Any) -> None:
    """The gradients of two pieces, each at its own point, add up; statistics count each piece once."""
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).double().train()

    def forward(batch: Any) -> Any:
        return SimpleNamespace(loss=net(batch["x"]).square().mean())

    pieces = [{"x": torch.randn(5, 4, dtype=torch.float64)} for _ in range(2)]
    wanted: dict[str, Any] = {}
    for piece in pieces:
        there = climbed(Wrapped(copy.deepcopy(net)), {"x": piece["x"]}, 0.1, 0)
        wanted = {name: wanted.get(name, 0) + gradient for name, gradient in there.items()}
    setting = SimpleNamespace(device=CPU, tuned=SimpleNamespace(model=net))
    moments = Sam(rho=0.1).bind(cast(Any, setting))
    moments.entered(0, Stage(1), [Weight(name, p, None) for name, p in net.named_parameters()])
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with moments.computing():
        for piece in pieces:
            moments.forward(forward, piece).loss.backward()
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name])
        torch.testing.assert_close(parameter.grad, wanted[f"net.{name}"], rtol=1e-9, atol=1e-12)
    assert torch.equal(net[1].num_batches_tracked, torch.tensor(2))


class Wrapped(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(loss=self.net(x).square().mean())


def test_sam_costs_twice_the_training(planned: Any) -> None:
    """In the plan, and as it is counted."""
    plain, twice = (planned(strategy) for strategy in ({}, {"sam": 0.05}))
    flops = []
    for plan, workspace in (plain, twice):
        trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
        record = list(run_trial(trial.as_dict(), workspace))[-1]
        assert record["cost"]["flops"] == pytest.approx(trial.flops, rel=0.01)
        flops.append(trial.flops)
    model = plain[0].prepared.models["words", "tiny"]
    evaluations = 2 * 32 * sum(model.flops)
    assert flops[1] - evaluations == pytest.approx(2 * (flops[0] - evaluations), rel=1e-6)


def test_sam_sees_what_every_other_part_makes_of_the_loss(planned: Any, tmp_path: Path) -> None:
    """Whatever their names: it is handed the model with all of them around it."""
    job = job_in(planned({"sam": 0.5}))
    member = Member(job, Progress(), None, Checkpoints(ResultPaths(tmp_path), "t", 1e9))
    order: list[str] = []

    class Said(Moments):
        def __init__(self, name: str, outer: bool) -> None:
            self.name, self.outer = name, outer

        def forward(self, inner: Any, batch: Any) -> Any:
            order.append(self.name)
            return inner(batch)

    member._moments = {name: Said(name, name == "b") for name in "abc"}
    (batch,) = job.sample(4)
    member.forward(batch)
    assert order[0] == "b"
    assert job.recipe.parts[0].bind(job).outer


def test_sam_and_mixout_do_not_go_together() -> None:
    """Both say at which weights the gradient is taken; and SAM's first gradient has no scale in fp16."""
    for tree in ({"sam": 0.05, "mixout": 0.5}, {"sam": 0.05, "training": {"precision": "fp16"}}):
        with pytest.raises(InputError) as caught:
            parse(cast(Any, tree), "here")
        assert all(mistake.reason for mistake in caught.value.mistakes)
