"""Faults where results are on a URI: of a machine's copy, which is fetched again, and of what the URI holds,
which is set aside there. In memory, where machines are folders of one process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_integrity import Sweep, definition, results

from harness.cli import main
from harness.records import quarantine, remote
from harness.records.paths import ResultPaths, opened, write_text
from harness.records.record import read_record
from harness.records.seal import read_sealed, unsealed, write_sealed
from harness.records.sound import sound
from harness.records.stores import Store, store
from harness.training.checkpoint import Checkpoints, Progress
from harness.tuning import recorded

TUNED = {"tune": [1, 2, 3] * 20}


def spoil(path: Path) -> None:
    """Flip a bit; size and time of change stay, as when a disk does it."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def spoil_there(there: Store, key: str) -> None:
    content = bytearray(there.read(key) or b"")
    content[len(content) // 2] ^= 0x04
    there.write(key, bytes(content))


def there_of(paths: ResultPaths) -> Store:
    found = remote.mirror(paths.root)
    assert found is not None
    return found[0].store


# -- one file ----------------------------------------------------------------------------------------------


def test_a_damaged_copy_is_fetched_again_and_what_the_uri_holds_stays(memory: str, machine: Any) -> None:
    machine("a")
    paths = opened(memory, "small")
    write_sealed(paths.cell("c"), TUNED)
    Checkpoints(paths, "t", 0).save(Progress(steps=3), {"w": None})
    for path in (paths.cell("c"), paths.checkpoint("t")):
        spoil(path)
    before = there_of(paths).listed("")
    with pytest.raises(ValueError):
        read_sealed(paths.cell("c"))
    found = quarantine.read_or_set_aside(paths, paths.cell("c"), read_sealed, "written again")
    assert found == TUNED == read_sealed(paths.cell("c"))
    checkpoints = Checkpoints(paths, "t", 0)
    loaded = checkpoints.load()
    assert loaded is not None and loaded[0].steps == 3 and checkpoints.remarks == []
    assert there_of(paths).listed("") == before and quarantine.remarks(paths) == []


def test_what_the_uri_holds_is_set_aside_there_if_it_is_damaged_itself(memory: str, machine: Any) -> None:
    machine("a")
    paths = opened(memory, "small")
    write_sealed(paths.cell("c"), TUNED)
    there = there_of(paths)
    spoil_there(there, "cells/c.json")
    content = there.read("cells/c.json")
    assert quarantine.read_or_set_aside(paths, paths.cell("c"), read_sealed, "") == TUNED
    machine("b")
    other = opened(memory, "small")
    remote.latest(other.cell("c"))
    assert quarantine.read_or_set_aside(other, other.cell("c"), read_sealed, "written again") is None
    assert there.version("cells/c.json") is None and not other.cell("c").exists()
    assert there.read("quarantine/c.json.1") == content
    # another machine, which does not have the first one here, does not write over it
    machine("c")
    third = opened(memory, "small")
    write_text(third.cell("c"), "{")
    assert quarantine.read_or_set_aside(third, third.cell("c"), read_sealed, "") is None
    assert there.read("quarantine/c.json.1") == content and there.read("quarantine/c.json.2") == b"{"


def test_a_copy_of_what_is_not_there_any_more_is_set_aside(memory: str, machine: Any) -> None:
    machine("a")
    paths = opened(memory, "small")
    write_sealed(paths.cell("c"), TUNED)
    there_of(paths).remove("cells/c.json")
    spoil(paths.cell("c"))
    assert quarantine.read_or_set_aside(paths, paths.cell("c"), read_sealed, "") is None
    assert not paths.cell("c").exists() and len(quarantine.remarks(paths)) == 1


@pytest.mark.parametrize("where", ["here", "there"])
def test_the_weights_of_a_source_are_fetched_again_or_set_aside_as_a_whole(
    memory: str, machine: Any, where: str
) -> None:
    from harness.cache import seal

    machine("a")
    paths = opened(memory, "small")
    folder = paths.source("s")
    (folder / "sub").mkdir(parents=True)
    for name in ("weights", "sub/more"):
        (folder / name).write_bytes(bytes(1000))
    seal(folder)
    remote.push_folder(folder)
    if where == "there":
        spoil_there(there_of(paths), "sources/s/weights")
        machine("b")
        paths = opened(memory, "small")
        remote.latest_folder(paths.source("s"))
    else:
        spoil(folder / "weights")
    whole = recorded.source_whole(paths, "s")
    left = {key for key in there_of(paths).listed("sources") if ".lock" not in key}
    if where == "here":
        assert whole and (folder / "weights").read_bytes() == bytes(1000) and len(left) == 3
        assert quarantine.remarks(paths) == []
    else:
        assert not whole and not left and not paths.source("s").exists()
        kept = set(there_of(paths).listed("quarantine/s.1"))
        assert kept == {f"quarantine/s.1/{name}" for name in ("weights", "sub/more", ".checksums")}


# -- notes -------------------------------------------------------------------------------------------------


def test_what_several_machines_note_is_all_there_and_seen_by_another(
    memory: str, machine: Any, sweep: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    machine("a")
    assert main(["run", str(sweep(seeds={"tune": 1, "confirm": 0})), "--local", "--results", memory]) == 0
    for name in "abc":
        machine(name)
        monkeypatch.setattr(quarantine, "_NAME", f"host.{name}")  # as of another process
        paths = opened(memory, "small")
        for number in range(2):
            quarantine.remark(paths, paths.cell(f"{name}{number}"), "its checksum is not that of its content")
    machine("d")
    capsys.readouterr()
    assert main(["status", f"{memory}/small", "--json"]) == 0
    damaged = json.loads(capsys.readouterr().out)["damaged"]
    assert [said.partition(":")[0] for said in damaged] == [
        f"cells/{name}{number}.json" for name in "abc" for number in range(2)
    ]
    assert main(["status", f"{memory}/small"]) == 0
    said = capsys.readouterr().out
    assert "damaged: cells/a0.json: its checksum" in said and "and 1 more" in said
    machine("e")
    assert main(["run", str(sweep(seeds={"tune": 1, "confirm": 0})), "--local", "--results", memory]) == 0
    assert "damaged:" not in capsys.readouterr().err, "what was noted before is not told again"
    machine("f")
    assert main(["report", f"{memory}/small"]) == 0
    report = Path(next(Path(os.environ["HARNESS_CACHE"]).glob("results/*/report.md"))).read_text()
    assert "cells/c1.json" in report


def test_notes_of_before_every_process_had_its_own_are_read(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path)
    paths.quarantine.mkdir()
    old = {"file": "cells/a.json", "reason": "damaged", "kept": None}
    (paths.quarantine / "notes.jsonl").write_text(json.dumps(old) + "\nhalf a li")
    quarantine.remark(paths, paths.cell("b"), "damaged, too")
    assert [found["file"] for found in quarantine.remarks(paths)] == ["cells/a.json", "cells/b.json"]


# -- a whole sweep -----------------------------------------------------------------------------------------


class Remote(Sweep):
    """A sweep whose results are in memory, run by one machine after the other."""

    def __init__(self, folder: Path, content: dict[str, Any], uri: str) -> None:
        super().__init__(folder, content)
        self.uri = uri

    def on(self, machine: Callable[[str], Path], name: str) -> ResultPaths:
        machine(name)
        self.paths = opened(self.uri, "small")
        return self.paths

    @property
    def there(self) -> Store:
        return store(f"{self.uri}/small")

    def everything(self) -> dict[str, Any]:
        texts = {key: (self.there.read(key) or b"").decode() for key in self.there.listed("trials")}
        return {key: results(unsealed(text)) for key, text in texts.items()}


@pytest.fixture
def small(models: Any, words_csv: Path, tmp_path: Path, memory: str, machine: Any) -> Remote:
    """Run by the machine a."""
    made = Remote(tmp_path, definition(models, words_csv), memory)
    made.on(machine, "a")
    made.run()
    return made


def test_a_run_whose_machine_has_damaged_copies_runs_nothing_again(small: Remote, machine: Any) -> None:
    before, listed = small.everything(), small.there.listed("")
    paths = small.paths
    index = next(paths.index.glob("*.parquet"))
    for path in (
        next(paths.trials.glob("*.json")), next(paths.cells.glob("*.json")), paths.plan, paths.sweep, index,
        next(paths.root.glob("predictions/*.parquet")),
    ):  # fmt: skip
        spoil(path)
    with paths.studies.open("r+b") as file:  # SQLite's own header
        file.write(b"no database at all")
    small.run()
    assert small.remarks() == [] and not small.there.listed("quarantine")
    after = small.there.listed("")
    for folder in ("trials", "predictions", "records"):
        mine = {key for key in listed if key.startswith(folder)}
        assert {key: after[key] for key in mine} == {key: listed[key] for key in mine}
    assert small.everything() == before


def test_what_is_damaged_at_the_uri_is_made_again_by_whichever_machine_runs(
    small: Remote, machine: Any
) -> None:
    before = small.everything()
    confirm = next(
        record for path in small.paths.trials.glob("*.json")
        if (record := read_record(path)) is not None and record["phase"] == "confirm"
    )  # fmt: skip
    tune = next(key for key in small.there.listed("trials") if confirm["trial_id"] not in key)
    harmed = [tune, f"predictions/{confirm['trial_id']}.parquet", *small.there.listed("cells")]
    for key in harmed:
        spoil_there(small.there, key)
    small.on(machine, "b")
    small.run()
    assert small.everything() == before
    assert {found["file"] for found in quarantine.remarks(small.paths)} == set(harmed)
    for key in harmed:
        assert small.there.version(f"quarantine/{Path(key).name}.1") is not None
    small.on(machine, "c")
    small.run()
    assert small.everything() == before and len(quarantine.remarks(small.paths)) == len(harmed)


def test_predictions_that_are_missing_at_the_uri_are_made_again(small: Remote, machine: Any) -> None:
    before = small.everything()
    (key, *_) = small.there.listed("predictions")
    for name in ("a", "b"):  # with a copy here, and without
        small.there.remove(key)
        paths = small.on(machine, name)
        small.run()
        assert small.everything() == before and small.there.version(key) is not None
        trial = read_record(paths.trial(Path(key).stem))
        assert trial is not None
        assert recorded.predictions_whole(paths, trial)


def test_a_sound_file_is_read_once(memory: str, machine: Any) -> None:
    machine("a")
    paths = opened(memory, "small")
    write_text(paths.cell("c"), "text")
    reads: list[Path] = []
    assert sound(paths.cell("c"), lambda path: reads.append(path) or path.read_text()) == "text"  # type: ignore[func-returns-value]
    assert len(reads) == 1
