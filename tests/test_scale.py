"""Large sweeps: what a trial costs the driver does not grow with their number. Counts, not seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from test_campaign import Run, by_chance, cells, planned, record

from harness import plan as planning
from harness.analysis.study import load_study
from harness.outline import as_dict, count, predicted
from harness.plan import Plan
from harness.records import index
from harness.records import paths as records_paths
from harness.records.paths import ResultPaths, write_json
from harness.records.record import read_record, write_record
from harness.tuning import cell_files, recorded
from harness.tuning.campaign import Campaign


def wide(configurations: int, **changes: Any) -> Plan:
    rates = [(i + 1) * 1e-5 for i in range(configurations)]
    changes = {"strategies": {"full": {"freeze": 0}}, "seeds": {"tune": 2, "confirm": 3}, **changes}
    return planned(optimizer={"learning_rate": {"grid": rates}}, **changes)


class Counter:
    """Counts the calls of a function and lets them through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.calls = 0
        real = getattr(module, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, counted)


@pytest.fixture
def paths(tmp_path: Path) -> ResultPaths:
    return ResultPaths(tmp_path / "results")


@pytest.mark.parametrize("configurations", [5, 40])
def test_planning_reads_each_configuration_once(monkeypatch: pytest.MonkeyPatch, configurations: int) -> None:
    """Whatever its seeds, and however often the plan is written, counted or priced."""
    parses = Counter(monkeypatch, planning, "parse")
    plan = wide(configurations, seeds={"tune": 4, "confirm": 3})
    as_dict(plan), count(plan), predicted(plan)
    # two recipes beside: one confirm trial is priced each time the plan is
    assert parses.calls == configurations + 2


