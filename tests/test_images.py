"""Images from the user's own folders, what is wrong with them, how they are fitted and varied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness import document, spec
from harness.backbones.base import Backbone
from harness.backbones.ladder import build_ladder
from harness.backbones.untrained import Untrained
from harness.errors import InputError
from harness.prepare import prepare
from harness.registry import build
from harness.tasks import images
from harness.tasks.digits import Digits
from harness.tasks.image_classification import ImageClassification
from harness.tasks.images import fitted, normalised, picture_of, png, unfaithful


def folder_of_images(root: Path, per_class: int = 12) -> Path:
    """`root/<class>/<n>.png`: dark and bright squares of differing sizes."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 40)):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            height, width = 20 + index, 30
            pixels = rng.integers(level - 30, level + 30, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def task(root: Path, **changes: Any) -> ImageClassification:
    settings = {"dataset": {"path": "imagefolder", "data_dir": str(root)}, **changes}
    return build(ImageClassification, settings, "task")


def test_a_folder_of_images_is_a_task(tmp_path: Path) -> None:
    """Classes are the names of the folders; splits are carved by class."""
    made = task(folder_of_images(tmp_path), validation_size=4, test_size=4)
    splits = made.load()
    facts = made.facts(splits)
    assert facts.classes == ["bright", "dark"]
    assert facts.sizes == {"train": 16, "validation": 4, "test": 4}
    assert sorted(made.references(splits["test"], facts)) == [0, 0, 1, 1]
    assert facts.constant["test"]["accuracy"] == 0.5


def test_the_content_of_images_counts_and_not_where_they_lie(tmp_path: Path) -> None:
    here, there = folder_of_images(tmp_path / "here"), folder_of_images(tmp_path / "there")
    first = task(here).facts(task(here).load())
    assert task(there).facts(task(there).load()).fingerprint == first.fingerprint
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(there / "dark" / "0.png")
    assert task(there).facts(task(there).load()).fingerprint != first.fingerprint


def test_a_truncated_image_is_named_with_file_and_row(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path)
    broken = root / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(InputError, match=r"row \d+ of the \w+ split has no readable image .*dark/3\.png"):
        task(root).load()


def test_paths_in_a_table_start_at_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the program is run; a path that leads nowhere is told with row and table."""
    folder_of_images(tmp_path / "data" / "pictures")
    names = [f"pictures/{label}/{n}.png" for label in ("dark", "bright") for n in range(12)]
    table = tmp_path / "data" / "list.csv"
    table.write_text("image,label\n" + "\n".join(f"{name},{name.split('/')[1]}" for name in names))
    monkeypatch.chdir(tmp_path)
    made = build(ImageClassification, {"dataset": {"path": "csv", "data_files": str(table)}}, "task")
    assert made.facts(made.load()).classes == ["bright", "dark"]
    table.write_text(table.read_text() + "\npictures/dark/99.png,dark\n")
    (tmp_path / "pictures" / "dark").mkdir(parents=True)
    shutil.copy(tmp_path / "data" / names[0], tmp_path / "pictures" / "dark" / "99.png")  # not beside it
    with pytest.raises(InputError) as caught:
        made.load()
    (mistake,) = caught.value.mistakes
    assert f"row 24 of the train split ({table}) has no readable image in 'image'" in mistake.reason
    assert str(tmp_path / "data" / "pictures" / "dark" / "99.png") in mistake.reason


def test_faulty_images_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path)
    (root / "dark" / "3.png").write_bytes(b"no image at all")
    made = task(root, on_bad_example="skip")
    splits = made.load()
    assert sum(made.facts(splits).skipped.values()) == 1
    assert sum(len(split) for split in splits.values()) == 23


def test_fitting_in_two_steps_equals_the_processor_at_once() -> None:
    """What training sees without augmentation is what the model's own processor gives."""
    processor = Untrained(family="vit").processor("AutoImageProcessor")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8))
    at_once = processor(images=[image], return_tensors="pt")["pixel_values"]
    in_two = normalised(processor, torch.from_numpy(fitted(processor, image))[None])
    assert torch.equal(at_once, in_two)


def test_timms_own_processor_is_followed_too() -> None:
    from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

    settings = {
        "input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4),
        "interpolation": "bicubic", "crop_pct": 0.9,
    }  # fmt: skip
    processor = TimmWrapperImageProcessor(pretrained_cfg=settings)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8))
    at_once = processor(images=image, return_tensors="pt")["pixel_values"]
    in_two = normalised(processor, torch.from_numpy(fitted(processor, image))[None])
    assert torch.allclose(at_once, in_two, atol=1e-6)


# What a processor of the three kinds makes of an image that is no picture, or one with channels reversed.
REFUSED = {
    "ImageGPTImageProcessor", "ImageGPTImageProcessorPil", "PPLCNetImageProcessor",
    "PPOCRV5ServerDetImageProcessor", "Siglip2ImageProcessor", "Siglip2ImageProcessorPil",
}  # fmt: skip


def test_every_image_processor_of_transformers_is_followed_or_refused() -> None:
    """All families of the three kinds, with the settings that their processors have by default."""
    from transformers.models.auto import image_processing_auto as processors
    from transformers.models.auto import modeling_auto as models

    families = {
        *models.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        *models.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        *models.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    }
    named = processors.IMAGE_PROCESSOR_MAPPING_NAMES
    classes = {name for family in families for name in named.get(family, {}).values()}
    classes.discard("TimmWrapperImageProcessor")  # which has no settings by default
    made = {name: processors.get_image_processor_class_from_name(name)() for name in classes}
    assert len(made) > 40
    assert {name for name, processor in made.items() if unfaithful(processor)} == REFUSED


