"""An error of reading, which passes or stays: what was written is whole, nothing is set aside or made anew.

The errors are the operating system's own: reading `/proc/self/mem` from its beginning gives EIO.
"""

# ruff: noqa: F401, F811  fixtures

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_integrity import (
    Sweep,
    content,
    copied,
    everything,
    results,
    saved,
    shared,
    targets,
    trained,
    whole,
)

from harness.analysis.study import load_study
from harness.errors import StorageError
from harness.plan import Plan
from harness.records import patience, provenance
from harness.records.paths import ResultPaths
from harness.records.record import predictions_fault, read_record
from harness.status import Watcher
from harness.training.checkpoint import Checkpoints
from harness.training.workspace import workspace_of

UNREADABLE = Path("/proc/self/mem")

pytestmark = pytest.mark.skipif(not UNREADABLE.exists(), reason="no /proc")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE", 0.2)


@contextmanager
def unreadable(*paths: Path, seconds: float | None = None) -> Iterator[None]:
    """Files that cannot be read, for so many seconds or for the length of the block."""
    moved = [(path, path.with_name(f".away.{path.name}")) for path in paths]
    for path, there in moved:
        path.rename(there)
        path.symlink_to(UNREADABLE)

    def back() -> None:
        for path, there in moved:
            there.replace(path)

    timer = threading.Timer(seconds or 0.0, back)
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.join() if seconds is not None else back()


def test_the_error_is_a_real_one() -> None:
    with pytest.raises(OSError) as caught:
        UNREADABLE.read_bytes()
    assert caught.value.errno == errno.EIO and caught.value.filename is None


def kinds(paths: ResultPaths) -> dict[str, Path]:
    return {kind: path for kind, path in targets(paths).items() if kind not in ("encoded", "list")}


def test_a_run_waits_for_files_that_cannot_be_read_and_sets_none_aside(whole: Sweep, copied: Sweep) -> None:
    files = [path for path in copied.paths.root.rglob("*") if path.is_file()]
    stamps = {path: path.stat().st_mtime_ns for path in files if path.parent == copied.paths.trials}
    with unreadable(*kinds(copied.paths).values(), seconds=1.0):
        began = time.monotonic()
        copied.run()
        assert time.monotonic() - began > 0.9
    assert copied.remarks() == [] and not copied.paths.quarantine.exists()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "nothing was run again"
    assert everything(copied.paths) == everything(whole.paths)


def test_a_run_that_cannot_read_a_file_ends_as_storage_trouble_does(
    copied: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(patience.PATIENCE_VARIABLE, "0.2")
    for kind, path in kinds(copied.paths).items():
        with unreadable(path), pytest.raises(StorageError, match="cannot be reached"):
            copied.run()
        assert copied.remarks() == [] and path.stat().st_size > 0, kind


def test_who_may_not_read_a_file_does_not_wait_and_sets_nothing_aside(
    whole: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "trials" / "a1.json"
    path.mkdir(parents=True)  # a folder is no file, and will be none
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"a1\.json cannot be read"):
        read_record(path)
    assert time.monotonic() - began < 1


def test_those_who_look_on_wait_too(whole: Sweep, copied: Sweep) -> None:
    files = {kind: path for kind, path in kinds(copied.paths).items() if kind != "storage"}
    before, frame = Watcher(whole.paths).look(), load_study(whole.paths).frame
    with unreadable(*files.values(), seconds=0.4):
        seen = Watcher(copied.paths).look()
        assert dict(seen.trials) == dict(before.trials) and [c.state for c in seen.cells] == ["done"] * 2
    with unreadable(*files.values(), seconds=0.4):
        study = load_study(copied.paths)
        assert study.unreadable == () and study.frame.equals(frame)
    with unreadable(files["predictions"], seconds=0.4):
        assert study.examples(files["predictions"].stem, "accuracy") is not None
    with unreadable(copied.paths.plan, seconds=0.4):
        assert len(provenance.history(copied.paths)) == 1


def test_predictions_and_checkpoints_are_read_once_they_can_be(copied: Sweep, tmp_path: Path) -> None:
    predictions = targets(copied.paths)["predictions"]
    said = read_record(copied.paths.trial(predictions.stem))
    assert said is not None
    with unreadable(predictions, seconds=0.3):
        assert predictions_fault(copied.paths, predictions.stem, said["predictions"]) == ""
    paths = ResultPaths(tmp_path / "results")
    saved(paths)
    with unreadable(paths.checkpoint("a1"), seconds=0.3):
        checkpoints = Checkpoints(paths, "a1", 0)
        loaded = checkpoints.load()
    assert loaded is not None and torch.equal(loaded[1]["model"]["w"], torch.arange(5000.0))
    assert checkpoints.remarks == [] and not paths.quarantine.exists()


def test_what_is_in_the_cache_is_not_made_anew_because_it_could_not_be_read(
    shared: tuple[Sweep, Plan, Any],
) -> None:
    """Encoded data and stored prefixes, and where prefixes are to be cut."""
    sweep, plan, sound = shared
    folder = sweep.folder / "cache"
    lists = [*folder.rglob(".checksums"), *folder.rglob("dataset_info.json"), *folder.rglob("leaves.json")]
    stamps = {path: path.stat().st_mtime_ns for path in lists}
    assert {path.parents[1].name for path in lists} >= {"prefixes"} or len(lists) > 4
    with unreadable(*(path for path in lists if path.name != "leaves.json"), seconds=1.0):
        record = trained(plan, workspace_of(plan, sweep.paths.root))
    assert record["sharing"]["stored"] == [4] and results(record) == sound
    with unreadable(*folder.rglob("leaves.json")):  # the trial does without
        record = trained(plan, workspace_of(plan, sweep.paths.root))
    assert record["sharing"]["stored"] == [] and "cannot be stored" in " ".join(record["notes"])
    record = trained(plan, workspace_of(plan, sweep.paths.root))
    assert record["sharing"]["stored"] == [4] and results(record) == sound
    assert {path: path.stat().st_mtime_ns for path in lists} == stamps and sweep.remarks() == []