def test_a_cells_file_is_not_written_for_every_trial(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Counter(monkeypatch, cell_files, "write_sealed")
    monkeypatch.setattr(cell_files, "_SAVE_SECONDS", 3600.0)
    running = Run(wide(60), paths).to_the_end()
    assert len(running.started) == 60 * 2 + 3
    # at first, when all has been handed out, when it confirms and when it is done
    assert writes.calls <= 5
    assert len(cells(paths)["one/full"]["tune"]) == 120


def test_a_cell_that_changed_is_written_once_the_time_has_come(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_files, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(cell_files, "_SAVE_SHARE", 0)
    running = Run(wide(10), paths)
    for ended in range(1, 12):
        running.step()
        listed = {entry["trial_id"] for entry in cells(paths)["one/full"]["tune"]}
        assert set(running.ids) <= listed, ended


def test_an_interrupted_campaign_leaves_its_latest_state(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_files, "_SAVE_SECONDS", 3600.0)
    running = Run(wide(10), paths, workers=3)
    for _ in range(7):
        running.step()
    running.campaign.close()
    assert set(running.ids) <= {entry["trial_id"] for entry in cells(paths)["one/full"]["tune"]}


def test_an_ended_trial_leaves_ids_and_scores_and_no_more(paths: ResultPaths) -> None:
    running = Run(wide(10), paths).to_the_end()
    [state] = running.campaign.cells
    for tried in (*state.tried, state.confirm):
        assert tried is not None
        assert all(isinstance(trial_id, str) for trial_id in tried.trials.values())
        assert all(summary.curve == () for summary in tried.ended.values())
    assert not state.queue and not running.campaign._waiting and not running.campaign._recorded


# -- the index -------------------------------------------------------------------------------------


def finished(paths: ResultPaths, monkeypatch: pytest.MonkeyPatch, batch: int = 7) -> Run:
    """A sweep of 23 trials, indexed in parts of `batch`."""
    monkeypatch.setattr(index, "BATCH", batch)
    running = Run(wide(10), paths).to_the_end()
    running.campaign.close()
    write_json(paths.plan, as_dict(running.campaign.plan))
    return running


def test_records_are_indexed_while_a_sweep_runs(paths: ResultPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BATCH", 7)
    running = Run(wide(10), paths)
    for _ in range(16):
        running.step()
    assert len(list(paths.index.glob("*.parquet"))) == 2
    left = index.stamps(paths)
    assert dict(index.covered(paths, "record", left)).keys() == set(running.ids[:14])
    assert left.keys() == set(running.ids[14:])


def test_a_covered_record_is_not_read_from_its_file(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when the sweep is resumed nor for the report; what the index says is what the files say."""
    plain = finished(paths, monkeypatch)
    texts = dict(index.covered(paths, "record", index.stamps(paths)))
    assert texts == {path.stem: path.read_text() for path in paths.trials.glob("*.json")}
    frame = load_study(paths).frame
    reads = Counter(monkeypatch, recorded, "read_record")
    again = Run(plain.campaign.plan, paths).to_the_end()
    assert (again.started, reads.calls, again.campaign.done) == ([], 0, True)
    assert len(again.events) == 23
    for part in paths.index.glob("*.parquet"):
        part.unlink()
    assert load_study(paths).frame.equals(frame)
    Run(plain.campaign.plan, paths).to_the_end()
    assert reads.calls == 23


@pytest.mark.parametrize("how", ["edited", "same size", "removed", "damaged"])
def test_a_changed_file_counts_and_not_its_row(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    done = finished(paths, monkeypatch)
    file = paths.trial(done.ids[3])
    kept = read_record(file)
    assert kept is not None
    if how == "removed":
        file.unlink()
    elif how == "damaged":
        file.write_text("{")
    else:
        kept["reason"] = "y" if how == "same size" else "edited by hand"
        if how == "same size":
            before = {**kept, "reason": "x"}
            write_record(paths, before)
            Run(done.campaign.plan, paths).campaign.close()
            assert done.ids[3] in dict(index.covered(paths, "record", index.stamps(paths)))
            stamp = file.stat().st_mtime_ns
            write_record(paths, kept)
            os.utime(file, ns=(stamp + 1_000_000, stamp + 1_000_000))
        else:
            write_record(paths, kept)
    row = load_study(paths).frame.set_index("trial_id").loc[done.ids[3]]
    if how in ("removed", "damaged"):
        assert row["status"] == ("missing" if how == "removed" else "unreadable")
        lost = [] if how == "damaged" else [done.ids[3]]  # the index has a copy of what is damaged
        assert Run(done.campaign.plan, paths).to_the_end().ids == lost
    else:
        assert row["reason"] == kept["reason"]
        assert Run(done.campaign.plan, paths).to_the_end().ids == []


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_index_is_passed_over_and_made_again(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    done = finished(paths, monkeypatch)
    frame = load_study(paths).frame
    part = sorted(paths.index.glob("*.parquet"))[0]
    whole = part.read_bytes()
    if damage == "foreign":
        frame[["trial_id"]].to_parquet(part)
    else:
        middle = len(whole) // 2
        part.write_bytes(
            {
                "empty": b"",
                "cut": whole[:middle],
                "flipped": whole[:99] + bytes(255 - byte for byte in whole[99:middle]) + whole[middle:],
            }[damage]
        )
    assert load_study(paths).frame.equals(frame)
    again = Run(done.campaign.plan, paths).to_the_end()
    again.campaign.close()
    assert again.started == []
    left = index.stamps(paths)
    assert len(list(index.covered(paths, "brief", left))) == 23 and left == {}


def test_a_driver_that_is_killed_loses_no_record_that_was_not_indexed(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "BATCH", 7)
    running = Run(wide(10), paths)
    for _ in range(12):
        running.step()
    last = Run(wide(10), paths).to_the_end()
    assert not set(last.ids) & set(running.ids) and len(last.ids) + len(running.ids) == 23


def test_a_part_that_cannot_be_written_whole_is_not_there(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    running = Run(wide(3), paths).to_the_end()
    monkeypatch.setattr(records_paths.os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        running.campaign.close()
    assert list(paths.index.iterdir()) == []


def test_a_failed_record_is_tried_again_though_it_is_indexed(
    paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "BATCH", 4)
    plan = wide(5)
    broken = next(iter(plan.planned())).trial_id
    first = Run(plan, paths, lambda t: record(t, None, "failed") if t.trial_id == broken else by_chance(t))
    first.to_the_end().campaign.close()
    again = Run(plan, paths, lambda t: record(t, -1.0)).to_the_end()
    assert again.ids == [broken]
    again.campaign.close()
    assert Run(plan, paths).to_the_end().ids == []


def test_an_index_of_nothing_is_no_folder(paths: ResultPaths) -> None:
    Campaign(wide(2), paths, lambda event: None).close()
    assert not paths.index.exists()
