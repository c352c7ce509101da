"""A search whose storage is on a URI: what it has asked for is known to whoever carries on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_campaign import by_chance, ends, planned

from harness.plan import Plan
from harness.records.paths import ResultPaths, opened
from harness.records.pull import pull
from harness.records.stores import store
from harness.tuning import cell_files
from harness.tuning.campaign import Campaign


@pytest.fixture
def plan() -> Plan:
    return planned(
        strategies={"full": {"freeze": 0}},
        optimizer={"learning_rate": {"loguniform": [1e-5, 1e-3]}},
        search={"algorithm": "optuna", "trials": 6},
        seeds={"tune": 1, "confirm": 1},
    )


def begin(plan: Plan, paths: ResultPaths) -> Campaign:
    pull(paths, "optuna.db")
    return Campaign(plan, paths, lambda event: None)


def asked_there(memory: str, folder: Path) -> list[float]:
    """What the storage at the URI has been asked for."""
    path = folder / "copy.db"
    path.write_bytes(store(f"{memory}/small").read("optuna.db") or b"")
    storage = f"sqlite:///{path}"
    (name,) = optuna.get_all_study_names(storage)
    return [
        t.params["optimizer.learning_rate"]
        for t in optuna.load_study(study_name=name, storage=storage).trials
    ]


def test_what_was_asked_for_is_at_the_uri_before_its_trial_runs(
    plan: Plan, memory: str, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may die at any time: the next one hands out the same trials, wherever it runs."""
    monkeypatch.setattr(cell_files, "_SAVE_SECONDS", 3600.0)  # what is written now and then comes too late
    machine("a")
    first = begin(plan, opened(memory, "small"))
    handed = []
    for number in range(4):
        trial = first.next()
        assert trial is not None
        handed.append(trial)
        asked = asked_there(memory, tmp_path)
        assert asked == [t.hyperparameters["optimizer.learning_rate"] for t in handed], number
        if number < 2:
            ends(first, trial, by_chance(trial))
    machine("b")  # `first` has died
    again = begin(plan, opened(memory, "small"))
    assert [again.next(), again.next()] == handed[2:]


def test_a_storage_that_is_older_than_what_its_cell_lists_asks_for_that_first(
    plan: Plan, memory: str, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_files, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(cell_files, "_SAVE_SHARE", 0)
    machine("a")
    there, first = store(f"{memory}/small"), begin(plan, opened(memory, "small"))
    handed, old = [first.next()], there.read("optuna.db")
    assert old is not None
    handed += [first.next() for _ in range(3)]
    there.write("optuna.db", old)
    machine("b")
    again = begin(plan, opened(memory, "small"))
    assert [again.next() for _ in range(4)] == handed
    rest = [again.next() for _ in range(2)]
    assert None not in rest and again.next() is None  # the budget is what it was
    assert len(asked_there(memory, tmp_path)) == 6


KILLED = """
import os, signal, sqlite3, sys
base = sqlite3.connect(sys.argv[1])
base.execute("PRAGMA cache_size = 1")
base.execute("UPDATE trials SET number = -1")
base.executemany("INSERT INTO trials VALUES (?, ?)", [(n, "x" * 500) for n in range(2000)])
os.kill(os.getpid(), signal.SIGKILL)  # in the midst of a transaction
"""


def rows(path: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA quick_check").fetchone() == ("ok",)
        return base.execute("SELECT number FROM trials ORDER BY number").fetchall()


def test_a_journal_that_was_left_here_is_not_applied_to_the_database_that_is_fetched(
    memory: str, machine: Any
) -> None:
    from harness.records import remote

    machine("a")
    paths = opened(memory, "small")
    paths.root.mkdir(parents=True)
    with closing(sqlite3.connect(paths.studies)) as base:
        base.execute("CREATE TABLE trials (number int, text)")
        base.execute("INSERT INTO trials VALUES (1, '')")
        base.commit()
    remote.push_database(paths.studies)
    done = subprocess.run([sys.executable, "-c", KILLED, str(paths.studies)])
    assert done.returncode == -signal.SIGKILL
    assert paths.studies.with_name("optuna.db-journal").stat().st_size > 0
    machine("b")
    other = opened(memory, "small")
    pull(other, "optuna.db")
    with closing(sqlite3.connect(other.studies)) as base:
        base.executemany("INSERT INTO trials VALUES (?, ?)", [(n, "y" * 3000) for n in range(2, 60)])
        base.commit()
    remote.push_database(other.studies)
    machine("a")
    pull(paths, "optuna.db")
    assert rows(paths.studies) == rows(other.studies) == [(n,) for n in range(1, 60)]
    assert os.listdir(paths.root) == ["optuna.db"]  # noqa: PTH208
