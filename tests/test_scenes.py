"""Detection and segmentation: boxes and masks reach the model and come back, faults are named, scores are
those of other implementations, ladders fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from harness import spec
from harness.backbones.forward import accepted
from harness.backbones.ladder import build_ladder
from harness.backbones.untrained import Untrained
from harness.errors import InputError
from harness.metrics import scorer
from harness.prepare import prepare
from harness.tasks.image_segmentation import ImageSegmentation
from harness.tasks.images import png
from harness.tasks.object_detection import ObjectDetection
from harness.tasks.scenes import DigitMasks, DigitScenes

FEW: dict[str, Any] = {"train_size": 24, "validation_size": 6, "test_size": 6}
DETECTORS, SEGMENTERS = ("detr", "yolos"), ("segformer", "upernet")


def digit_task(family: str, **changes: Any) -> Any:
    kind = DigitScenes if family in DETECTORS else DigitMasks
    return kind(**{**FEW, "classes": "any", **changes})


@pytest.fixture(scope="module")
def ready() -> Any:
    """`ready(family)`: task, facts, processor, the encoded train split, a model, a batch."""
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            task, backbone = digit_task(family), Untrained(family=family)
            splits = task.load()
            facts, processor = task.facts(splits), task.processor(backbone)
            rows = list(task.encode(splits["train"], processor, facts, None))
            made[family] = SimpleNamespace(
                task=task,
                facts=facts,
                processor=processor,
                rows=rows,
                references=task.references(splits["train"], facts),
                batch=task.collate(processor)(rows[:4], None),
                backbone=backbone,
            )
        model = made[family].backbone.model(
            made[family].task.auto_class, made[family].processor, made[family].task.head(made[family].facts)
        )
        return SimpleNamespace(**vars(made[family]), model=model)

    return get


# -- ladders ---------------------------------------------------------------------------------------

RUNGS = {
    "detr": [
        "stem",
        *(f"backbone.model.encoder.stages.{stage}.layers.0" for stage in range(2)),
        *(f"{side}.layers.{index}" for side in ("encoder", "decoder") for index in range(2)),
    ],
    "yolos": ["stem", *(f"encoder.layer.{index}" for index in range(4))],
    "segformer": ["stem", *(f"stages.{stage}.blocks.0" for stage in range(3))],
    "upernet": ["stem", *(f"encoder.stages.{stage}.layers.0" for stage in range(3))],
}
# What does not belong to the rung beside which it stands.
PLACES = {
    "detr": {
        "model.backbone.model.embedder.embedder.convolution.weight": 0,
        "model.input_projection.weight": 3,
        "model.query_position_embeddings.weight": 5,
        "model.decoder.layernorm.weight": 6,
        "bbox_predictor.layers.0.weight": None,
    },
    "yolos": {
        "vit.embeddings.detection_tokens": 0,
        "vit.encoder.interpolation.mid_position_embeddings": 0,
        "vit.layernorm.weight": 4,
    },
    "segformer": {
        "segformer.stages.0.patch_embeddings.proj.weight": 0,
        "segformer.stages.0.layer_norm.weight": 1,
        "segformer.stages.1.patch_embeddings.proj.weight": 2,
        "segformer.stages.2.layer_norm.bias": 3,
        "decode_head.batch_norm.weight": None,
    },
    "upernet": {"decode_head.classifier.weight": None, "auxiliary_head.classifier.weight": None},
}
every_family = pytest.mark.parametrize("family", RUNGS)


@every_family
def test_ladder_holds_every_parameter_once(ready: Any, family: str) -> None:
    model = ready(family).model
    ladder = build_ladder(model)
    assert [rung.name for rung in ladder.rungs] == RUNGS[family]
    places = [(name, index) for index, rung in enumerate(ladder.rungs) for name, _ in rung.parameters]
    places += [(name, None) for name, _ in ladder.head.parameters]
    assert sorted(name for name, _ in places) == sorted(name for name, _ in model.named_parameters())
    assert PLACES[family].items() <= dict(places).items()


@every_family
@pytest.mark.parametrize("part", [0.5, 1.0])
def test_frozen_prefix_stays_and_the_rest_moves(ready: Any, family: str, part: float) -> None:
    """A training step changes every rung above the depth; weights, buffers and outputs below it stay."""
    found = ready(family)
    model, ladder = found.model, build_ladder(found.model)
    depth = round(part * len(ladder.rungs))
    ladder.freeze(depth)
    ladder.train(model, range(depth))
    last = ladder.rungs[depth - 1].blocks[-1]
    seen: list[torch.Tensor] = []
    last.register_forward_hook(
        lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out).detach())
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = {name for rung in ladder.rungs[:depth] for name, _ in rung.parameters}
    inside = {id(module) for rung in ladder.rungs[:depth] for module in rung.modules}
    still = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if id(module) in inside
        for own, _ in module.named_buffers(recurse=False)
    }
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(**accepted(model, found.batch)).loss.backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in frozen | still)
    for rung in [*ladder.rungs[depth:], ladder.head]:
        assert any(not torch.equal(before[name], after[name]) for name, _ in rung.parameters), rung.name
    assert torch.equal(seen[0], seen[1])


def test_ladder_of_detr_with_a_backbone_of_timm() -> None:
    from transformers import DetrConfig, DetrForObjectDetection

    small = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    with torch.device("meta"):
        model = DetrForObjectDetection(DetrConfig(backbone="resnet18", **small))
    ladder = build_ladder(model)
    names = [rung.name for rung in ladder.rungs]
    assert names[1:3] == ["backbone.model.layer1.0", "backbone.model.layer1.1"]
    assert names[-2:] == ["encoder.layers.0", "decoder.layers.0"]
    assert sum(rung.size for rung in [*ladder.rungs, ladder.head]) == sum(
        p.numel() for p in model.parameters()
    )


# -- to the model and back -------------------------------------------------------------------------


@pytest.mark.parametrize("family", DETECTORS)
def test_an_output_that_is_the_labels_scores_perfect(ready: Any, family: str) -> None:
    """Boxes survive encoding, batching and being read as predictions."""
    found = ready(family)
    batch = found.task.collate(found.processor)(found.rows, None)
    queries, classes = 8, len(found.facts.classes)
    logits = torch.zeros(len(found.rows), queries, classes + 1)
    logits[..., -1] = 9.0  # nothing, but where a label says otherwise
    boxes = torch.full((len(found.rows), queries, 4), 0.5)
    for row, label in enumerate(batch["labels"]):
        for query, (box, kind) in enumerate(zip(label["boxes"], label["class_labels"], strict=True)):
            boxes[row, query], logits[row, query, -1], logits[row, query, kind] = box, 0.0, 9.0
    said = found.task.predict(SimpleNamespace(logits=logits, pred_boxes=boxes), found.rows, found.facts)
    assert found.task.score(said, found.references, found.facts) == {"map": 1.0, "map_50": 1.0}
    best = said[0]["prediction"]
    assert best["scores"] == sorted(best["scores"], reverse=True)
    np.testing.assert_allclose(best["boxes"][0], found.references[0]["boxes"][0], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("Detr", 1), ("Yolos", 1), ("DeformableDetr", 0), ("ConditionalDetr", 0), ("RTDetr", 0)],
)
def test_answers_are_those_of_transformers(name: str, extra: int) -> None:
    """Of models with a class for "no object", and of those that judge every class by itself."""
    import transformers

    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 70, 3 + extra), torch.rand(2, 70, 4)
    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
    sizes = [[30, 50], [64, 48]]
    said = ObjectDetection().predict(
        outputs, [{"size": size} for size in sizes], SimpleNamespace(classes=list("abc"))
    )
    processor = getattr(transformers, f"{name}ImageProcessor")()
    theirs = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
    for row, other in zip(said, theirs, strict=True):
        best = other["scores"].argsort(descending=True)
        ours = {key: torch.tensor(value)[: len(best)] for key, value in row["prediction"].items()}
        assert len(row["prediction"]["labels"]) == (70 if extra else 100) >= len(best) >= 70
        for key, values in ours.items():
            torch.testing.assert_close(values, other[key][best], msg=key)


@pytest.mark.parametrize("family", SEGMENTERS)
def test_logits_that_are_the_mask_score_perfect(ready: Any, family: str) -> None:
    found = ready(family)
    labels = found.task.collate(found.processor)(found.rows, None)["labels"]
    assert (labels.numpy() == truths(found.rows)).all()  # the small models take scenes as they are
    logits = torch.nn.functional.one_hot(labels, len(found.facts.classes)).permute(0, 3, 1, 2)
    said = found.task.predict(SimpleNamespace(logits=logits), found.rows, found.facts)
    assert [row["prediction"] for row in said] == found.task.perfect(found.references)
    assert found.task.score(said, found.references, found.facts) == {"mean_iou": 1.0, "pixel_accuracy": 1.0}


def truths(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    return np.stack([np.frombuffer(row["truth"], np.uint8).reshape(row["size"]) for row in rows])


def test_masks_are_resized_without_new_classes_and_scored_at_their_own_size() -> None:
    """Halves of another size than the model's input; ignored pixels count neither as hits nor as said."""
    mask = np.full((20, 30), 7, np.uint8)
    mask[:, 15:], mask[:2] = 2, 255
    task = ImageSegmentation(labels=tuple("01234567"))
    split = pixels_and_masks([mask, mask])
    facts = SimpleNamespace(classes=list("01234567"))
    processor = Untrained(family="segformer").processor("AutoImageProcessor")
    rows = list(task.encode(split, processor, facts, None))
    labels = task.collate(processor)(rows, None)["labels"]
    assert labels.shape == (2, 48, 48)
    assert set(labels.unique().tolist()) == {2, 7, 255}
    logits = torch.zeros(2, 8, 12, 12)
    logits[:, 7, :, :6], logits[:, 2, :, 6:] = 1.0, 1.0
    said = task.predict(SimpleNamespace(logits=logits), rows, facts)[0]["prediction"]
    true = task.references(split, facts)[0]
    assert true == [0, 0, 18 * 15, 0, 0, 0, 0, 18 * 15]
    assert said == {"hits": true, "predicted": true}


