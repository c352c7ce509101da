"""What takes long gives signs of life and ends when asked to, though no step of a training comes round."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from test_sharing import _free_storage, planned  # noqa: F401

from harness import cache, pulse
from harness.training.prefix import Where, open_prefix
from harness.training.workspace import workspace_of


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    pulse.go_on()
    yield
    pulse.go_on()


def test_who_waits_for_another_process_is_alive_and_ends_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_WAIT_SECONDS", 0.02)
    folder, before = tmp_path / "made", pulse.beats()
    with FileLock(tmp_path / "made.lock"):
        threading.Timer(0.3, pulse.halt).start()
        with pytest.raises(pulse.Halted):
            cache.written_once(folder, lambda path: None)
    assert pulse.beats() > before + 3
    assert not folder.exists()
    pulse.go_on()
    assert cache.written_once(folder, lambda path: None).is_dir(), "the lock was left"


def test_who_waits_gets_what_the_other_one_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_WAIT_SECONDS", 0.02)
    folder = tmp_path / "made"

    def slow(path: Path) -> None:
        time.sleep(0.3)
        (path / "one").touch()

    first = threading.Thread(target=cache.written_once, args=(folder, slow))
    first.start()
    time.sleep(0.1)
    cache.written_once(folder, lambda path: (path / "two").touch())
    first.join()
    assert [path.name for path in folder.iterdir()] == ["one"]


def test_a_prefix_is_built_example_by_example(tmp_path: Path) -> None:
    plan = planned("bert", "text-classification", tmp_path, "all", "fp32")
    workspace = workspace_of(plan, tmp_path / "out")
    (where,) = workspace.passes
    prefix = open_prefix(workspace, Where(*where), torch.device("cpu"))
    assert prefix is not None
    (depth,) = prefix.boundaries
    before = pulse.beats()
    pulse.halt()
    with pytest.raises(pulse.Halted):
        prefix._store("train", depth)
    pulse.go_on()
    assert len(prefix._store("train", depth)) == 24, "nothing half-made was left"
    assert pulse.beats() >= before + 24
