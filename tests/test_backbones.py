"""What every model family promises: a ladder that holds each weight once, frozen rungs that stay as they are,
a head drawn from a seed, and clear words for a folder that is no model."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.backbones.base import Backbone, set_up_transformers
from harness.backbones.family import Family, NoLadderError
from harness.backbones.flops import forward_flops, training_flops
from harness.backbones.ladder import Ladder, base_of, build_ladder, reset_head
from harness.errors import InputError, Mistake
from harness.registry import plugins
from harness.stage import Stage

TEXT = ["bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama"]
AUTO = "AutoModelForSequenceClassification"
HEAD = {"num_labels": 3}
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def text_batch(length: int = 9, examples: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 30, (examples, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def deberta_with_convolution() -> Any:
    """As the large DeBERTa v2 models: a convolution stands after the blocks and runs after the first."""
    config = tf.DebertaV2Config(
        **SIZES, vocab_size=32, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm",
        pos_att_type=["p2c", "c2p"], conv_kernel_size=3, conv_act="gelu", pad_token_id=0, **HEAD,
    )  # fmt: skip
    return tf.DebertaV2ForSequenceClassification(config), text_batch()


def vit() -> Any:
    config = tf.ViTConfig(**SIZES, image_size=16, patch_size=8, hidden_dropout_prob=0.1, **HEAD)
    return tf.ViTForImageClassification(config), {"pixel_values": torch.randn(4, 3, 16, 16)}


def resnet() -> Any:
    config = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", **HEAD
    )
    return tf.ResNetForImageClassification(config), {"pixel_values": torch.randn(4, 3, 32, 32)}


def wav2vec2() -> Any:
    config = tf.Wav2Vec2Config(
        **SIZES, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8, layerdrop=0.3,
        mask_time_prob=0.5, mask_time_length=2, mask_time_min_masks=1, **HEAD,
    )  # fmt: skip
    return tf.Wav2Vec2ForSequenceClassification(config), {"input_values": torch.randn(4, 800)}


OTHERS: dict[str, Callable[[], Any]] = {
    "deberta-v2 with convolution": deberta_with_convolution,
    "vit": vit,
    "resnet": resnet,
    "wav2vec2": wav2vec2,
}

every_text_model = pytest.mark.parametrize("family", TEXT)
every_model = pytest.mark.parametrize("family", [*TEXT, *OTHERS])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Case:
    """A fresh copy of a model with its ladder, and a batch with labels."""

    model: Any
    ladder: Ladder
    batch: dict[str, torch.Tensor]

    def leaving(self, depth: int) -> list[torch.Tensor]:
        """Every tensor that leaves the first `depth` rungs, in one forward pass: what the next block (or,
        with every rung frozen, the head) is given."""
        rungs = self.ladder.rungs
        targets = [rungs[depth].blocks[0]] if depth < len(rungs) else self.ladder.head.modules
        seen: list[Any] = []
        hooks = [
            module.register_forward_pre_hook(lambda m, a, k: seen.append((a, k)), with_kwargs=True)
            for module in targets
        ]
        with torch.no_grad():
            self.model(**self.batch)
        for hook in hooks:
            hook.remove()
        return [tensor.clone() for tensor in tensors(seen[0])]


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from tensors(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from tensors(child)


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    assert first and len(first) == len(second)
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="session")
def case(models: Any) -> Callable[[str], Case]:
    @cache
    def made(family: str) -> Any:
        torch.manual_seed(0)
        if family in OTHERS:
            return OTHERS[family]()
        backbone = Backbone(path=str(models(family)))
        return backbone.model(AUTO, backbone.processor("AutoTokenizer"), HEAD), text_batch()

    def get(family: str) -> Case:
        origin, batch = made(family)
        model = copy.deepcopy(origin)
        batch = {**batch, "labels": torch.tensor([0, 1, 2, 1])}
        return Case(model, build_ladder(model), batch)

    return get


# -- the ladder ------------------------------------------------------------------------------------


@every_model
def test_every_weight_is_on_one_rung_or_in_the_head(family: str, case: Any) -> None:
    found = case(family)
    parts = [*found.ladder.rungs, found.ladder.head]
    listed = [(name, parameter) for part in parts for name, parameter in part.parameters]
    assert sorted(name for name, _ in listed) == sorted(name for name, _ in found.model.named_parameters())
    own = dict(found.model.named_parameters())
    assert all(own[name] is parameter for name, parameter in listed)
    assert all(part.size > 0 for part in parts), "no rung is empty"
    inside = {id(parameter) for parameter in base_of(found.model).parameters()}
    assert not any(id(parameter) in inside for _, parameter in found.ladder.head.parameters)


@every_model
def test_rungs_stand_in_the_order_in_which_the_model_runs_them(family: str, case: Any) -> None:
    """From input to output: no module of a rung runs before one of a rung below, the head is last."""
    found = case(family)
    order: list[int] = []
    where: dict[int, int] = {}
    for index, part in enumerate([*found.ladder.rungs, found.ladder.head]):
        where.update((id(parameter), index) for _, parameter in part.parameters)
    for module in found.model.modules():
        for parameter in module.parameters(recurse=False):
            rung = where[id(parameter)]
            module.register_forward_pre_hook(lambda m, a, rung=rung: order.append(rung))
            break
    found.model.eval()(**found.batch)
    assert order == sorted(order)
    assert set(order) == set(range(len(found.ladder.rungs) + 1))


@every_model
def test_freezing_k_rungs_trains_exactly_the_rest(family: str, case: Any) -> None:
    found = case(family)
    for depth in [*range(len(found.ladder.rungs) + 1), 0]:
        found.ladder.freeze(depth)
        below = {name for rung in found.ladder.rungs[:depth] for name, _ in rung.parameters}
        for name, parameter in found.model.named_parameters():
            assert parameter.requires_grad == (name not in below), (depth, name)
        above = [
            name for rung in [*found.ladder.rungs[depth:], found.ladder.head] for name, _ in rung.parameters
        ]
        assert set(above) == set(dict(found.model.named_parameters())) - below


@every_model
def test_frozen_rungs_do_not_drop_out(family: str, case: Any) -> None:
    """In training, what leaves the frozen rungs is what leaves them in evaluation: no dropout, no layer
    dropped, no input masked, no batch statistics."""
    for depth in range(1, len(case(family).ladder.rungs) + 1):
        found = case(family)
        found.model.eval()
        still = found.leaving(depth)
        found.ladder.train(found.model, range(depth))
        for seed in (1, 2):
            torch.manual_seed(seed)
            assert equal(found.leaving(depth), still), depth


@every_model
def test_what_is_not_frozen_is_in_training_mode(family: str, case: Any) -> None:
    """Thawing brings dropout and batch statistics back; the head is always training."""
    found = case(family)
    noisy = (nn.Dropout, nn.BatchNorm2d)
    for depth in [len(found.ladder.rungs), 1, 0]:
        found.ladder.train(found.model, range(depth))
        for index, rung in enumerate(found.ladder.rungs):
            for module in rung.modules:
                if isinstance(module, noisy):
                    assert module.training == (index >= depth)
        assert all(module.training for module in found.ladder.head.modules)
        assert found.model.training


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta-v2", "gpt2"])
def test_plain_training_mode_does_drop_out(family: str, case: Any) -> None:
    """What the tests above see is not for want of dropout in these models."""
    found = case(family)
    found.model.train()
    torch.manual_seed(1)
    first = found.leaving(2)
    assert not equal(found.leaving(2), first)


@every_model
def test_a_frozen_prefix_does_not_depend_on_what_trains(family: str, case: Any) -> None:
    """Its output could be computed once and stored: no trainable weight is read below the depth, and every
    frozen rung does have a part in it."""
    found = case(family)
    found.model.eval()
    for depth in range(1, len(found.ladder.rungs) + 1):
        other = case(family)
        other.model.eval()
        before = other.leaving(depth)
        with torch.no_grad():
            for rung in [*other.ladder.rungs[depth:], other.ladder.head]:
                for _, parameter in rung.parameters:
                    parameter.add_(torch.randn_like(parameter))
        assert equal(other.leaving(depth), before), depth
        with torch.no_grad():
            for _, parameter in other.ladder.rungs[depth - 1].parameters:
                parameter.add_(torch.randn_like(parameter))
        assert not equal(other.leaving(depth), before), depth


@every_model
def test_a_step_changes_what_trains_and_nothing_else(family: str, case: Any) -> None:
    """Weights and running statistics of frozen rungs stay bit for bit; every rung above moves."""
    for depth in (0, 2, "all"):
        torch.manual_seed(0)
        found = case(family)
        rungs = found.ladder.rungs
        frozen = len(rungs) if depth == "all" else int(depth)
        found.ladder.freeze(frozen)
        found.ladder.train(found.model, range(frozen))
        still = {id(module) for rung in rungs[:frozen] for module in rung.modules}
        before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
        optimizer = torch.optim.AdamW(
            [p for p in found.model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1
        )
        for _ in range(3):  # layers may be dropped at random, but hardly three times
            found.model(**found.batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        after = found.model.state_dict()
        below = {name for rung in rungs[:frozen] for name, _ in rung.parameters}
        assert all(torch.equal(before[name], after[name]) for name in below)
        for rung in [*found.ladder.rungs[frozen:], found.ladder.head]:
            moved = [not torch.equal(before[name], after[name]) for name, _ in rung.parameters]
            assert any(moved), (depth, rung.name)
        for name, module in found.model.named_modules():
            for own, _ in module.named_buffers(recurse=False):
                if id(module) in still and f"{name}.{own}" in before:
                    assert torch.equal(before[f"{name}.{own}"], after[f"{name}.{own}"]), name


def test_a_model_without_a_head_has_the_same_ladder(models: Any) -> None:
    """`harness list backbones` shows a ladder before any task is known."""
    for family in ("bert", "gpt2"):
        folder = Backbone(path=str(models(family)))
        bare, headed = (build_ladder(folder.skeleton(auto, {})) for auto in ("AutoModel", AUTO))
        assert [rung.name for rung in bare.rungs] == [rung.name for rung in headed.rungs]
        assert [rung.size for rung in bare.rungs] == [rung.size for rung in headed.rungs]
        assert bare.head.size == 0 < headed.head.size


def test_a_model_without_blocks_says_so() -> None:
    class Flat(tf.PreTrainedModel):  # type: ignore[misc]
        config_class = tf.BertConfig
        base_model_prefix = "flat"

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.layer = nn.Linear(2, 2)

    with pytest.raises(NoLadderError, match="Flat"):
        build_ladder(Flat(tf.BertConfig()))


def test_every_family_override_names_a_model_type_that_exists() -> None:
    """An override for a misspelt family would never be used."""
    from transformers import CONFIG_MAPPING

    set_up_transformers()  # the project's own join the Auto classes
    found = plugins("backbones", Family)
    assert set(found) >= {"deberta-v2", "wavenet"}
    assert all(name in CONFIG_MAPPING for name in found)


# -- the head --------------------------------------------------------------------------------------


def head_state(found: Case) -> list[torch.Tensor]:
    return [parameter.detach().clone() for _, parameter in found.ladder.head.parameters]


@every_model
def test_the_head_is_drawn_from_its_seed_alone(family: str, case: Any) -> None:
    """Same seed, same head, whatever was drawn before; another seed, another head; the global generator and
    the ladder stay as they were."""
    found = case(family)
    ladder = {name: p.clone() for rung in found.ladder.rungs for name, p in rung.parameters}
    torch.manual_seed(5)
    reset_head(found.model, found.ladder, 11)
    after = torch.rand(1)
    first = head_state(found)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(999)
    reset_head(found.model, found.ladder, 12)
    other = head_state(found)
    reset_head(found.model, found.ladder, 11)
    assert equal(head_state(found), first)
    matrices = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim >= 2]
    assert matrices and not any(torch.equal(a, b) for a, b in matrices)
    for rung in found.ladder.rungs:
        for name, parameter in rung.parameters:
            assert torch.equal(parameter, ladder[name]), name


@every_text_model
def test_a_trained_head_is_forgotten(family: str, case: Any) -> None:
    """Nothing of an earlier trial, or of the head that the weights came with, is left."""
    fresh, used = case(family), case(family)
    with torch.no_grad():
        for _, parameter in used.ladder.head.parameters:
            parameter.fill_(7.0)
    for found in (fresh, used):
        reset_head(found.model, found.ladder, 3)
    assert equal(head_state(fresh), head_state(used))


# -- loading ---------------------------------------------------------------------------------------


def loaded(path: Path, head: dict[str, Any] | None = None) -> Any:
    backbone = Backbone(path=str(path))
    return backbone.model(AUTO, backbone.processor("AutoTokenizer"), head or HEAD, "backbones.0").eval()


def saved(models: Any, family: str, folder: Path) -> Path:
    return Path(shutil.copytree(models(family), folder))


@every_text_model
def test_saved_and_loaded_gives_the_same_logits(family: str, models: Any, tmp_path: Path) -> None:
    model = loaded(models(family))
    reset_head(model, build_ladder(model), 1)
    folder = saved(models, family, tmp_path / "model")
    model.save_pretrained(folder)
    again = loaded(folder)
    assert torch.equal(model(**text_batch()).logits, again(**text_batch()).logits)
    assert next(again.parameters()).dtype == torch.float32


@every_text_model
def test_the_pretrained_weights_are_what_lies_in_the_folder(family: str, models: Any) -> None:
    from safetensors.torch import load_file

    stored = load_file(models(family) / "model.safetensors")
    base = base_of(loaded(models(family)))
    own = base.state_dict()
    assert stored
    for name, tensor in stored.items():
        if name in own:  # a pooler that the head's class does without
            assert torch.equal(own[name], tensor), name
    assert set(dict(base.named_parameters())) <= set(stored)


def test_the_output_layer_of_another_task_is_replaced(models: Any, tmp_path: Path) -> None:
    """A checkpoint with 5 classes serves a task with 3, and its other weights are kept."""
    five = loaded(models("bert"), {"num_labels": 5})
    folder = saved(models, "bert", tmp_path / "model")
    five.save_pretrained(folder)
    three = loaded(folder)
    assert three(**text_batch()).logits.shape == (4, 3)
    assert torch.equal(three.bert.pooler.dense.weight, five.bert.pooler.dense.weight)


def test_weights_that_the_folder_lacks_are_drawn_the_same_everywhere(models: Any, tmp_path: Path) -> None:
    """A checkpoint without pooler: the pooler is random, and still every worker starts from the same one."""
    folder = saved(models, "bert", tmp_path / "model")
    tf.BertModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)
    torch.manual_seed(1)
    first = loaded(folder)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = loaded(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.bert.pooler.dense.weight, second.bert.pooler.dense.weight)


def test_decoders_get_a_padding_token(models: Any) -> None:
    """They are trained without one; tokenizer and model agree on it, so that a batch can be padded."""
    for family in ("gpt2", "llama"):
        backbone = Backbone(path=str(models(family)))
        tokenizer = backbone.processor("AutoTokenizer")
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        model = loaded(models(family))
        assert model.config.pad_token_id == tokenizer.pad_token_id
        short = tokenizer(["the cat"], return_tensors="pt")
        padded = tokenizer(["the cat", "the old cat is here very"], padding=True, return_tensors="pt")
        alone = model(**short).logits[0]
        torch.testing.assert_close(model(**padded).logits[0], alone, rtol=1e-4, atol=1e-5)


def test_the_shipped_backbone_is_a_pretrained_encoder() -> None:
    """`minilm-l6` needs no hub: stem and six blocks, 22.7 million weights, a tokenizer that knows words."""
    shipped = dict(plugins("backbones", Backbone))
    del shipped[Backbone.name]
    assert "minilm-l6" in shipped
    for plugin in shipped.values():
        assert plugin.source and plugin.__doc__
    backbone = shipped["minilm-l6"]()
    ladder = build_ladder(backbone.skeleton(AUTO, HEAD))
    assert len(ladder.rungs) == 7
    assert sum(rung.size for rung in ladder.rungs) == 22_713_216
    tokenizer = backbone.processor("AutoTokenizer")
    assert tokenizer.tokenize("fine tuning") == ["fine", "tuning"]
    assert len(backbone.fingerprint()) == 64


# -- what is refused -------------------------------------------------------------------------------

READS: dict[str, Callable[[Backbone], Any]] = {
    "config": lambda b: b.config("backbones.0"),
    "processor": lambda b: b.processor("AutoTokenizer", "backbones.0"),
    "skeleton": lambda b: b.skeleton(AUTO, HEAD, "backbones.0"),
    "fingerprint": lambda b: b.fingerprint("backbones.0"),
    "model": lambda b: b.model(AUTO, None, HEAD, "backbones.0"),
}


def refused(path: Path | str, read: str) -> Mistake:
    with pytest.raises(InputError) as caught:
        READS[read](Backbone(path=str(path)))
    (mistake,) = caught.value.mistakes
    assert mistake.place == "backbones.0"
    assert mistake.reason and "\n" not in mistake.reason
    assert str(path) in mistake.reason or read == "skeleton"
    return mistake


def test_wrong_kind_is_refused(models: Any, tmp_path: Path) -> None:
    """An image model on text and the other way round, by name."""
    vit()[0].save_pretrained(tmp_path / "vit")
    assert "vit" in refused(tmp_path / "vit", "skeleton").reason
    with pytest.raises(InputError) as caught:
        Backbone(path=str(models("bert"))).skeleton("AutoModelForImageClassification", {}, "backbones.0")
    assert "bert" in str(caught.value) and "ImageClassification" in str(caught.value)


@pytest.mark.parametrize("read", ["fingerprint", "model"])
def test_folder_without_safetensors(read: str, models: Any, tmp_path: Path) -> None:
    """Pickled weights can run code: they are not read."""
    folder = saved(models, "bert", tmp_path / "model")
    torch.save(tf.BertModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, read)


@pytest.mark.parametrize("read", ["fingerprint", "model"])
@pytest.mark.parametrize("kept", [0, 4, 1000, 0.5, -1])
def test_truncated_weights(read: str, kept: float, models: Any, tmp_path: Path) -> None:
    """An interrupted copy is found out before any trial starts."""
    folder = saved(models, "bert", tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    length = int(kept * len(whole)) if isinstance(kept, float) else int(kept)
    (folder / "model.safetensors").write_bytes(whole[:length])
    refused(folder, read)


@pytest.mark.parametrize("read", ["fingerprint", "model"])
def test_missing_shard(read: str, models: Any, tmp_path: Path) -> None:
    """A model in several files of which one is not there."""
    folder = saved(models, "bert", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    tf.BertModel.from_pretrained(models("bert")).save_pretrained(folder, max_shard_size="10KB")
    assert READS["fingerprint"](Backbone(path=str(folder)))
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    refused(folder, read)


@pytest.mark.parametrize("read", ["config", "skeleton", "model"])
@pytest.mark.parametrize("content", [None, "{", "{}", '{"model_type": "no-such-family"}', "[]"])
def test_missing_or_damaged_config(read: str, content: str | None, models: Any, tmp_path: Path) -> None:
    folder = saved(models, "bert", tmp_path / "model")
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        READS[read](Backbone(path=str(folder)))
    assert [m.place for m in caught.value.mistakes] == ["backbones.0"]


def test_missing_tokenizer(models: Any, tmp_path: Path) -> None:
    folder = saved(models, "bert", tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused(folder, "processor")


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 5}, {"intermediate_size": 64}, {"vocab_size": 50}])
def test_weights_that_do_not_fit_the_config(changes: dict[str, int], models: Any, tmp_path: Path) -> None:
    """Blocks that would silently be random are no pretrained model."""
    folder = saved(models, "bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    refused(folder, "model")


@pytest.mark.parametrize("read", ["config", "processor", "skeleton", "fingerprint", "model"])
def test_hub_id_without_a_hub(read: str) -> None:
    with pytest.raises(InputError) as caught:
        READS[read](Backbone(path="nobody/no-such-model"))
    (mistake,) = caught.value.mistakes
    assert mistake.place == "backbones.0" and "nobody/no-such-model" in mistake.reason


def test_code_that_comes_with_a_model_is_not_run(models: Any, tmp_path: Path) -> None:
    folder = saved(models, "bert", tmp_path / "model")
    witness = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config", AUTO: "own.Model"}})
    )
    for read in ("config", "skeleton", "model"):
        with pytest.raises(InputError):
            READS[read](Backbone(path=str(folder)))
    assert not witness.exists()


# -- fingerprint -----------------------------------------------------------------------------------


def test_fingerprint_is_of_the_content_and_not_of_the_place(models: Any, tmp_path: Path) -> None:
    """A copied, renamed or touched folder, or one with a new README, is the same model."""
    here = Backbone(path=str(models("bert"))).fingerprint()
    copied = saved(models, "bert", tmp_path / "elsewhere" / "other-name")
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    (copied / "README.md").write_text("about this model")
    assert Backbone(path=str(copied)).fingerprint() == here


def test_fingerprint_follows_weights_config_and_tokenizer(models: Any, tmp_path: Path) -> None:
    """One bit of one weight is another model; so is another family or another tokenizer."""
    folder = saved(models, "bert", tmp_path / "model")
    seen = {Backbone(path=str(folder)).fingerprint(), Backbone(path=str(models("roberta"))).fingerprint()}
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    seen.add(Backbone(path=str(folder)).fingerprint())
    for name in ("config.json", "tokenizer.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content, indent=7))
        seen.add(Backbone(path=str(folder)).fingerprint())
    assert len(seen) == 5


# -- cost ------------------------------------------------------------------------------------------


@every_text_model
def test_flops_by_rung_add_up_to_the_counters_total(family: str, case: Any) -> None:
    found = case(family)
    found.model.train()
    flops = forward_flops(found.model, found.ladder, found.batch, 4)
    assert found.model.training, "it is left as it was"
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        found.model.eval()(**found.batch)
    assert len(flops) == len(found.ladder.rungs) + 1
    assert sum(flops) * 4 == counter.get_total_flops() > 0
    blocks = flops[1:-2]
    assert all(count == blocks[0] > 0 for count in blocks), "equal blocks cost the same"
    assert flops[-1] > 0, "the head"


def test_flops_of_a_block_equal_the_formula(case: Any) -> None:
    """BERT, by hand: four projections, two feed-forward matrices, scores and their use."""
    length, hidden, inner = 9, 16, 32
    found = case("bert")
    flops = forward_flops(found.model, found.ladder, text_batch(length), 4)
    matrices = 2 * length * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 2 * 2 * length * length * hidden
    assert flops[1] == matrices + attention
    assert flops[-1] == 2 * hidden * 3


@every_text_model
def test_flops_grow_with_the_length(family: str, case: Any) -> None:
    """At least in proportion, as attention grows with the square; the count is per example."""
    found = case(family)
    short, long, many = (
        sum(forward_flops(found.model, found.ladder, text_batch(length, examples), examples))
        for length, examples in ((8, 2), (32, 2), (8, 6))
    )
    assert long > 3.5 * short
    # DeBERTa projects its relative positions once per batch
    assert short / 2 < many <= short if family == "deberta-v2" else many == pytest.approx(short)


def test_training_costs_two_forward_passes_more_for_what_trains() -> None:
    flops = [1.0, 10.0, 100.0, 1000.0]
    assert training_flops(flops, Stage(1)) == 3 * 1111
    assert training_flops(flops, Stage(1, 2)) == 1111 + 2 * 1100
    assert training_flops(flops, Stage(1, 3)) == 1111 + 2 * 1000
    # gradients pass through what lies above a band, and few weights need few products
    assert training_flops(flops, Stage(1, 1, upto=2)) == 1111 + 1110 + 1010
    assert training_flops(flops, Stage(1, 0, upto=1, head=False)) == 1111 + 1111 + 1
    assert training_flops(flops, Stage(1, 0, sparse=True)) == 1111 + 1111 + 1000