def test_images_of_several_sizes_make_one_batch() -> None:
    """What is padded has no class, and no part in the answer."""
    from transformers import SegformerImageProcessor

    masks = [np.zeros((8, 16), np.uint8), np.ones((12, 8), np.uint8)]
    task, facts = ImageSegmentation(), SimpleNamespace(classes=["0", "1"])
    processor = SegformerImageProcessor(do_resize=False)
    rows = list(task.encode(pixels_and_masks(masks), processor, facts, None))
    batch = task.collate(processor)(rows, None)
    assert batch["labels"].shape == batch["pixel_mask"].shape == (2, 12, 16)
    assert ((batch["labels"] == 255) == (batch["pixel_mask"] == 0)).all()
    logits = torch.stack([-batch["labels"].float(), batch["labels"].float()], dim=1)
    said = task.predict(SimpleNamespace(logits=logits), rows, facts)
    assert [row["prediction"]["hits"] for row in said] == [[128, 0], [0, 96]]


def pixels_and_masks(masks: list[np.ndarray[Any, Any]]) -> Any:
    from datasets import Dataset

    images = [png(np.zeros((*mask.shape, 3), np.uint8)) for mask in masks]
    return Dataset.from_dict({"image": images, "mask": [png(mask) for mask in masks]})


# -- augmentation ----------------------------------------------------------------------------------


