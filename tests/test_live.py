"""Looking at a sweep while it runs: `harness status`, its pace, and the servers that open a sweep."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_campaign import TWO_TASKS, Run, planned, record

from harness import watch
from harness.cli import main
from harness.console import ProgressView, duration
from harness.outline import as_dict, work
from harness.plan import Plan, Trial
from harness.records import index, reader
from harness.records.lock import hold
from harness.records.paths import ResultPaths, write_json
from harness.records.record import write_record
from harness.records.tensorboard import run_folder, write_experiment
from harness.status import Status, Watcher
from harness.tuning.campaign import Event

DAY = 86_400.0


@pytest.fixture
def paths(tmp_path: Path) -> ResultPaths:
    return ResultPaths(tmp_path / "results" / "small")


def started(plan: Plan, paths: ResultPaths, **more: Any) -> Run:
    """A campaign whose plan is on disk, as after the start of a run."""
    write_json(paths.plan, as_dict(plan))
    return Run(plan, paths, **more)


def saved(running: Run) -> None:
    """As every five seconds of a real run: the cells' files say what has been handed out."""
    running.campaign._files.write_changed(now=True)


def look(paths: ResultPaths, now: float | None = None) -> Status:
    return Watcher(paths).look(now)


def shift(paths: ResultPaths, seconds: float) -> None:
    """Let everything that is there be older."""
    for path in paths.root.rglob("*"):
        stat = path.stat()
        os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


def at(path: Path, when: float) -> None:
    os.utime(path, (when, when))


@contextmanager
def held(paths: ResultPaths, since: float) -> Iterator[None]:
    """A run is at work that began then: of a process that has been there for long."""
    with hold(paths):
        owner = paths.lock.with_suffix(".owner")
        owner.write_text(json.dumps({"pid": 1, "host": socket.gethostname()}))
        at(owner, since)
        yield


# -- what is counted -------------------------------------------------------------------------------


def test_every_trial_is_counted_by_its_fate(paths: ResultPaths) -> None:
    fates = ["finished", "diverged", "stopped", "infeasible", "failed"]

    def ends(trial: Trial) -> Any:
        fate: Any = random.Random(trial.trial_id).choice(fates)
        return record(trial, 0.5 if fate == "finished" else None, fate)

    running = started(planned(seeds={"tune": 3, "confirm": 2}), paths, how=ends)
    running.to_the_end().campaign.close()
    found = look(paths)
    wanted = Counter(json.loads(path.read_text())["status"] for path in paths.trials.glob("*.json"))
    assert found.trials == dict(wanted) and len(wanted) >= 4
    assert found.done and found.since is None and found.pace is None


@pytest.mark.parametrize(
    "changes", [{}, {"search": {"algorithm": "random", "trials": 3}}], ids=["grid", "random"]
)
def test_a_look_at_any_time_says_what_the_campaign_knows(paths: ResultPaths, changes: dict[str, Any]) -> None:
    running = started(planned(**changes), paths, workers=3)
    watcher, wholes = Watcher(paths), set()
    while running.step():
        saved(running)
        found = watcher.look()
        assert found.ended == len(running.started) - len(running.active)
        assert found.done == running.campaign.done
        wholes.add(found.planned)
    running.campaign.close()
    found = watcher.look()
    assert found.done and found.ended == found.planned == len(running.started)
    assert wholes == {found.planned}  # nothing fails here: the whole is known from the start
    for cell in found.cells:
        known = [json.loads(paths.trial(i).read_text()) for i in ids(paths, cell.id)]
        assert cell.best == max(one["metrics"]["validation"]["accuracy"] for one in known)


def ids(paths: ResultPaths, cell: str) -> list[str]:
    stored = json.loads(paths.cell(cell).read_text())
    return [entry["trial_id"] for phase in ("tune", "confirm") for entry in stored[phase]]


def test_trials_that_cells_share_are_counted_once(paths: ResultPaths) -> None:
    same = {"full": {"freeze": 0}, "zero": {"freeze": 0, "regularizer": {"name": "l2-sp", "strength": 0}}}
    running = started(planned(strategies=same), paths)
    assert look(paths).planned >= 3 * 2 + 3
    running.to_the_end().campaign.close()
    found = look(paths)
    assert found.planned == found.ended == len(running.started) == 3 * 2 + 3
    assert [cell.planned for cell in found.cells] == [9, 9]


