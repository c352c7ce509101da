"""What the documents show works as it stands there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import sentences, write_table
from test_images import folder_of_images

from harness import document, spec
from harness.prepare import prepare

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[dict[str, Any]]:
    """The tasks of a document's YAML blocks."""
    text = (DOCS / name).read_text(encoding="utf-8")
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return [entry for block in found for entry in block]


def images(folder: Path, count: int = 20) -> list[Path]:
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return [folder / f"{index}.png" for index in range(count)]


def metadata(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def sound(path: Path, pitch: float, rate: int = 16000) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(rate // 4) / rate)
    soundfile.write(path, wave, rate)


def reviews(root: Path) -> None:
    write_table(root / "reviews.tsv", sentences(60, seed=1), columns=("review", "stars"))


def entities(root: Path) -> None:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        lines = [
            f"the O\n{who} B-PER\nsees O\n{where} B-LOC\n"
            for who, where in rng.choice(["Ann", "Bob", "Rome", "Oslo", "Cid", "Lima"], (40, 2))
        ]
        (root / f"{name}.conll").write_text("\n".join(lines))


def birds(root: Path) -> None:
    folder_of_images(root / "birds")


def traffic(root: Path) -> None:
    objects = {"bbox": [[2, 3, 10, 8], [15, 4, 6, 6]], "category": ["car", "bus"]}
    metadata(root / "traffic", [{"file_name": p.name, "objects": objects} for p in images(root / "traffic")])


def fields(root: Path) -> None:
    from PIL import Image

    paths = images(root / "fields")
    for path in paths:
        mask = np.zeros((24, 32), np.uint8)
        mask[5:15, 8:20] = 1
        Image.fromarray(mask).save(path.with_name(f"{path.stem}-mask.png"))
    rows = [{"file_name": path.name, "mask_file_name": f"{path.stem}-mask.png"} for path in paths]
    metadata(root / "fields", rows)


def calls(root: Path) -> None:
    for index in range(20):
        sound(
            root / "calls" / ("high" if index % 2 else "low") / f"{index}.wav",
            400 + 600 * (index % 2) + index,
        )


def commands(root: Path) -> None:
    words = ["Stop", "go on", "left", "Right"]
    lines = ["file_name,transcription"]
    for index in range(20):
        sound(root / "commands" / f"{index}.wav", 300 + 40 * index)
        lines.append(f"{index}.wav,{words[index % 4]}")
    (root / "commands" / "metadata.csv").write_text("\n".join(lines))


DATA: dict[str, Callable[[Path], None]] = {
    made.__name__: made for made in (reviews, entities, birds, traffic, fields, calls, commands)
}
FAMILY = {
    "text-classification": "bert",
    "token-classification": "bert",
    "image-classification": "resnet",
    "object-detection": "yolos",
    "image-segmentation": "segformer",
    "audio-classification": "wav2vec2",
    "automatic-speech-recognition": "wav2vec2",
}


def test_every_kind_is_shown() -> None:
    assert sorted(task["kind"] for task in blocks("tasks.md")) == sorted(FAMILY)


@pytest.mark.parametrize("task", blocks("tasks.md"), ids=lambda task: task["name"])
def test_a_users_own_data_becomes_a_task_from_yaml_alone(task: dict[str, Any], tmp_path: Path) -> None:
    """The block as it stands in the document, with data of that form beside the sweep file: a model of the
    kind reads it."""
    DATA[task["name"]](tmp_path / "data")
    content = {
        "name": "own",
        "backbones": [{"use": "untrained", "family": FAMILY[task["kind"]]}],
        "tasks": [task],
        "strategies": {"full": {"freeze": 0}},
    }
    sweep = spec.from_document(document.read(yaml.safe_dump(content), "own.yaml"), [tmp_path])
    prepared = prepare(sweep)
    facts = prepared.tasks[task["name"]]
    assert all(size > 0 for size in facts.sizes.values())
    assert facts.skipped == {}
    (model,) = prepared.models.values()
    assert sum(model.flops) > 0
    if task["kind"].startswith("a"):
        assert any("16000 Hz are resampled to the model's 8000 Hz" in remark for remark in model.remarks)


def test_the_page_of_systems_is_what_the_registry_and_the_sweeps_say() -> None:
    """`make docs` writes it anew."""
    import runpy

    made = runpy.run_path(str(DOCS / "systems.py"))["page"]()
    assert (DOCS / "systems.md").read_text(encoding="utf-8") == made


def test_the_page_of_strategies_is_what_their_docstrings_say() -> None:
    """`make docs` writes it."""
    import runpy

    made = runpy.run_path(str(DOCS / "strategies.py"))["page"]()
    assert (DOCS / "strategies.md").read_text(encoding="utf-8") == made