def flipped(family: str, ready: Any, **chain: Any) -> tuple[Any, Any, Any]:
    found = ready(family)
    task = digit_task(family, augmentation=chain or {"RandomHorizontalFlip": {"p": 1.0}})
    rngs = [np.random.default_rng([3, index]) for index in range(4)]
    return found, found.batch, task.collate(found.processor)(found.rows[:4], rngs)


@every_family
def test_labels_follow_the_image(ready: Any, family: str) -> None:
    _, plain, varied = flipped(family, ready)
    torch.testing.assert_close(varied["pixel_values"], plain["pixel_values"].flip(-1))
    if family in SEGMENTERS:
        assert torch.equal(varied["labels"], plain["labels"].flip(-1))
        return
    for old, new in zip(plain["labels"], varied["labels"], strict=True):
        assert torch.equal(old["class_labels"], new["class_labels"])
        mirrored = old["boxes"] * torch.tensor([-1, 1, 1, 1]) + torch.tensor([1, 0, 0, 0])
        torch.testing.assert_close(new["boxes"], mirrored)


@every_family
def test_augmentation_is_that_of_its_generator(ready: Any, family: str) -> None:
    chain = {"RandomAffine": {"degrees": 0, "translate": [0.4, 0.4]}}
    _, plain, first = flipped(family, ready, **chain)
    torch.manual_seed(5)
    _, _, second = flipped(family, ready, **chain)
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert not torch.equal(first["pixel_values"], plain["pixel_values"])
    for one, other in zip(first["labels"], second["labels"], strict=True):
        same = one["boxes"] == other["boxes"] if family in DETECTORS else one == other
        assert same.all()