def test_the_best_is_the_lowest_where_less_is_better(paths: ResultPaths) -> None:
    tasks = [{"name": "one", "use": "bbc-topics", "metrics": ["error_rate"], "primary": "error_rate"}]
    values = iter(range(100))
    running = started(
        planned(tasks=tasks), paths, how=lambda trial: record(trial, float(next(values)), metric="error_rate")
    )
    running.to_the_end().campaign.close()
    assert min(cell.best for cell in look(paths).cells if cell.best is not None) == 0.0


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"seeds": {"tune": 2, "confirm": 4}}, "confirming"),
        ({"optimizer": {"learning_rate": {"grid": [2e-5, 1e-4, 1e-3, 1e-2]}}}, "tuning"),
    ],
    ids=["a seed", "a value"],
)
def test_a_grown_sweep_is_not_done(paths: ResultPaths, change: dict[str, Any], state: str) -> None:
    started(planned(), paths).to_the_end().campaign.close()
    assert look(paths).done
    write_json(paths.plan, as_dict(planned(**change)))
    found = look(paths)
    assert not found.done and {cell.state for cell in found.cells} == {state}
    assert found.planned > found.ended


def test_a_run_that_has_not_looked_at_a_cell_is_not_done(paths: ResultPaths) -> None:
    """Cells' files of an earlier run say "done" from the first moment of the next one."""
    started(planned(), paths).to_the_end().campaign.close()
    shift(paths, DAY)
    assert look(paths).done
    with held(paths, time.time() - 5):
        assert not look(paths).done
        again = started(planned(), paths).to_the_end()
        assert again.started == []
        again.campaign.close()
        assert look(paths).done


def test_what_cannot_be_read_is_said_and_not_fatal(paths: ResultPaths) -> None:
    running = started(planned(), paths).to_the_end()
    running.campaign.close()
    first, second, third = running.ids[:3]
    paths.trial(first).write_text("{")
    paths.trial(second).write_text(json.dumps({"trial_id": "another", "status": "finished"}))
    paths.trial(third).unlink()
    found = look(paths)
    assert (found.trials["unreadable"], found.trials["missing"]) == (2, 1)
    next(paths.cells.glob("*.json")).write_text("[]")
    assert "unreadable" in {cell.state for cell in look(paths).cells}
    assert not look(paths).done


# -- what a look costs -----------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the records that were read from their files."""
    found: list[str] = []
    real = reader._text

    def counted(path: Path) -> str:
        found.append(path.stem)
        return real(path)

    monkeypatch.setattr(reader, "_text", counted)
    return found


def test_a_record_is_read_once(paths: ResultPaths, reads: list[str]) -> None:
    running, watcher = started(planned(), paths), Watcher(paths)
    while running.step():
        watcher.look()
        watcher.look()
    assert sorted(reads) == sorted(running.ids)


def test_many_records_are_read_from_the_index(
    paths: ResultPaths, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "BATCH", 5)
    running = started(planned(), paths).to_the_end()
    plain = look(paths)
    assert len(reads) == len(running.ids) % 5
    running.campaign.close()
    reads.clear()
    assert look(paths).as_dict() == plain.as_dict() and reads == []


def test_a_record_that_changed_is_read_again(paths: ResultPaths, reads: list[str]) -> None:
    running, watcher = started(planned(), paths).to_the_end(), Watcher(paths)
    running.campaign.close()
    watcher.look()
    reads.clear()
    changed = running.started[0]
    write_record(paths, record(changed, None, "diverged"))
    found = watcher.look()
    assert reads == [changed.trial_id] and found.trials["diverged"] == 1
    paths.trial(changed.trial_id).unlink()
    assert watcher.look().trials["missing"] == 1


# -- what runs, and how fast -----------------------------------------------------------------------


def begin(paths: ResultPaths, trial: Trial, when: float) -> None:
    folder = run_folder(paths, trial.as_dict())
    write_experiment(folder.parent, [])  # as every run does: what lies there is no trial
    folder.mkdir(parents=True, exist_ok=True)
    at(folder, when)


