"""Nothing damaged is believed, and nothing whole is lost: faults put into the files of a real sweep."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import word_task

from harness import cache, spec
from harness.analysis.study import load_study
from harness.cli import main
from harness.plan import Plan, make_plan
from harness.records import provenance, quarantine
from harness.records.paths import ResultPaths, write_json
from harness.records.record import read_record, read_records, write_record
from harness.records.seal import sealed, unsealed, write_sealed
from harness.status import Watcher
from harness.training import prefix
from harness.training.checkpoint import Checkpoints, Progress
from harness.training.run import run_trial
from harness.training.workspace import Workspace, workspace_of
from harness.tuning.launcher import launch, preflight

FAULTS = ("half", "empty", "flipped", "gone")


def harm(path: Path, how: str, at: float = 0.5) -> None:
    """Injure a file; `at` is the place of the byte that is flipped, as a part of the file."""
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flipped":
        content[int(at * (len(content) - 1))] ^= 0x04
    kept = {"half": content[: len(content) // 2], "empty": b"", "flipped": content}[how]
    path.write_bytes(kept)


def results(record: Any) -> dict[str, Any]:
    """A record without what differs between two runs of the same trial."""
    kept = {name: value for name, value in record.items() if name not in ("cost", "attempts", "provenance")}
    return {**kept, "notes": [], "predictions": record["predictions"] is not None}


def everything(paths: ResultPaths) -> dict[str, Any]:
    return {record["trial_id"]: results(record) for record in read_records(paths)}


class Sweep:
    """A small sweep and its results, with a cache of its own."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder, self.file = folder, folder / "sweep.yaml"
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))
        self.paths = ResultPaths(folder / "results" / content["name"])

    def plan(self) -> Plan:
        sweep = spec.load(self.file, [])
        return make_plan(sweep, preflight(sweep, self.paths, here=True))

    def run(self) -> None:
        assert launch(self.plan(), self.paths, None, lambda event: None).done

    def remarks(self) -> list[str]:
        return [found["file"] for found in quarantine.remarks(self.paths)]


def definition(models: Any, words_csv: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "backbones": [{"name": "tiny", "path": str(models("bert"))}],
        "tasks": [word_task(words_csv)],
        "training": {"epochs": 2, "batch_size": 16, "max_length": 16},
        "optimizer": {"learning_rate": {"loguniform": [1e-3, 1e-2]}},
        "strategies": {"full": {"freeze": 0}, "head-only": {"freeze": "all"}},
        "search": {"algorithm": "optuna", "trials": 2},
        "seeds": {"tune": 1, "confirm": 2},
        "resources": {"share": False},  # bundles round otherwise than trials that are run again one by one
        **changes,
    }


@pytest.fixture(scope="module")
def content(models: Any, words_csv: Path) -> dict[str, Any]:
    return definition(models, words_csv)