def test_what_leaves_the_image_is_dropped() -> None:
    """A crop keeps the boxes that are still in it, cut at its edges, with their classes; what is filled in
    has no class in the mask."""
    task = ObjectDetection(augmentation={"CenterCrop": {"size": [10, 10]}})
    example = {
        "pixels": bytes(3 * 20 * 20), "shape": [3, 20, 20], "classes": [4, 5], "size": [20, 20],
        "boxes": [0.1, 0.1, 0.2, 0.2, 0.35, 0.5, 0.3, 0.1],
    }  # fmt: skip
    processor = Untrained(family="detr").processor("AutoImageProcessor")
    labels = task.collate(processor)([example], [np.random.default_rng(0)])["labels"][0]
    assert labels["class_labels"].tolist() == [5]
    torch.testing.assert_close(labels["boxes"], torch.tensor([[0.25, 0.5, 0.5, 0.2]]))
    whole = ImageSegmentation(augmentation={"Pad": {"padding": 2}})
    example |= {"mask": bytes([3]) * 400, "mask_shape": [20, 20]}
    mask = whole.collate(processor)([example], [np.random.default_rng(0)])["labels"][0]
    assert mask.shape == (24, 24)
    assert (mask[2:-2, 2:-2] == 3).all() and (mask == 255).sum() == 24 * 24 - 400


# -- metrics ---------------------------------------------------------------------------------------