def end(running: Run, trial: Trial, when: float, wall_s: float, **more: Any) -> None:
    """A trial ends then."""
    made = record(trial, **more)
    made["cost"]["wall_s"] = wall_s
    write_record(running.campaign.paths, made)
    running.campaign.finish(trial, made)
    at(running.campaign.paths.trial(trial.trial_id), when)


def test_what_runs_now(paths: ResultPaths) -> None:
    """Not what an earlier run had begun, nor what has ended; a failed trial runs again."""
    running = started(planned(), paths)
    now = time.time()
    trials = [running.campaign.next() for _ in range(4)]
    left, over, failed, fresh = [trial for trial in trials if trial is not None]
    saved(running)
    begin(paths, left, now - DAY)
    begin(paths, over, now - 30)
    end(running, over, now - 20, 10.0)
    begin(paths, failed, now - 10)
    end(running, failed, now - DAY, 10.0, score=None, status="failed")
    begin(paths, fresh, now - 5)
    with held(paths, now - 60):
        found = look(paths, now)
        assert [trial.trial_id for trial in found.running] == [failed.trial_id, fresh.trial_id]
        assert found.trials == {"finished": 1, "running": 2, "missing": 1}
        assert [(trial.strategy, trial.phase) for trial in found.running] == [("full", "tune")] * 2
        assert [round(run["seconds"]) for run in found.as_dict()["running"]] == [10, 5]
    found = look(paths)  # nobody is at work any more
    assert found.running == () and found.trials == {"finished": 1, "failed": 1, "missing": 2}


def test_a_run_that_was_killed_is_not_at_work(paths: ResultPaths) -> None:
    started(planned(), paths)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = paths.lock.with_suffix(".owner")
    owner.write_text(json.dumps({"pid": ended.pid, "host": socket.gethostname()}))
    assert look(paths).since is None
    # its number has become another process's, which is younger than the file
    owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert look(paths).since is not None
    at(owner, time.time() - 30 * DAY)
    assert look(paths).since is None
    owner.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    assert look(paths).since is not None
    owner.write_text("{")
    assert look(paths).since is None