@pytest.mark.parametrize(
    ("name", "part"), [("EfficientNet", "include_top"), ("MobileViT", "do_flip_channel_order")]
)
def test_what_both_steps_would_do_is_seen(name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    processor = getattr(transformers, f"{name}ImageProcessor")()
    assert unfaithful(processor) is None
    monkeypatch.setattr(images, "_NORMALISING", tuple(each for each in images._NORMALISING if each != part))
    assert unfaithful(processor)


def test_what_is_varied_is_red_green_and_blue() -> None:
    """Also where a model reads the channels in another order."""
    from transformers import MobileViTImageProcessor

    red = Image.fromarray(np.full((30, 30, 3), (200, 10, 20), np.uint8))
    assert fitted(MobileViTImageProcessor(), red)[:, 128, 128].tolist() == [200, 10, 20]


@pytest.mark.parametrize("name", ["PPLCNetImageProcessor", "Siglip2ImageProcessor"])
def test_a_processor_that_cannot_be_followed_is_named(name: str, tmp_path: Path) -> None:
    import transformers

    getattr(transformers, name)().save_pretrained(tmp_path)
    made = build(Digits, {}, "task")
    with pytest.raises(InputError, match=f"backbones.0: its image processor, {name}, "):
        made.processor(Backbone(path=str(tmp_path)), "backbones.0")


def test_an_image_varies_with_its_generator_alone() -> None:
    made = build(Digits, {"augmentation": {"RandomCrop": {"size": 32, "padding": 6}}}, "task")
    example = {"shape": [3, 32, 32], "pixels": bytes(range(256)) * 12}
    picture = picture_of(example)
    first, again, other = (made.varied(np.random.default_rng(seed), picture) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    made.varied(np.random.default_rng(3), picture)
    assert torch.equal(torch.rand(1), expected)  # the stream that dropout draws from goes on untouched


def test_varying_does_not_touch_the_generators_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    made = build(Digits, {"augmentation": {"RandomHorizontalFlip": {}}}, "task")
    made.varied(np.random.default_rng(0), picture_of({"shape": [3, 32, 32], "pixels": bytes(3072)}))
    assert seeded == []


def test_validation_images_are_not_varied() -> None:
    made = build(Digits, {"augmentation": {"RandomInvert": {"p": 1.0}}, "train_size": 64}, "task")
    splits = made.load()
    facts = made.facts(splits)
    processor = Untrained(family="vit").processor("AutoImageProcessor")
    encoded = made.encode(splits["train"], processor, facts, None)
    examples = encoded.__getitems__(range(4))
    collate = made.collate(processor)
    as_is = collate(examples, None)["pixel_values"]
    varied = collate(examples, [np.random.default_rng(i) for i in range(4)])["pixel_values"]
    assert torch.allclose(varied, -as_is, atol=1e-6)


@pytest.mark.parametrize(
    ("augmentation", "reason"),
    [
        ({"RandomHorizontalFlop": {}}, "did you mean 'RandomHorizontalFlip'"),
        ({"RandomCrop": {"sice": 3}}, "RandomCrop does not take"),
    ],
)
def test_unknown_transforms_are_told(augmentation: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"task.augmentation: .*{reason}"):
        build(Digits, {"augmentation": augmentation}, "task").load()


def test_a_model_that_does_not_do_a_kind_is_told_before_training(tmp_path: Path) -> None:
    content = {
        "name": "wrong",
        "backbones": [{"use": "untrained", "family": "resnet"}],
        "tasks": ["bbc-topics", {"use": "digits", "train_size": 64}],
        "strategies": {"full": {"freeze": 0}},
    }
    sweep = spec.from_document(document.read(json.dumps(content), "test"), [tmp_path])
    with pytest.raises(InputError, match=r"backbones.0: a resnet model does not do SequenceClassification"):
        prepare(sweep)


def test_digits_look_different_and_are_the_same_digits() -> None:
    looks = {look: build(Digits, {"look": look}, "task").raw()["train"] for look in ("plain", "inverted")}
    assert looks["plain"]["label"][:] == looks["inverted"]["label"][:]
    assert looks["plain"]["image"][0] != looks["inverted"]["image"][0]
    assert len({json.dumps(png(np.zeros((4, 4), np.uint8))["bytes"].hex())}) == 1


@pytest.mark.parametrize(
    ("architecture", "rungs", "head"),
    [("resnet18", 9, "fc"), ("vit_tiny_patch16_224", 13, "head"), ("densenet121", 59, "classifier"),
     ("convnext_atto", 13, "head.fc"), ("efficientnet_b0", 17, "classifier")],
)  # fmt: skip
def test_any_timm_model_has_a_ladder(architecture: str, rungs: int, head: str) -> None:
    import transformers as tf

    config = tf.TimmWrapperConfig(architecture=architecture, num_labels=3)
    with torch.device("meta"):
        model = tf.AutoModelForImageClassification.from_config(config)
    ladder = build_ladder(model)
    assert len(ladder.rungs) == rungs
    on = [name for rung in (*ladder.rungs, ladder.head) for name, _ in rung.parameters]
    assert sorted(on) == sorted(dict(model.named_parameters()))
    assert {name for name, _ in ladder.head.parameters} == {
        f"timm_model.{head}.weight", f"timm_model.{head}.bias"
    }  # fmt: skip


def test_a_missing_library_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchvision" else known(name)
    )
    with pytest.raises(InputError, match=r"needs torchvision \(pip install 'finetune-harness\[vision\]'\)"):
        build(Digits, {}, "task").load()
