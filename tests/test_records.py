"""What a sweep writes: whole files or none, that others can read; and one run at a time per folder."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ResultsLockedError
from harness.records import lock
from harness.records.paths import ResultPaths, replace_file, write_json, write_text
from harness.records.reader import at_work_since
from harness.records.record import read_record, read_records, write_predictions, write_record


def record(trial_id: str = "a1", **changes: Any) -> Any:
    return {
        "format": 1, "trial_id": trial_id, "phase": "tune", "task": "t", "kind": "k", "backbone": "b",
        "strategy": "s", "hyperparameters": {"optimizer.learning_rate": 1e-3}, "recipe": {"freeze": 0},
        "seed": 0, "status": "finished", "reason": "",
        "metrics": {"validation": {"accuracy": 0.5}, "test": None}, "curve": [{"step": 1, "train_loss": 0.7}],
        "cost": {"wall_s": 1.0, "device_s": 1.0, "flops": 2.0, "steps": 1, "trainable_params": 3,
                 "peak_memory_mb": 4.0},
        "drift": {"relative_l2": 0.1}, "attempts": 1, "notes": [], "provenance": {}, **changes,
    }  # fmt: skip


# -- writing ---------------------------------------------------------------------------------------


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})

    def half(temporary: Path) -> None:
        temporary.write_text('{"new": ')
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        replace_file(path, half)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": math.nan})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL in the middle of a write: the reader still meets the old content, whole."""
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from harness.records.paths import replace_file
        def half(temporary):
            temporary.write_text('{{"new": ')
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(Path({str(path)!r}), half)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"old": 1}


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_files_are_as_readable_as_the_umask_says(umask: int, tmp_path: Path) -> None:
    """Results are read by colleagues and by a web server: no file is private to its owner by accident."""
    paths = ResultPaths(tmp_path)
    before = os.umask(umask)
    try:
        write_text(paths.report_md, "text")
        write_record(paths, record())
        write_predictions(paths, "a1", [{"example": 0, "reference": 1, "prediction": 1}])
    finally:
        os.umask(before)
    for path in (paths.report_md, paths.trial("a1"), paths.predictions("a1")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "one")
    write_text(path, "two · λ")
    assert path.read_text(encoding="utf-8") == "two · λ"


# -- records ---------------------------------------------------------------------------------------


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    for name in ("b2", "a1"):
        write_record(paths, record(name))
    assert read_record(paths.trial("a1")) == record("a1")
    assert [r["trial_id"] for r in read_records(paths)] == ["a1", "b2"]


def test_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    """NaN and infinity are no JSON: other readers would refuse the file. Everything else stays."""
    paths = ResultPaths(tmp_path)
    written = record(
        metrics={"validation": {"accuracy": math.nan, "f1": 0.25}, "test": None},
        curve=[{"train_loss": math.inf, "step": 3}, {"train_loss": -math.inf}],
        drift={"relative_l2": math.nan},
    )
    write_record(paths, written)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    read = json.loads(paths.trial("a1").read_text(), parse_constant=refuse)
    assert read["metrics"] == {"validation": {"accuracy": None, "f1": 0.25}, "test": None}
    assert read["curve"] == [{"train_loss": None, "step": 3}, {"train_loss": None}]
    assert read["drift"] == {"relative_l2": None}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[1, 2]", b'"text"', b"\xff\xfe\x00", b"{}", b'{"trial_id": "a1"}',
     b'{"trial_id": "a1", "status": "finished"}'],
)  # fmt: skip
def test_a_file_that_holds_no_record_is_none(content: bytes, tmp_path: Path) -> None:
    """Truncated, foreign or of another shape: the trial counts as not run, and nothing raises."""
    paths = ResultPaths(tmp_path)
    write_record(paths, record("b2"))
    paths.trial("a1").write_bytes(content)
    assert read_record(paths.trial("a1")) is None
    assert [r["trial_id"] for r in read_records(paths)] == ["b2"]


def test_truncation_anywhere_is_noticed(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    write_record(paths, record())
    whole = paths.trial("a1").read_bytes()
    for length in range(0, len(whole) - 2, 37):
        paths.trial("a1").write_bytes(whole[:length])
        assert read_record(paths.trial("a1")) is None, length


def test_a_record_under_another_name_or_with_an_unknown_status_is_none(tmp_path: Path) -> None:
    """A copied file is not the trial whose name it took; "running" is no end."""
    paths = ResultPaths(tmp_path)
    write_json(paths.trial("a1"), record("b2"))
    write_json(paths.trial("c3"), record("c3", status="running"))
    assert read_record(paths.trial("a1")) is None
    assert read_record(paths.trial("c3")) is None
    assert read_record(paths.trial("nothing-there")) is None


def test_predictions_are_a_table_with_a_row_per_example(tmp_path: Path) -> None:
    import pandas as pd

    paths = ResultPaths(tmp_path)
    rows = [{"example": i, "reference": i % 2, "prediction": 1, "scores": [0.25, 0.75]} for i in range(5)]
    write_predictions(paths, "a1", rows)
    frame = pd.read_parquet(paths.predictions("a1"))
    assert list(frame.columns) == ["example", "reference", "prediction", "scores"]
    assert frame["example"].tolist() == [0, 1, 2, 3, 4]
    assert frame["scores"].iloc[0].tolist() == [0.25, 0.75]


# -- the lock --------------------------------------------------------------------------------------

HOLDER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from harness.records import lock
    from harness.records.paths import ResultPaths
    with lock.hold(ResultPaths(Path(sys.argv[1]))):
        print("held", flush=True)
        sys.stdin.read()
    """
)


def hold_elsewhere(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    """It names the process and the host; when the first one ends, the folder is free."""
    paths = ResultPaths(tmp_path / "results")
    process = hold_elsewhere(paths.root)
    try:
        with (
            pytest.raises(ResultsLockedError, match=rf"process {process.pid} on \S+") as caught,
            lock.hold(paths),
        ):
            pass
        assert caught.value.exit_code == 4 and str(paths.root) in str(caught.value)
        with pytest.raises(ResultsLockedError, match=str(process.pid)), lock.hold(paths):
            pass  # having been refused does not free it
    finally:
        process.communicate("")
    with lock.hold(paths):
        pass


def test_the_lock_is_free_when_its_owner_is_killed(tmp_path: Path) -> None:
    """No stale lock after SIGKILL, a crash or a reboot: the operating system lets go of it."""
    paths = ResultPaths(tmp_path)
    process = hold_elsewhere(paths.root)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock.hold(paths), pytest.raises(ResultsLockedError, match=str(os.getpid())), lock.hold(paths):
        pass


def test_the_lock_is_free_after_an_error_inside(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    with pytest.raises(RuntimeError), lock.hold(paths):
        raise RuntimeError("the sweep broke")
    with lock.hold(paths):
        assert paths.root.exists()


def test_a_lock_file_of_a_dead_process_is_free_whoever_has_its_number_now(tmp_path: Path) -> None:
    """What is left of it, with the number of a process that lives, keeps nobody out."""
    paths = ResultPaths(tmp_path)
    process = hold_elsewhere(paths.root)
    process.kill()
    process.communicate()
    owner = paths.lock.with_suffix(".owner")
    assert paths.lock.exists() and json.loads(owner.read_text())["pid"] == process.pid
    owner.write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    os.utime(owner, (1.0, 1.0))
    assert at_work_since(paths) is None, "the process is younger than the run"
    with lock.hold(paths):
        assert json.loads(owner.read_text())["pid"] == os.getpid()