@pytest.mark.parametrize("away", [0.0, 3 * DAY], ids=["at once", "after three days"])
def test_the_pace_is_that_of_the_present_run(paths: ResultPaths, away: float) -> None:
    """Two at a time, 10 s each, whatever an earlier run did and however long ago."""
    now = time.time()
    running = started(planned(), paths)
    earlier = [running.campaign.next() for _ in range(4)]
    for place, trial in enumerate(earlier):
        assert trial is not None
        begin(paths, trial, now - away - 1000 - 100 * place)
        end(running, trial, now - away - 900 - 100 * place, 10.0)
    for place in range(4):
        trial = running.campaign.next()
        assert trial is not None
        begin(paths, trial, now - 20 + 10 * (place // 2))
        end(running, trial, now - 10 + 10 * (place // 2), 10.0)
    saved(running)
    with held(paths, now - 25):
        found = look(paths, now)
    assert found.pace is not None
    assert found.pace.a_minute == pytest.approx(12, rel=0.01)
    owed = found.planned - found.ended
    assert owed == 2 * (3 * 2 + 3) - 8
    assert found.pace.left == pytest.approx((owed * 5.0, owed * 5.0), rel=0.05)


def test_time_left_goes_down_while_a_trial_runs_but_not_below_what_waits(paths: ResultPaths) -> None:
    """One at a time, 100 s each; the next has been at it for 40 s, or for far longer than any before."""
    plan, lefts = planned(strategies={"full": {"freeze": 0}}), {}
    for at_it in (40.0, 5000.0):
        here = ResultPaths(paths.root.with_name(f"after-{at_it:.0f}"))
        running, now = started(plan, here), time.time() + 6000  # the machine has been up for that long then
        done, atwork = running.campaign.next(), running.campaign.next()
        assert done is not None and atwork is not None
        begin(here, done, now - at_it - 100)
        end(running, done, now - at_it, 100.0)
        begin(here, atwork, now - at_it)
        saved(running)
        with held(here, now - at_it - 110):
            found = look(here, now)
        assert found.pace is not None
        lefts[at_it] = found.pace.left[1]
    assert lefts[40.0] == pytest.approx(800 - 40, rel=0.01)
    assert lefts[5000.0] == pytest.approx(800 - 100, rel=0.01)


def test_cells_that_nobody_has_tried_make_a_range(paths: ResultPaths) -> None:
    """One at a time: `full` takes 30 s and is done, `middle` 10 s and one has ended, `top` has not begun."""
    strategies = {"full": {"freeze": 0}, "middle": {"freeze": 3}, "top": {"freeze": 5}}
    running = started(planned(strategies=strategies), paths)
    now = when = time.time() + 1000
    with held(paths, now):
        while (trial := running.campaign.next()) is not None:
            when += 30.0 if trial.strategy == "full" else 10.0
            end(running, trial, when, 30.0 if trial.strategy == "full" else 10.0)
            if trial.strategy == "middle":
                break
        saved(running)
        found = look(paths, when)
    assert found.pace is not None and found.planned - found.ended == 8 + 9
    assert found.pace.left == pytest.approx((8 * 10 + 9 * 10, 8 * 10 + 9 * 30), rel=0.02)


def test_seeds_that_are_not_run_any_more_are_not_owed(paths: ResultPaths) -> None:
    """The scheduler stops a configuration on its first seed; two others and the confirm runs are left."""
    search = {"algorithm": "grid", "scheduler": "asha"}
    running = started(planned(strategies={"full": {"freeze": 0}}, search=search), paths)
    now, trial = time.time(), running.campaign.next()
    assert trial is not None and look(paths).planned == 9
    draft = record(trial, 0.1, "stopped")
    draft["cost"]["wall_s"] = 10.0
    begin(paths, trial, now - 10)
    running.campaign.stop(trial, draft)
    at(paths.trial(trial.trial_id), now)
    saved(running)
    with held(paths, now - 20):
        found = look(paths, now)
    assert (found.planned, found.trials) == (8, {"stopped": 1})
    assert found.pace is not None and found.pace.left == pytest.approx((70, 70), rel=0.01)


def test_nothing_is_said_of_the_time_before_a_trial_has_ended(paths: ResultPaths) -> None:
    running = started(planned(), paths)
    trial = running.campaign.next()
    assert trial is not None
    begin(paths, trial, time.time())
    saved(running)
    with held(paths, time.time() - 5):
        found = look(paths)
        assert found.pace is None and len(found.running) == 1
        assert "not known yet" in watch.headline(found)


# -- watching --------------------------------------------------------------------------------------


@contextmanager
def going_on(running: Run) -> Iterator[None]:
    """The campaign goes on in the background, trial by trial."""
    from threading import Thread

    def go() -> None:
        while running.step():
            saved(running)
            time.sleep(0.02)
        running.campaign.close()

    thread = Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_watching_ends_when_the_sweep_is_done(paths: ResultPaths, capsys: Any) -> None:
    running = started(planned(), paths)
    with going_on(running):
        assert main(["status", str(paths.root), "--watch", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.startswith("small:")]
    assert (
        heads[-1].startswith("small: done; 18 of 18 trials have ended") and len(heads) == len(set(heads)) > 1
    )
    assert all(head.startswith("small: not done") for head in heads[:-1])
    assert lines[0] == heads[0] and lines[1].startswith("  one | small | full: ")
    assert sum(line.startswith("  one | small | top: done; 9 finished") for line in lines) == 1


def test_a_line_is_written_where_something_has_changed(paths: ResultPaths) -> None:
    running, watcher = started(planned(), paths), Watcher(paths)
    running.step()
    saved(running)
    before = watcher.look()
    assert watch._news(before, watcher.look()) == []
    running.step()
    [line] = watch._news(before, watcher.look())
    assert line.startswith("small: not done; 2 of 18 trials")


def test_json_while_watching_is_an_object_per_line(paths: ResultPaths, capsys: Any) -> None:
    running = started(planned(), paths)
    with going_on(running):
        assert main(["status", str(paths.root), "--watch", "0.1", "--json"]) == 0
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["done"] for one in seen] == [False] * (len(seen) - 1) + [True]
    ended = [one["trials"].get("finished", 0) for one in seen]
    assert ended == sorted(ended) and ended[-1] == seen[-1]["planned"] == 18
    assert main(["status", str(paths.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == seen[-1]


def test_a_terminal_shows_a_table_drawn_anew(paths: ResultPaths) -> None:
    strategies = {f"depth-{i}": {"freeze": i} for i in range(6)}
    running = started(planned(strategies=strategies), paths)
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=120, height=11, color_system=None)
    with going_on(running):
        watch.watch(Watcher(paths), screen, 0.1, as_json=False)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert drawn.count("small: not done") > 1
    last = drawn[drawn.rindex("small: done; 54 of 54") :]
    assert "best validation" in last and "9/9" in last
    assert "and 2 more cells: 2 done" in last  # a low terminal: nothing is cut without a word
    assert max(map(len, drawn.splitlines())) <= 120


def test_what_is_at_work_is_shown_first_on_a_low_terminal(paths: ResultPaths) -> None:
    strategies = {f"depth-{i}": {"freeze": i} for i in range(6)}
    running, now = started(planned(strategies=strategies), paths), time.time()
    with held(paths, now - 60):
        while (trial := running.campaign.next()) is not None and trial.strategy != "depth-4":
            end(running, trial, now - 30, 1.0)
        assert trial is not None
        begin(paths, trial, now - 12)
        saved(running)
        found = look(paths, now)
    out = io.StringIO()
    Console(file=out, width=120).print(watch._table(found, 11))
    shown = re.findall(r"depth-\d", out.getvalue())
    assert {"depth-4", "depth-5"} <= set(shown) and len(shown) < 6
    assert f"one | small | depth-4 | tune {trial.trial_id[:8]}: 12 s" in out.getvalue()


def interruptible(command: list[str], stdout: int) -> subprocess.Popen[str]:
    """A command that Ctrl-C reaches, even where these tests run in the background of a shell, whose children
    ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_watching_quietly(paths: ResultPaths) -> None:
    started(planned(), paths)
    command = [sys.executable, "-m", "harness", "status", str(paths.root), "--watch", "0.1"]
    with interruptible(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        assert watching.stdout.readline().startswith("small: not done; 0 of ")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
        assert watching.stderr.read() == ""


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "small"])
def test_seconds_that_are_none_are_refused(seconds: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", "small", f"--watch={seconds}"])
    assert ended.value.code == 2
    assert "takes seconds" in capsys.readouterr().err


def test_results_that_vanish_end_watching_with_an_error(paths: ResultPaths, capsys: Any) -> None:
    started(planned(), paths)
    watcher = Watcher(paths)
    watcher.look()
    paths.plan.unlink()
    with pytest.raises(Exception, match="there is no plan here"):
        watcher.look()
    assert main(["status", str(paths.root), "--watch"]) == 2
    assert "holds no results" in capsys.readouterr().err


# -- servers ---------------------------------------------------------------------------------------


class Becomes(Exception):
    """The command that the process would have become."""


@pytest.fixture(autouse=True)
def stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def become(program: str, arguments: list[str]) -> None:
        raise Becomes(arguments[1:])

    monkeypatch.setattr(os, "execv", become)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("named", ["folder", "sweep", "parent"])
def test_tensorboard_opens_on_the_curves(paths: ResultPaths, named: str) -> None:
    started(planned(), paths).to_the_end().campaign.close()
    results = paths.root.parent
    given = {
        "folder": [str(paths.root)],
        "sweep": ["small", "--results", str(results)],
        "parent": [str(results)],
    }
    port = free_port()
    with pytest.raises(Becomes) as become:
        main(["tensorboard", *given[named], "--port", str(port)])
    (command,) = become.value.args
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options == {"--logdir": str(paths.tensorboard), "--port": str(port), "--host": "127.0.0.1"}


@pytest.mark.parametrize("verb", ["tensorboard", "dashboard", "status"])
def test_a_folder_of_several_sweeps_asks_which(paths: ResultPaths, verb: str, capsys: Any) -> None:
    started(planned(), paths)
    started(planned(), ResultPaths(paths.root.with_name("other")))
    assert main([verb, str(paths.root.parent)]) == 2
    assert "holds the results of 2 sweeps (name one of other, small)" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["tensorboard", "dashboard"])
def test_a_port_that_is_taken_is_said_before_anything_starts(
    paths: ResultPaths, verb: str, capsys: Any
) -> None:
    started(planned(search={"algorithm": "optuna", "trials": 2}), paths)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main([verb, str(paths.root), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port}: Address already in use" in said and "Traceback" not in said
    assert main([verb, str(paths.root), "--port", "70000"]) == 2
    with pytest.raises(Becomes):
        main([verb, str(paths.root), "--port", str(port)])  # free again


def test_a_sweep_without_studies_says_what_makes_them(paths: ResultPaths, capsys: Any) -> None:
    started(planned(), paths)
    assert main(["dashboard", str(paths.root)]) == 2
    assert "holds no studies of Optuna" in capsys.readouterr().err


def test_a_missing_package_says_how_to_get_it(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from importlib import metadata

    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    started(planned(search={"algorithm": "optuna", "trials": 2}), paths)
    monkeypatch.setattr(metadata, "distribution", missing)
    assert main(["dashboard", str(paths.root)]) == 2
    assert "pip install optuna-dashboard" in capsys.readouterr().err


def test_the_dashboard_shows_every_cells_study(paths: ResultPaths) -> None:
    """The real one, as the command starts it."""
    pytest.importorskip("optuna_dashboard")
    running = started(planned(search={"algorithm": "optuna", "trials": 2}), paths).to_the_end()
    running.campaign.close()
    port = free_port()
    command = [sys.executable, "-m", "harness", "dashboard", str(paths.root), "--port", str(port)]
    with interruptible(command, stdout=subprocess.DEVNULL) as server:
        try:
            assert server.stderr is not None
            assert f"http://127.0.0.1:{port}/" in server.stderr.readline()
            names = study_names(port)
        finally:
            server.send_signal(signal.SIGINT)
    assert len(names) == 2
    assert {name.split(" | ")[2] for name in names} == {"full", "top"}


def study_names(port: int) -> list[str]:
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=10) as answer:
                return [study["study_name"] for study in json.load(answer)["study_summaries"]]
        except ConnectionError:
            time.sleep(0.1)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("the dashboard does not answer")


def test_an_odd_name_does_no_harm(paths: ResultPaths, capsys: pytest.CaptureFixture[str]) -> None:
    """An escape sequence in a name does not reach the terminal."""
    started(planned(), paths)
    plan = json.loads(paths.plan.read_text())
    name = plan["tasks"][0]["name"]
    text = paths.plan.read_text().replace(json.dumps(name), json.dumps("one\x1b[31m\ntwo"))
    paths.plan.write_text(text)
    assert main(["status", str(paths.root)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "one" in said


def test_a_folder_that_cannot_be_written_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scores.csv").write_text("task,strategy,seed,score\nt,a,1,0.5\n")
    (tmp_path / "results").write_text("a file")
    code = main(
        [
            "report",
            str(tmp_path / "scores.csv"),
            "--metric",
            "accuracy",
            "--results",
            str(tmp_path / "results"),
        ]
    )
    assert code in (1, 2)
    assert "results" in capsys.readouterr().err


def test_a_score_that_is_none_makes_a_record_unreadable(paths: ResultPaths) -> None:
    running = started(planned(), paths).to_the_end()
    running.campaign.close()
    path = next(iter(sorted(paths.trials.glob("*.json"))))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "metrics": {"validation": {"accuracy": "x"}, "test": None}}))
    assert Watcher(paths).look().trials["unreadable"] == 1


def test_a_runs_own_view_goes_by_the_pace_of_each_task() -> None:
    """Trials of one task ran at 100 FLOP/s. Those of another will not: they are taken to run as this machine
    does, until some have."""
    plan = planned(tasks=TWO_TASKS)
    screen = io.StringIO()
    view = ProgressView(Console(file=screen, width=200), plan, {"fp32": 1000.0}, 2)
    owed = {load.task: flops for load, flops in work(plan).items()}
    cells = {cell.task: cell for cell in plan.cells}
    for task, rate, left in (
        ("one", 100.0, {"one": 100.0, "two": 1000.0}),
        ("two", 10.0, {"one": 100.0, "two": 10.0}),
    ):
        for seed in range(2):
            trial = plan.trial(cells[task], cells[task].space.default, seed, "tune")
            owed[task] -= trial.flops
            cost = {"flops": trial.flops, "wall_s": trial.flops / rate, "device_s": 0.0}
            view(Event("ended", trial, {**record(trial), "cost": cost}))
        wanted = sum(owed[name] / left[name] for name in owed) / 2
        assert screen.getvalue().strip().endswith(f"left {duration(wanted)}")