def test_mean_average_precision_by_hand() -> None:
    """One class: the first of three found boxes is wrong, the second exact, the third overlaps by 10/16."""
    said = {
        "boxes": [[50, 50, 60, 60], [0, 0, 10, 10], [20, 20, 30, 36]],
        "labels": [0, 0, 0],
        "scores": [0.9, 0.8, 0.7],
    }
    true = {"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [0, 0]}
    values = scorer.score(["map", "map_50"], [said], [true], {"classes": 1})
    # precision 2/3 at every recall while the overlap 10/16 counts (0.5, 0.55, 0.6), then 1/2 up to recall 1/2
    assert values["map_50"] == pytest.approx(2 / 3)
    assert values["map"] == pytest.approx((3 * 2 / 3 + 7 * (51 / 101) * 1 / 2) / 10, abs=1e-6)


def test_mean_iou_is_that_of_torchmetrics() -> None:
    from torchmetrics.segmentation import MeanIoU

    rng = np.random.default_rng(0)
    true, said = rng.integers(4, size=(2, 5, 12, 12))
    said = np.where(rng.random(said.shape) < 0.6, true, said)
    count = lambda values: np.bincount(values.ravel(), minlength=5).tolist()  # noqa: E731  class 4: nowhere
    predictions = [{"hits": count(t[t == s]), "predicted": count(s)} for t, s in zip(true, said, strict=True)]
    values = scorer.score(
        ["mean_iou", "pixel_accuracy"], predictions, [count(t) for t in true], {"classes": 5}
    )
    other = MeanIoU(num_classes=4, input_format="index", per_class=True)
    whole = other(torch.tensor(said.reshape(1, -1, 12)), torch.tensor(true.reshape(1, -1, 12)))
    assert values["mean_iou"] == pytest.approx(float(whole.mean()))
    assert values["pixel_accuracy"] == pytest.approx((true == said).mean())


@pytest.mark.parametrize("family", ["detr", "segformer"])
def test_perfect_and_constant_answers(family: str) -> None:
    task = digit_task(family)
    splits = task.load()
    facts = task.facts(splits)
    true = task.references(splits["test"], facts)
    perfect = [{"prediction": value} for value in task.perfect(true)]
    assert set(task.score(perfect, true, facts).values()) == {1.0}
    if family == "detr":
        assert facts.constant["test"] == {"map": 0.0, "map_50": 0.0}
    else:  # all background
        share = np.sum(true, axis=0)[0] / np.sum(true)
        assert facts.constant["test"]["pixel_accuracy"] == pytest.approx(share)
        assert facts.constant["test"]["mean_iou"] == pytest.approx(share / 2)


# -- the shipped scenes ----------------------------------------------------------------------------


def test_scenes_are_the_same_every_time_and_do_not_depend_on_how_many_there_are() -> None:
    few, more = (dict(DigitScenes(**{**FEW, "train_size": size}).scenes())["train"] for size in (5, 9))
    for one, other in zip(few, more, strict=False):
        assert (one.pixels == other.pixels).all() and one.boxes == other.boxes


def test_boxes_and_masks_of_a_scene_agree() -> None:
    """Ink lies in the boxes; the mask covers it and its neighbours."""
    for scene in dict(DigitMasks(**FEW, most=2).scenes())["train"]:
        boxed = np.zeros(scene.pixels.shape, bool)
        for (left, top, right, bottom), digit in zip(scene.boxes, scene.digits, strict=True):
            boxed[top:bottom, left:right] = True
            assert 1 + digit in scene.mask[top:bottom, left:right]
        ink = scene.pixels > 64
        assert (boxed[ink]).all() and (scene.mask[ink] > 0).all()


def test_no_drawing_is_in_two_splits() -> None:
    """Told by the ink, which noise does not reach."""
    found: dict[str, set[bytes]] = {}
    for split, scenes in DigitScenes(**FEW).scenes():
        for scene in scenes:
            for left, top, right, bottom in scene.boxes:
                ink = scene.pixels[top:bottom, left:right]
                found.setdefault(split, set()).add(np.where(ink > 64, ink, 0).tobytes())
    assert len(found["train"]) > FEW["train_size"]  # some scenes show two
    assert (
        not found["train"] & (found["validation"] | found["test"]) and not found["validation"] & found["test"]
    )


@pytest.mark.parametrize("classes", ["digits", "parity", "any"])
def test_classes_of_scenes(classes: str) -> None:
    settings: dict[str, Any] = {"train_size": 60, "validation_size": 4, "test_size": 4, "classes": classes}
    names = DigitScenes(**settings).names()
    for task, expected in (
        (DigitScenes(**settings), [*names]),
        (DigitMasks(**settings), ["background", *names]),
    ):
        assert task.facts(task.load()).classes == expected


# -- a user's own data -----------------------------------------------------------------------------


def write_folder(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Images of 16 × 12 pixels, named by their number, with a mask each; `rows` complete the metadata."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for index, row in enumerate(rows):
        Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        line = {"file_name": f"{index}.png", **row}
        if isinstance(mask := line.pop("mask", None), np.ndarray):
            Image.fromarray(mask).save(folder / f"{index}_mask.png")
            line["mask_file_name"] = f"{index}_mask.png"
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def boxes(*objects: tuple[list[float], Any]) -> dict[str, Any]:
    return {"objects": {"bbox": [box for box, _ in objects], "category": [name for _, name in objects]}}


def mask(value: int = 1, shape: tuple[int, int] = (12, 16)) -> dict[str, Any]:
    pixels = np.zeros(shape, np.uint8)
    pixels[:5] = value
    return {"mask": pixels}


CAT, DOG = ([1, 2, 5, 6], "cat"), ([3.5, 4, 12.5, 8], "dog")


def user_task(kind: str, folder: Path, **settings: Any) -> dict[str, Any]:
    dataset = {"path": "imagefolder", "data_dir": str(folder)}
    return {
        "name": "mine",
        "kind": kind,
        "dataset": dataset,
        "validation_size": 2,
        "test_size": 2,
        **settings,
    }


def loaded(kind: str, folder: Path, **settings: Any) -> tuple[Any, Any]:
    entry = user_task(kind, folder, **settings)
    plain = {key: value for key, value in entry.items() if key not in ("name", "kind")}
    task = {"object-detection": ObjectDetection, "image-segmentation": ImageSegmentation}[kind](**plain)
    return task, task.load()


@pytest.mark.parametrize(
    ("kind", "family", "rows", "classes"),
    [
        ("object-detection", "yolos", [boxes(CAT, DOG), boxes(DOG), boxes(CAT), boxes()] * 3, ["cat", "dog"]),
        ("image-segmentation", "segformer", [mask(), mask(2)] * 6, ["0", "1", "2"]),
    ],
)
def test_a_folder_is_a_task_from_yaml_alone(
    tmp_path: Path, kind: str, family: str, rows: list[Any], classes: list[str]
) -> None:
    folder = write_folder(tmp_path / "data", rows)
    file = tmp_path / "sweep.yaml"
    content = {
        "name": "own",
        "backbones": [{"use": "untrained", "family": family, "name": "small"}],
        "tasks": [user_task(kind, folder)],
        "strategies": {"full": {"freeze": 0}},
        "baseline": "full",
    }
    file.write_text(yaml.safe_dump(content))
    prepared = prepare(spec.load(file))
    assert prepared.tasks["mine"].classes == classes
    assert prepared.tasks["mine"].sizes == {"train": 8, "validation": 2, "test": 2}
    assert all(count > 0 for count in prepared.models["mine", "small"].flops)


def test_objects_may_be_a_list_and_boxes_have_corners(tmp_path: Path) -> None:
    rows = [{"things": [{"bbox": [1, 2, 5, 6], "id": 3}, {"bbox": [0, 0, 16, 12], "id": 1}]}] * 6
    settings = {"target": "things", "category": "id", "bbox_format": "xyxy", "labels": list("abcd")}
    folder = write_folder(tmp_path / "data", rows)
    with pytest.raises(InputError, match="the class 'a' is missing from train"):
        task, splits = loaded("object-detection", folder, **{**settings, "labels": tuple("abcd")})
        task.facts(splits)
    task, splits = loaded("object-detection", folder, **{**settings, "labels": None})
    facts = task.facts(splits)
    assert facts.classes == ["1", "3"]
    expected = {"boxes": [[1, 2, 5, 6], [0, 0, 16, 12]], "labels": [1, 0]}
    assert task.references(splits["test"], facts) == [expected] * 2


def test_rounded_boxes_are_cut_at_the_edge(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [boxes(([-0.5, 0, 16.8, 12.9], "cat"))] * 6)
    task, splits = loaded("object-detection", folder)
    assert task.references(splits["test"], task.facts(splits))[0]["boxes"] == [[0, 0, 16, 12]]


FAULTS = {
    "outside": (boxes(([10, 2, 9, 6], "cat")), "a box outside its image of 16 × 12 pixels as object 0"),
    "far outside": (
        boxes(CAT, ([20, 2, 9, 6], "cat")),
        "outside its image of 16 × 12 pixels as object 1",
    ),
    "no size": (boxes(([1, 2, 0, 6], "cat")), "a box without area as object 0"),
    "negative size": (boxes(([1, 2, 5, -6], "cat")), "a box without area"),
    "not a number": (boxes(([1, 2, float("nan"), 6], "cat")), "a box with NaN or infinity"),
    "three numbers": (boxes(([1, 2, 6], "cat")), "a box that is not four numbers"),
    "no class": (boxes(([1, 2, 5, 6], None)), "has no 'category' for object 0"),
    "fewer classes": ({"objects": {"bbox": [[1, 2, 5, 6]], "category": []}}, "has 1 boxes but 0 classes"),
    "no objects": ({"objects": None}, "has no objects in 'objects'"),
}


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (None, [0, 2]),
        (("3", "2", "1"), [2, 0]),  # the data's own names in another order
        (("one", "two", "three"), [0, 2]),  # other names for the numbers
    ],
)
def test_numbers_of_a_class_label_go_by_its_names(labels: tuple[str, ...] | None, ids: list[int]) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value

    image = {"bytes": Value("binary"), "path": Value("string")}
    label = ClassLabel(names=["1", "2", "3"])
    features = Features(image=image, objects={"bbox": List(List(Value("int64"))), "category": List(label)})
    shown = [
        {"bbox": [[1, 2, 3, 4]] * 3, "category": [0, 1, 2]},
        {"bbox": [[1, 2, 3, 4]] * 2, "category": [0, 2]},
    ]
    cells = [png(np.zeros((9, 9), np.uint8))] * 2
    split = Dataset.from_dict({"image": cells, "objects": shown}, features)
    task = ObjectDetection(labels=labels)
    names = task.describe({"train": split}, "task")
    assert names == list(labels or ("1", "2", "3"))
    assert task.references(split, SimpleNamespace(classes=names))[1]["labels"] == ids


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_boxes_are_named_with_row_and_file(tmp_path: Path, fault: str) -> None:
    row, words = FAULTS[fault]
    folder = write_folder(tmp_path / "data", [boxes(CAT), boxes(DOG), row] + [boxes(CAT, DOG)] * 5)
    with pytest.raises(InputError) as caught:
        loaded("object-detection", folder)
    told = str(caught.value)
    assert words in told and "row 2 of the" in told and "2.png" in told
    _, splits = loaded("object-detection", folder, on_bad_example="skip")
    assert sum(splits.skipped.values()) == 1 and sum(map(len, splits.values())) == 7