@pytest.fixture(scope="module")
def whole(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """A sweep that nothing has disturbed. To be copied."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.CACHE_VARIABLE, str(folder / "cache"))
        made = Sweep(folder, content)
        made.run()
    assert len(everything(made.paths)) == 8 and made.remarks() == []
    yield made


@pytest.fixture
def copied(whole: Sweep, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    shutil.copytree(whole.folder, tmp_path / "copy")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "copy" / "cache"))
    return Sweep(tmp_path / "copy", content)


def targets(paths: ResultPaths) -> dict[str, Path]:
    """A file of each kind that a finished sweep leaves, each of another trial."""
    tune, confirm = ([r for r in read_records(paths) if r["phase"] == phase] for phase in ("tune", "confirm"))
    encoded = sorted((paths.root.parents[1] / "cache" / "encoded").rglob("*.arrow"))
    return {
        "record": paths.trial(tune[0]["trial_id"]),
        "confirm record": paths.trial(confirm[0]["trial_id"]),
        "predictions": paths.predictions(confirm[-1]["trial_id"]),
        "index": next(paths.index.glob("*.parquet")),
        "cell": next(paths.cells.glob("*.json")),
        "plan": paths.plan,
        "sweep": paths.sweep,
        "storage": paths.root / "optuna.db",
        "encoded": encoded[0],
        "list": encoded[0].parent / ".checksums",
    }


# Without its plan a folder is known by sweep.yaml, without its storage a search by its cells.
TOGETHER = (
    ("record", "confirm record", "predictions", "index", "cell", "plan", "encoded"),
    ("sweep", "storage", "list"),
)


@pytest.mark.parametrize("kinds", TOGETHER)
@pytest.mark.parametrize("how", FAULTS)
def test_a_damaged_file_is_found_set_aside_and_made_again(
    whole: Sweep, copied: Sweep, how: str, kinds: tuple[str, ...]
) -> None:
    harmed = {kind: path for kind, path in targets(copied.paths).items() if kind in kinds}
    kept = {path: path.read_bytes() for path in copied.paths.trials.glob("*.json")}
    for path in harmed.values():
        harm(path, how)
    if "plan" not in kinds:
        load_study(copied.paths)  # does not crash, whatever it meets
    copied.run()
    assert everything(copied.paths) == everything(whole.paths)
    anew = {path.stem for path in harmed.values()}  # a record is written again with its predictions
    assert all(path.stem in anew or path.read_bytes() == text for path, text in kept.items())
    if how != "gone":
        named = "\n".join(copied.remarks())
        for kind, path in harmed.items():
            # of the cache the folder is named; a bit may fall where SQLite keeps nothing
            unnamed = kind in ("encoded", "list") or (kind, how) == ("storage", "flipped")
            assert unnamed or path.name in named, (kind, named)
    study = load_study(copied.paths)
    assert study.unreadable == () and set(study.frame["status"]) == {"finished"}
    copied.run()
    assert everything(copied.paths) == everything(whole.paths)


def test_the_search_goes_on_as_if_its_storage_had_not_been_lost(whole: Sweep, copied: Sweep) -> None:
    import optuna

    def trials(paths: ResultPaths) -> dict[str, Any]:
        storage = f"sqlite:///{paths.root / 'optuna.db'}"
        return {
            name: [
                (t.params, t.value, t.state)
                for t in optuna.load_study(study_name=name, storage=storage).trials
            ]
            for name in optuna.get_all_study_names(storage)
        }

    (copied.paths.root / "optuna.db").unlink()
    copied.run()
    assert trials(copied.paths) == trials(whole.paths)


@pytest.mark.parametrize("table, column", [("trial_values", "value"), ("trial_params", "param_value")])
def test_a_number_in_a_sound_storage_that_is_not_what_was_written_is_found(
    whole: Sweep, copied: Sweep, table: str, column: str
) -> None:
    import sqlite3

    with sqlite3.connect(copied.paths.root / "optuna.db") as base:
        base.execute(f"UPDATE {table} SET {column} = {column} + 0.001 WHERE rowid = 1")
    base.close()
    copied.run()
    assert copied.remarks() == ["optuna.db"] and everything(copied.paths) == everything(whole.paths)


def test_the_report_names_what_is_damaged_and_the_run_says_it(copied: Sweep, capsys: Any) -> None:
    found = targets(copied.paths)
    given = [str(copied.file), "--results", str(copied.paths.root.parent)]
    for path in copied.paths.index.glob("*.parquet"):
        path.unlink()
    score = found["record"].read_text()
    found["record"].write_text(score.replace('"accuracy": 0.', '"accuracy": 1.', 1))
    assert found["record"].read_text() != score
    harm(found["predictions"], "flipped", 0.2)
    assert main(["report", str(copied.paths.root)]) == 0
    report = copied.paths.report_md.read_text()
    assert f"trials/{found['record'].name}" in report and f"predictions/{found['predictions'].name}" in report
    assert not copied.paths.quarantine.exists(), "reading changes nothing"
    assert main(["run", *given, "--local"]) == 0
    said = capsys.readouterr().err
    assert f"damaged: trials/{found['record'].name}: no record: its checksum" in said
    assert f"kept as quarantine/{found['predictions'].name}.1" in said
    assert f"trials/{found['record'].name}" in copied.paths.report_md.read_text()


# -- sealed JSON ------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_record_is_found_or_changes_nothing(whole: Sweep) -> None:
    path = targets(whole.paths)["record"]
    text, value = path.read_bytes(), read_record(path)
    for place in range(len(text)):
        flipped = text[:place] + bytes([text[place] ^ 0x01]) + text[place + 1 :]
        try:
            found = unsealed(flipped.decode())
        except ValueError:
            continue
        assert {k: v for k, v in found.items() if k in value} == value, text[place - 20 : place + 20]


def test_a_sealed_text_is_plain_json_and_may_be_laid_out_anew() -> None:
    value = {"a": [1, {"b": 0.1}], "z": {}}
    text = sealed(value)
    assert unsealed(text) == value
    with pytest.raises(ValueError, match="checksum"):
        unsealed(text.replace("0.1", "0.2"))
    anew = json.dumps(json.loads(text), indent=4)
    assert unsealed(anew) == value
    with pytest.raises(ValueError, match="checksum"):
        unsealed(anew.replace("0.1", "0.2"))


def test_a_record_of_before_there_were_checksums_counts(whole: Sweep, tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    (record, *_) = read_records(whole.paths)
    write_json(paths.trial(record["trial_id"]), record)
    assert read_record(paths.trial(record["trial_id"])) == record


# -- checkpoints -------------------------------------------------------------------------------------


def saved(paths: ResultPaths, **options: Any) -> Checkpoints:
    checkpoints = Checkpoints(paths, "a1", 0, **options)
    checkpoints.save(Progress(steps=3), {"model": {"w": torch.arange(5000.0)}})
    return checkpoints


@pytest.mark.parametrize(
    "how, at", [("half", 0), ("empty", 0), ("flipped", 0.1), ("flipped", 0.5), ("flipped", 0.9)]
)
def test_a_damaged_checkpoint_is_set_aside_and_the_trial_begins_anew(
    how: str, at: float, tmp_path: Path
) -> None:
    paths = ResultPaths(tmp_path)
    sound = saved(paths).load()
    assert (
        sound is not None
        and sound[0].steps == 3
        and torch.equal(sound[1]["model"]["w"], torch.arange(5000.0))
    )
    harm(paths.checkpoint("a1"), how, at)
    checkpoints = Checkpoints(paths, "a1", 0)
    assert checkpoints.load() is None and "began anew" in checkpoints.remarks[0]
    assert not paths.checkpoint("a1").exists()
    assert [found["kept"] for found in quarantine.remarks(paths)] == ["quarantine/a1.pt.1"]


def test_checkpoints_beyond_the_cap_are_not_written_and_a_note_says_so(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    full = saved(paths, most=10_000)
    assert not paths.checkpoint("a1").exists() and "checkpoint_gb" in full.remarks[0]
    saved(paths, most=30_000)
    assert paths.checkpoint("a1").exists()


def test_checkpoints_that_nobody_needs_are_removed(copied: Sweep) -> None:
    (record, *_) = read_records(copied.paths)
    for name in (f"{record['trial_id']}.pt", "never-planned.pt", f".{record['trial_id']}.pt.1.2"):
        path = copied.paths.checkpoint("x").with_name(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"state")
    copied.run()
    assert list(copied.paths.checkpoint("x").parent.iterdir()) == []


# -- what frozen rungs give, and a source's weights ---------------------------------------------------


@pytest.mark.parametrize("name", ["values.bin", "index.npy", "leaves.json", "cuts.json", ".checksums"])
@pytest.mark.parametrize(
    "how", ["flipped", "gone", *(pytest.param(how, marks=pytest.mark.chaos) for how in ("half", "empty"))]
)
def test_a_damaged_store_is_built_again(shared: tuple[Sweep, Plan, Any], name: str, how: str) -> None:
    sweep, plan, sound = shared
    workspace = workspace_of(plan, sweep.paths.root)
    folder = prefix.folder_of(workspace, prefix.Where(*next(iter(workspace.passes))))
    harmed = sorted(folder.rglob(name))
    assert harmed
    for path in harmed:
        harm(path, how)
    assert results(trained(plan, workspace)) == sound


@pytest.fixture(scope="module")
def shared(
    models: Any, words_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sweep, Plan, Any]]:
    """A plan that shares a frozen prefix, and what its first trial comes to."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.CACHE_VARIABLE, str(folder / "cache"))
        strategies = {"head-only": {"freeze": "all"}}
        made = Sweep(folder, definition(models, words_csv, strategies=strategies, resources={"share": True}))
        plan = made.plan()
        record = trained(plan, workspace_of(plan, made.paths.root))
        assert record["sharing"]["stored"] == [4]
        yield made, plan, results(record)


def trained(plan: Plan, workspace: Workspace) -> Any:
    trial = plan.trial(plan.cells[0], plan.cells[0].space.default, 0, "tune")
    run = run_trial(trial.as_dict(), workspace)
    while True:
        try:
            next(run)
        except StopIteration as ended:
            return ended.value


@pytest.mark.parametrize("cached", [pytest.param(True, marks=pytest.mark.chaos), False])
def test_a_source_whose_weights_are_damaged_comes_from_the_cache_or_is_trained_again(
    models: Any, words_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    source = {"task": word_task(words_csv, "groups"), "training": {"epochs": 1}}
    backbone = {"name": "tiny", "path": str(models("bert")), "source": source}
    changes = {"strategies": {"full": {"freeze": 0}}, "search": {"algorithm": "optuna", "trials": 1}}
    sweep = Sweep(tmp_path, definition(models, words_csv, backbones=[backbone], **changes))
    sweep.run()
    before = everything(sweep.paths)
    confirm = next(r for r in read_records(sweep.paths) if r["phase"] == "confirm")
    sweep.paths.trial(confirm["trial_id"]).unlink()  # so that something is owed
    (weights,) = sweep.paths.root.glob("sources/*/*.safetensors")
    harmed = [weights] if cached else [weights, *(tmp_path / "cache").glob("sources/*/model/*.safetensors")]
    assert len(harmed) == (1 if cached else 2)
    for path in harmed:
        harm(path, "flipped", 0.9)
    sweep.run()
    after = everything(sweep.paths)
    for record in (*before.values(), *after.values()):
        record["predictions"] = None  # those of a source stay with the sweep that trained it
    assert after == before and len(sweep.remarks()) == len(harmed)


# -- clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2099])
def test_no_order_depends_on_the_clock(whole: Sweep, copied: Sweep, year: int) -> None:
    """Files of another time count as they are, and views of the sweep stay sane."""
    seconds = (year - 1970) * 31_556_952.0 + 1
    for path in copied.paths.root.rglob("*"):
        os.utime(path, (seconds, seconds))
    before = load_study(whole.paths).frame.drop(columns=["wall_s", "device_s"])
    copied.run()
    assert copied.remarks() == [] and everything(copied.paths) == everything(whole.paths)
    assert load_study(copied.paths).frame.drop(columns=["wall_s", "device_s"]).equals(before)
    (copied.paths.root / ".lock.owner").write_text(
        json.dumps({"pid": os.getpid(), "host": os.uname().nodename})
    )
    for now in (None, 0.0, 5e9):
        seen = Watcher(copied.paths).look(now).as_dict()
        assert seen["planned"] == 8 and all(run["seconds"] >= 0 for run in seen["running"])
        assert seen["seconds_left"] is None or min(seen["seconds_left"]) >= 0


# -- versions ----------------------------------------------------------------------------------------


def test_other_versions_are_named_and_refused_when_strict(copied: Sweep, capsys: Any) -> None:
    given = ["run", str(copied.file), "--results", str(copied.paths.root.parent), "--local"]
    plan = unsealed(copied.paths.plan.read_text())
    assert len(plan["made_by"]) == 1
    plan["made_by"][0]["versions"]["torch"] = "1.0.0"
    plan["made_by"][0]["code"] = {"harness": "0" * 16}
    write_sealed(copied.paths.plan, plan)
    (record, *_) = read_records(copied.paths)
    record["provenance"]["versions"]["torch"] = "1.0.0"
    write_record(copied.paths, record)
    capsys.readouterr()
    assert main([*given, "--strict"]) == 2
    said = capsys.readouterr().err
    assert f"torch: not as in the run before: was 1.0.0, now {torch.__version__.partition('+')[0]}" in said
    assert "source of harness" in said
    assert unsealed(copied.paths.plan.read_text()) == plan, "nothing was run"
    assert main(given) == 0
    assert "not as in the run before: torch was 1.0.0" in capsys.readouterr().err
    assert len(unsealed(copied.paths.plan.read_text())["made_by"]) == 2
    assert "1 cell(s) hold records of different versions" in copied.paths.report_md.read_text()
    assert provenance.changes(copied.paths) == [], "a strict run would go on"


# -- for minutes -------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "how, at", [("half", 0), ("empty", 0), *(("flipped", i / 10) for i in range(11)), ("gone", 0)]
)
def test_each_kind_of_file_by_itself(whole: Sweep, copied: Sweep, how: str, at: float) -> None:
    saved = copied.folder.with_name("saved")
    shutil.copytree(copied.folder, saved)
    for kind in targets(copied.paths):
        shutil.rmtree(copied.folder)
        shutil.copytree(saved, copied.folder)
        harm(targets(copied.paths)[kind], how, at)
        copied.run()
        assert everything(copied.paths) == everything(whole.paths), kind


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_of_random_files(whole: Sweep, copied: Sweep, seed: int) -> None:
    rng = random.Random(seed)
    saved = copied.folder.with_name("saved")
    shutil.copytree(copied.folder, saved)
    for _ in range(5):
        shutil.rmtree(copied.folder)
        shutil.copytree(saved, copied.folder)
        roots = (copied.paths.root, copied.folder / "cache")
        files = sorted(p for root in roots for p in root.rglob("*") if p.is_file() and p.stat().st_size)
        path = rng.choice(files)
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        copied.run()
        assert everything(copied.paths) == everything(whole.paths), (path, place)
        assert set(load_study(copied.paths).frame["status"]) == {"finished"}, (path, place)
