"""Where a head reads one position, the last block computes no more, and the trial is the same trial."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_conformance import FAMILIES
from test_sharing import both, close, planned, run
from test_strategies import PARTS
from torch import nn

from harness.backbones.forward import accepted
from harness.backbones.untrained import Untrained
from harness.recipe import parse
from harness.stage import Stage
from harness.training import narrow
from harness.training.kept import similarity
from harness.training.model import pretrained
from harness.training.prefix import Where
from harness.training.run import job_of
from harness.training.workspace import Workspace, workspace_of

CPU = torch.device("cpu")
# Of the families that there are small models of; every head of tokens, boxes, pixels and frames reads all.
ONE = {(name, "text-classification") for name in ("bert", "roberta", "distilbert", "deberta-v2")} | {
    ("vit", "image-classification")
}


def found(family: str, kind: str, folder: Path, precision: str = "fp32") -> tuple[str, ...]:
    plan = planned(family, kind, folder, 0, precision)
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    where = Where(trial.task, trial.backbone, 32, precision)
    return narrow.unread(workspace_of(plan, folder / "results"), where, CPU).names


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_it_is_known_whose_heads_read_one_position(family: str, kind: str, tmp_path: Path) -> None:
    assert bool(found(family, kind, tmp_path)) == ((family, kind) in ONE)


def test_in_bert_all_but_attention_is_narrowed(tmp_path: Path) -> None:
    names = found("bert", "text-classification", tmp_path)
    inside = "bert.encoder.layer.1."
    assert names[0] == inside + "attention.output"
    assert {inside + "intermediate.dense", inside + "output.dense", inside + "output.dropout"} < set(names)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("family", "kind", "frozen"), [(*case, 0) for case in sorted(ONE)] + [
    ("bert", "text-classification", 2)
])  # fmt: skip
def test_a_trial_is_the_same_trial(
    family: str, kind: str, frozen: int, precision: str, tmp_path: Path
) -> None:
    """Interrupted once, and with dropout, which draws what it would have drawn."""
    shared, alone = both(planned(family, kind, tmp_path, frozen, precision), tmp_path)
    close(shared, alone, 1e-5 if precision == "fp32" else 5e-2)
    assert shared["sharing"]["narrowed"] and not alone["sharing"]["narrowed"]


def test_noise_on_what_enters_the_head_is_drawn_for_all_positions(tmp_path: Path) -> None:
    """RoBERTa hands the whole sequence to its head, and LP-FT trains that alone first."""
    parts = {"lp-ft": PARTS["lp-ft"]().value(), "r3f": PARTS["r3f"]().value()}
    plan = planned("roberta", "text-classification", tmp_path, 0, "fp32", strategies={"one": parts})
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm")
    ours = run(trial, replace(workspace_of(plan, tmp_path / "shared"), passes={}))
    close(ours, run(trial, replace(workspace_of(plan, tmp_path / "alone"), passes={}, share=False)), 1e-5)
    assert ours["sharing"]["narrowed"]


def test_dropout_after_attention_draws_for_all_positions(tmp_path: Path) -> None:
    """The small ViT has none, as the published one."""
    small = {"use": "untrained", "family": "vit", "name": "small", "changes": {"hidden_dropout_prob": 0.3}}
    plan = planned("vit", "image-classification", tmp_path, 0, "fp32", backbones=[small])
    shared, alone = both(plan, tmp_path)
    close(shared, alone, 1e-5)
    assert shared["sharing"]["narrowed"]


def test_a_model_that_counts_what_leaves_its_last_block(tmp_path: Path) -> None:
    """Longformer pads its input to whole windows, and takes off again as many positions of what comes out."""
    folder = Path(shutil.copytree(Untrained(family="roberta").location(), tmp_path / "model"))
    config = transformers.LongformerConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        attention_window=[8, 8], max_position_embeddings=200, pad_token_id=0,
    )  # fmt: skip
    transformers.LongformerModel(config).save_pretrained(folder)
    small = {"path": str(folder), "name": "small"}
    plan = planned("roberta", "text-classification", tmp_path, 0, "fp32", backbones=[small])
    close(*both(plan, tmp_path), 1e-5)


def test_a_model_that_does_not_bear_being_tried_trains_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(trial: Any) -> tuple[str, ...]:
        raise ValueError("no room")

    monkeypatch.setattr(narrow._Trial, "earliest", fails)
    narrow.unread.cache_clear()
    shared, alone = both(planned("bert", "text-classification", tmp_path, 0, "fp32"), tmp_path)
    narrow.unread.cache_clear()
    close(shared, alone, 1e-5)
    assert not shared["sharing"]["narrowed"] and not alone["notes"]
    assert shared["notes"] == ["the last block computes all positions: ValueError: no room"]


def job(folder: Path, share: bool = True, **changes: Any) -> tuple[Any, dict[str, Any], Workspace]:
    plan = planned("bert", "text-classification", folder, 0, "fp32", **changes)
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 1000, "confirm").as_dict()
    workspace = replace(workspace_of(plan, folder / "results"), share=share)
    return job_of(trial, workspace, parse(trial["recipe"], trial["strategy"]), CPU), trial, workspace


def rows(made: Any) -> list[int]:
    """How many positions a step computes in the last product of the last block."""
    seen: list[int] = []
    last = [module for module in made.tuned.ladder.rungs[-1].last.modules() if isinstance(module, nn.Linear)]
    handle = last[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    made.tuned(made.train.batch(list(range(8))))
    handle.remove()
    return seen


def test_the_other_positions_are_not_computed(tmp_path: Path) -> None:
    narrow_one, *_ = job(tmp_path / "shared")
    whole_one, *_ = job(tmp_path / "alone", share=False)
    assert rows(narrow_one) == [1]
    batch = narrow_one.train.batch([0, 1])
    left = narrow_one.tuned.model.bert(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    assert left.last_hidden_state.shape[:2] == batch["input_ids"].shape  # some models count them
    assert rows(whole_one)[0] > 1


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_loss_and_gradients_are_the_same_with_dropout(probability: float, tmp_path: Path) -> None:
    made = [job(tmp_path / name, share)[0] for name, share in (("shared", True), ("alone", False))]
    results = []
    for one in made:
        for module in one.tuned.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
        one.tuned.train(Stage(1, 0))
        torch.manual_seed(7)
        one.tuned.model.zero_grad()
        losses = [one.tuned(one.train.batch(batch)).loss for batch in ([0, 1, 2], [3, 4, 5, 6])]
        sum(losses).backward()
        left = torch.rand(1)  # the generator stands at the same place
        gradients = {name: weight.grad for name, weight in one.tuned.model.named_parameters()}
        results.append(([float(loss.detach()) for loss in losses], gradients, float(left)))
    (ours, mine, my_next), (theirs, their, their_next) = results
    assert ours == pytest.approx(theirs, rel=1e-6) and my_next == their_next
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, their[name], rtol=1e-4, atol=1e-7)


def test_a_copy_of_the_model_computes_the_same(tmp_path: Path) -> None:
    made, *_ = job(tmp_path)
    made.tuned.train(Stage(1, 0))
    batch = made.train.batch([0, 1, 2])
    losses = []
    for model in (made.tuned.model, copy.deepcopy(made.tuned.model), made.tuned.model):
        torch.manual_seed(7)
        losses.append(float(model(**accepted(model, batch)).loss.detach()))
    assert losses[0] == losses[1] == losses[2]


def test_who_watches_the_block_sees_all_positions(tmp_path: Path) -> None:
    made, trial, workspace = job(tmp_path / "shared")
    whole, *_ = job(tmp_path / "alone", share=False)
    with torch.no_grad():
        for one in (made, whole):
            for weight in one.tuned.ladder.rungs[-1].last.parameters():
                weight.mul_(1.5)
    origin = pretrained(workspace, trial["task"], trial["backbone"], CPU)
    assert similarity(made, origin) == similarity(whole, origin)
    assert rows(made) == [1]


def test_a_block_with_modules_of_its_own_computes_all(tmp_path: Path) -> None:
    made, *_ = job(tmp_path, strategies={"one": {"freeze": 0, "lora": {"rank": 2}}})
    assert rows(made)[0] > 1


def test_trying_leaves_no_trace(tmp_path: Path) -> None:
    _, trial, workspace = job(tmp_path)
    origin = pretrained(workspace, trial["task"], trial["backbone"], CPU)
    where = Where(trial["task"], trial["backbone"], 32, "fp32")
    before = {name: tensor.clone() for name, tensor in origin.state_dict().items()}
    asked = [weight.requires_grad for weight in origin.parameters()]
    narrow.unread.cache_clear()
    torch.manual_seed(3)
    assert narrow.unread(workspace, where, CPU).names
    left = torch.rand(1)
    torch.manual_seed(3)
    assert left == torch.rand(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in origin.state_dict().items())
    for module in origin.modules():
        assert not module._forward_pre_hooks and "forward" not in vars(module)
    assert asked == [weight.requires_grad for weight in origin.parameters()]
    assert all(weight.grad is None for weight in origin.parameters()) and not origin.training