def test_boxes_of_text_are_faults(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [boxes((["1", "2", "3", "4"], "cat"))] * 5)
    with pytest.raises(InputError, match=r"row 2 of .* a box that is not four numbers as object 0: .*2\.png"):
        loaded("object-detection", folder)


MASKS = {
    "another size": (mask(shape=(12, 15)), {}, "of 15 × 12 pixels for an image of 16 × 12"),
    "unknown class": (mask(3), {"labels": ("x", "y")}, "with the class 3, but there are labels for 0 to 1"),
    "all ignored": ({"mask": np.full((12, 16), 255, np.uint8)}, {}, "in which every pixel is ignored (255)"),
    "colours": (
        {"mask": np.random.default_rng(0).integers(256, size=(12, 16, 3), dtype=np.uint8)},
        {},
        "that holds colours, not class ids",
    ),
    "many": ({"mask": np.full((12, 16), 999, np.uint16)}, {}, "with the class 999"),
}


@pytest.mark.parametrize("fault", MASKS)
def test_faulty_masks_are_named_with_row_and_file(tmp_path: Path, fault: str) -> None:
    row, settings, words = MASKS[fault]
    folder = write_folder(tmp_path / "data", [mask(), mask(), row] + [mask()] * 5)
    with pytest.raises(InputError) as caught:
        loaded("image-segmentation", folder, **settings)
    told = str(caught.value)
    assert words in told and "row 2 of the" in told and "2_mask.png" in told
    _, splits = loaded("image-segmentation", folder, on_bad_example="skip", **settings)
    assert sum(splits.skipped.values()) == 1


