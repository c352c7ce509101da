"""Disks that become full while a sweep runs: it stops and says so, and carries on once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_integrity import Sweep, definition, everything

from harness import cache, console
from harness.cli import main
from harness.errors import InputError, NoSpaceError, no_space
from harness.records.paths import ResultPaths
from harness.records.record import read_records
from harness.training.checkpoint import Checkpoints, Progress
from harness.tuning.campaign import Event
from harness.tuning.launcher import _launch, launch
from harness.tuning.preflight import check_space

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="needs the right to mount"
)


@pytest.fixture(scope="module")
def content(models: Any, words_csv: Path) -> dict[str, Any]:
    # A grid: what an open search draws next depends on where it was interrupted.
    grid = {"learning_rate": {"grid": [1e-3, 1e-2]}}
    return definition(models, words_csv, optimizer=grid, search={"algorithm": "grid"})


@pytest.fixture(scope="module")
def whole(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.CACHE_VARIABLE, str(folder / "cache"))
        made = Sweep(folder, content)
        made.run()
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """`disk(name, kilobytes)`: a folder on a file system of its own."""
    made = []

    def mount(name: str, kilobytes: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(options, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Take the space of a file system but for so many bytes."""
    path = folder / "filler"
    size = shutil.disk_usage(folder).free - left
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, size // 4096 * 4096))
    return path


class Filling:
    """A view of a running sweep that fills a disk at an event."""

    def __init__(self, folder: Path, left: int, what: str, count: int) -> None:
        self.folder, self.left, self.what, self.count = folder, left, what, count

    def __call__(self, event: Event) -> None:
        self.count -= event.what == self.what
        if self.count == 0:
            self.count = -1
            fill(self.folder, self.left)


@pytest.fixture
def small(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    """`small(results, cache)`: the sweep of `whole`, its folders where they are said to be."""

    def make(results: Path | None = None, stored: Path | None = None, **changes: Any) -> Sweep:
        monkeypatch.setenv(cache.CACHE_VARIABLE, str(stored or tmp_path / "cache"))
        made = Sweep(tmp_path, {**content, **changes})
        if results is not None:
            made.paths = ResultPaths(results / "small")
        return made

    return make


@pytest.mark.parametrize("left", [0, 4096, 20_000, 50_000])
def test_a_full_results_folder_stops_the_run_and_loses_nothing(
    whole: Sweep, small: Any, disk: Any, left: int
) -> None:
    """Whichever file it is that does not fit any more: a curve, predictions, a record, a cell."""
    sweep = small(results=disk("results", 8000))
    view = Filling(sweep.paths.root.parent, left, "ended", 3)
    with pytest.raises(NoSpaceError, match="no space left"):
        launch(sweep.plan(), sweep.paths, None, view)
    kept = everything(sweep.paths)
    assert {record["status"] for record in kept.values()} == {"finished"} and 2 <= len(kept) < 8
    (sweep.paths.root.parent / "filler").unlink()
    sweep.run()
    assert everything(sweep.paths) == everything(whole.paths) and sweep.remarks() == []


def test_the_command_says_what_to_do_about_a_full_disk(
    small: Any, disk: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    sweep = small(results=disk("results", 8000))
    view = Filling(sweep.paths.root.parent, 8192, "ended", 2)
    shown = console.ProgressView.__call__

    def both(self: console.ProgressView, event: Event) -> None:
        shown(self, event)
        view(event)

    monkeypatch.setattr(console.ProgressView, "__call__", both)
    given = ["run", str(sweep.file), "--local", "--results", str(sweep.paths.root.parent)]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert "no space left" in said and "make room and run again:" in said
    assert f"harness {' '.join(given)}" in said, said


def test_a_full_cache_stops_a_run_that_cannot_do_without(whole: Sweep, small: Any, disk: Any) -> None:
    stored = disk("stored", 60_000)
    sweep = small(stored=stored)
    plan = sweep.plan()
    fill(stored, 0)
    with pytest.raises(InputError, match=r"0 MB are free, .* the cache 50 MB"):
        launch(plan, sweep.paths, None, lambda event: None)
    with pytest.raises(OSError) as caught:  # what `launch` meets once it runs
        _launch(plan, sweep.paths, None, lambda event: None)
    assert no_space(caught.value) is not None
    (stored / "filler").unlink()
    sweep.run()
    assert everything(sweep.paths) == everything(whole.paths)


def test_with_a_full_cache_frozen_rungs_run_in_every_step(small: Any, disk: Any) -> None:
    stored = disk("stored", 60_000)
    sweep = small(stored=stored, resources={"share": True})
    assert launch(sweep.plan(), sweep.paths, None, Filling(stored, 0, "started", 1)).done
    frozen = [record for record in read_records(sweep.paths) if record["strategy"] == "head-only"]
    assert {record["status"] for record in frozen} == {"finished"}
    assert all("cannot be stored" in " ".join(record["notes"]) for record in frozen)


def test_a_checkpoint_that_does_not_fit_costs_no_trial(disk: Any) -> None:
    paths = ResultPaths(disk("results", 64))
    checkpoints = Checkpoints(paths, "a1", 0)
    checkpoints.save(Progress(), {"w": torch.zeros(100)})
    checkpoints.save(Progress(steps=7), {"w": torch.zeros(100_000)})
    assert "a checkpoint was not written" in checkpoints.remarks[0]
    assert [path.name for path in paths.checkpoint("a1").parent.iterdir()] == ["a1.pt"]
    loaded = checkpoints.load()
    assert loaded is not None and loaded[0].steps == 0, "the one before is whole"


def test_what_cannot_fit_is_refused_with_numbers(
    small: Any, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small(results=disk("results", 100))
    monkeypatch.setenv("RAY_TMPDIR", str(disk("temporary", 1000)))
    plan = sweep.plan()
    with pytest.raises(InputError) as caught:
        check_space(plan, sweep.paths, local=False)
    assert len(caught.value.mistakes) == 2 and "Ray 100 MB" in str(caught.value)
    with pytest.raises(InputError, match="the results"):
        check_space(plan, sweep.paths, local=True)
    assert not sweep.paths.root.exists()


def test_a_full_disk_is_known_however_it_is_wrapped() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/results/x.json")
        except OSError as error:
            raise RuntimeError("a library's own") from error
    except RuntimeError as error:
        found = no_space(error)
    assert found is not None and str(found) == "no space left in /data/results" and found.exit_code == 1
    assert no_space(OSError(errno.EACCES, "Permission denied")) is None


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("left", [0, 30_000])
def test_a_full_disk_on_ray(
    whole: Sweep, small: Any, disk: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, left: int
) -> None:
    """No trial is marked as failed: the run ends, and the next one carries on."""
    sweep = small(results=disk("results", 8000))
    view = Filling(sweep.paths.root.parent, left, "ended", 2)
    shown = console.ProgressView.__call__

    def both(self: console.ProgressView, event: Event) -> None:
        shown(self, event)
        view(event)

    monkeypatch.setattr(console.ProgressView, "__call__", both)
    given = ["run", str(sweep.file), "--results", str(sweep.paths.root.parent)]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert "no space left" in said and "make room and run again:" in said
    assert {record["status"] for record in read_records(sweep.paths)} == {"finished"}
    (sweep.paths.root.parent / "filler").unlink()
    sweep.run()
    assert everything(sweep.paths) == everything(whole.paths)
