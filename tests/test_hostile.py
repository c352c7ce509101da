"""A sweep file may be anybody's: whatever it holds, reading it ends in a sweep or in a clear message, at a
bounded cost, and nothing is written."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile import files
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness import cli, document, spec
from harness.errors import InputError

CPU_SECONDS = 10  # of this process, not by the clock
MEMORY = 1 << 30


@contextmanager
def bounded() -> Iterator[None]:
    """No more memory than `MEMORY` on top of what is taken, and no more of a core than `CPU_SECONDS`."""

    def late(*_: Any) -> None:
        raise AssertionError(f"took more than {CPU_SECONDS} s of a core")

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, before[1]))
    # Again and again: what is raised inside a callback of C is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGVTALRM, handler)


def outcome(folder: Path, content: bytes, *assignments: str) -> str:
    """What reading a file comes to: a message, or nothing if it is a sweep."""
    path = folder / "sweep.yaml"
    path.write_bytes(content)
    there = sorted(folder.rglob("*"))
    with bounded():
        try:
            sweep = spec.load(path, assignments)
        except InputError as error:
            assert str(error).strip()
            for mistake in error.mistakes:
                assert len(str(mistake)) < 50_000
                assert "object at 0x" not in str(mistake)
            told = [part for assignment in assignments for part in ("--set", assignment)]
            assert cli.main(["plan", str(path), *told]) == 2
            return str(error)
        finally:
            assert sorted(folder.rglob("*")) == there
        # What is written beside the results is the same sweep once more.
        kept = document.dump(spec.resolved(sweep))
    path.write_bytes(kept.encode())
    assert spec.resolved(spec.load(path)) == spec.resolved(sweep)
    return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "a.csv").write_text("text,label\nx,0\ny,1\n")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def hunt(folder: Path, examples: int, first: int) -> None:
    @seed(first)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a slow file shrinks for hours
    )  # fmt: skip
    @given(files(folder / "a.csv"))
    def read(content: bytes) -> None:
        outcome(folder, content)

    read()


def test_two_hundred_hostile_files(folder: Path) -> None:
    hunt(folder, 200, first=0)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_hostile_files(folder: Path, part: int) -> None:
    hunt(folder, 1000, first=1 + part)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.text(max_size=30) | st.sampled_from(["name=\udcff", "a.\udcff=1", "name='a\0'"]), max_size=3)
)
def test_hostile_assignments(folder: Path, assignments: list[str]) -> None:
    from hostile import valid

    outcome(folder, document.dump(valid(folder / "a.csv")).encode(), *(f"x{text}" for text in assignments))


def test_the_file_that_is_broken_here_is_itself_a_sweep(folder: Path) -> None:
    from hostile import valid

    assert outcome(folder, document.dump(valid(folder / "a.csv")).encode()) == ""


def minimal(**changes: Any) -> bytes:
    content = {
        "name": "x",
        "tasks": ["bbc-topics"],
        "backbones": ["minilm-l6"],
        "strategies": {"full": {"freeze": 0}},
    }
    return document.dump({**content, **changes}).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'name: "\\ud800"\n', "holds the character '\\ud800', which no file can hold"),
        (b'name: x\nstrategies: {"a\\0b": {freeze: 0}}\n', "holds the character '\\x00'"),
        (b"name: x\n# " + b"x" * 1_000_000, "is longer than 1000000 bytes"),
        (b"\xff\xfe", "cannot be read"),
        (minimal(name="../x"), "name: takes letters"),
        (minimal(name="x" * 65), "name: takes letters"),
        (minimal(tasks=[{"use": "bbc-topics", "name": "../x"}]), "is no name"),
        (minimal(backbones=[{"use": "minilm-l6", "source": {"task": {"use": "bbc-topics", "name": "../x"}}}]),
         "source.task: '../x' is no name"),
        (minimal(tasks=[{"use": "bbc-topics", "name": "A"}, {"use": "bbc-topics", "name": "a"}]),
         "'A' and 'a' would have one folder"),
        (minimal(backbones=[{"use": "minilm-l6", "name": "a b"}, {"use": "minilm-l6", "name": "a+b"}]),
         "'a b' and 'a+b' would have one folder"),
        (minimal(tasks=[{"use": "bbc-topics", "train_size": {"each": list(range(1, 400))}}],
                 strategies={"a": {"freeze": {"each": list(range(400))}}}), "100000 is the most"),
        (minimal(tasks=["x" * 100_000]), "…"),
        (minimal(name=1, tasks=[{"name": "t", "kind": "text-classification",
                                  "dataset": {"path": "x" * 300}}]),
         "name: takes letters"),
    ],
)  # fmt: skip
def test_what_no_path_or_file_can_hold_is_refused(folder: Path, content: bytes, words: str) -> None:
    assert words in outcome(folder, content)


def test_an_endless_file_is_not_read_to_its_end(folder: Path) -> None:
    with bounded(), pytest.raises(InputError, match="is longer than 1000000 bytes"):
        spec.load(Path("/dev/zero"))


def test_a_number_of_thousands_of_digits_is_no_place_in_a_list(folder: Path) -> None:
    assert "the list has no entry" in outcome(folder, minimal(), f"tasks.{'9' * 5000}.x=1")


def test_a_working_folder_that_is_gone(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(minimal())
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        with pytest.raises(InputError, match="the working folder: cannot be used"):
            spec.load(path)
    finally:
        os.chdir(folder)


def test_a_sweep_file_may_be_a_pipe(folder: Path) -> None:
    reads, writes = os.pipe()
    os.write(writes, minimal())
    os.close(writes)
    assert spec.load(Path(f"/dev/fd/{reads}")).name == "x"
    os.close(reads)


def test_a_sweep_in_a_folder_whose_name_is_no_text_is_refused(folder: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))
    odd.mkdir()
    (odd / "sweep.yaml").write_bytes(minimal())
    with pytest.raises(InputError, match="whose name is no text"):
        spec.load(odd / "sweep.yaml")
    assert cli.main(["plan", str(odd / "sweep.yaml")]) == 2


def test_long_names_have_short_folders() -> None:
    from harness.records.paths import slug

    assert slug("mrpc [x]") == "mrpc_x_"
    first, second = slug("a" * 128), slug("a" * 127 + "b")
    assert first != second
    assert len(first) == len(second) == 100