def test_unreadable_images_and_masks_are_faults(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{**mask(), **boxes(CAT)}] * 6)
    broken = folder / "1.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    (folder / "3_mask.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no readable image in 'image' .*1\.png"):
        loaded("object-detection", folder)
    _, splits = loaded("image-segmentation", folder, on_bad_example="skip")
    assert sum(splits.skipped.values()) == 2


def test_classes_that_train_lacks_are_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [mask()] * 6)
    task, splits = loaded("image-segmentation", folder, labels=("sky", "sea", "sand"))
    with pytest.raises(InputError, match="the class 'sand' is missing from train"):
        task.facts(splits)


def test_a_class_may_be_the_one_that_is_ignored(tmp_path: Path) -> None:
    """`ignore_index: 0` beside names: train need not show it, and it is neither answered nor counted."""
    folder = write_folder(tmp_path / "data", [mask(), mask(2)] * 6)
    task, splits = loaded("image-segmentation", folder, labels=("nothing", "sea", "sand"), ignore_index=0)
    facts = task.facts(splits)
    assert facts.classes == ["nothing", "sea", "sand"]
    assert facts.constant["test"]["pixel_accuracy"] == 0.5
    processor = Untrained(family="segformer").processor("AutoImageProcessor")
    rows = list(task.encode(splits["test"], processor, facts, None))
    batch = task.collate(processor)(rows, None)
    assert set(batch["labels"].unique().tolist()) == {0, 1, 2}
    assert task.head(facts)["semantic_loss_ignore_index"] == 0
    logits = torch.zeros(2, 3, 12, 12)
    logits[:, 0], logits[:, 1] = 9.0, 1.0
    said = [row["prediction"] for row in task.predict(SimpleNamespace(logits=logits), rows, facts)]
    assert [row["predicted"] for row in said] == [[0, 5 * 16, 0]] * 2
    with pytest.raises(InputError, match="has a single class"):
        loaded_task, one = loaded(
            "image-segmentation",
            write_folder(tmp_path / "one", [mask()] * 6),
            labels=("nothing", "sea"),
            ignore_index=0,
        )
        loaded_task.facts(one)
