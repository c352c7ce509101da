"""The registry: one file per addition, and a fault in such a file is never silent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from harness import registry
from harness.errors import InputError
from harness.metrics.base import Metric
from harness.optimizers.base import Optimizer
from harness.registry import PLUGINS_VARIABLE, Plugin, PluginError, build, find, plugins
from harness.regularizers.base import Regularizer

L1 = """
from typing import ClassVar
from harness.regularizers.base import Regularizer

class {cls}(Regularizer):
    name: ClassVar[str] = "{name}"
    strength: float = {strength}

    def bind(self, weights):
        raise NotImplementedError
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`mine(text, file=…, folder=…)`: a user's regulariser file, in folders that HARNESS_PLUGINS lists."""

    def write(text: str, file: str = "own.py", folder: str = "mine") -> Path:
        path = tmp_path / folder / "regularizers" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        folders = sorted(str(found) for found in tmp_path.iterdir())
        monkeypatch.setenv(PLUGINS_VARIABLE, os.pathsep.join(folders))
        registry._plugins.cache_clear()
        return path

    yield write
    registry._plugins.cache_clear()


def test_plug_ins_are_found_by_walking_their_package() -> None:
    assert {"l2", "l2-sp"} <= set(plugins("regularizers", Regularizer))
    assert {"sgd", "adam", "adamw"} <= set(plugins("optimizers", Optimizer))


def test_a_base_class_without_a_name_is_no_plug_in() -> None:
    for kind, base in (("regularizers", Regularizer), ("metrics", Metric)):
        found = plugins(kind, base)
        assert base not in found.values()
        assert all(name == plugin.name for name, plugin in found.items())


def test_the_folder_that_the_tests_name_is_found() -> None:
    """conftest.py points HARNESS_PLUGINS at tests/plugins before anything is imported."""
    assert "fault" in plugins("regularizers", Regularizer)
    assert {"percent", "error_rate"} <= set(plugins("metrics", Metric))


def test_a_users_file_is_found_beside_the_shipped_ones(mine: Any) -> None:
    mine(L1.format(cls="L1", name="l1", strength=0.5))
    found = plugins("regularizers", Regularizer)
    assert {"l1", "l2"} <= set(found)
    assert build(found["l1"], {}, "x").model_dump()["strength"] == 0.5


def test_files_of_one_name_in_two_folders_are_both_found(mine: Any) -> None:
    mine(L1.format(cls="A", name="from-a", strength=1), folder="a")
    mine(L1.format(cls="B", name="from-b", strength=1), folder="b")
    assert {"from-a", "from-b"} <= set(plugins("regularizers", Regularizer))


def test_looking_twice_gives_the_same_class(mine: Any) -> None:
    mine(L1.format(cls="L1", name="l1", strength=1))
    first = plugins("regularizers", Regularizer)["l1"]
    registry._plugins.cache_clear()
    assert plugins("regularizers", Regularizer)["l1"] is first


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        (L1.format(cls="L1", name="l1", strength="{}[0]"), "KeyError"),
    ],
)
def test_a_broken_file_fails_loudly_by_its_name_every_time(mine: Any, text: str, reason: str) -> None:
    path = mine(text, "broken.py")
    for _ in range(2):  # a second look must not take half a module for a whole one
        with pytest.raises(PluginError, match=reason) as caught:
            plugins("regularizers", Regularizer)
        assert str(path) in str(caught.value)


def test_a_broken_file_heals_when_it_is_mended(mine: Any) -> None:
    mine("raise RuntimeError")
    with pytest.raises(PluginError):
        plugins("regularizers", Regularizer)
    mine(L1.format(cls="L1", name="l1", strength=1))
    assert "l1" in plugins("regularizers", Regularizer)


def test_two_plug_ins_of_one_name_are_refused(mine: Any) -> None:
    mine(L1.format(cls="A", name="twin", strength=1), "a.py")
    mine(L1.format(cls="B", name="twin", strength=1), "b.py")
    with pytest.raises(PluginError, match="two plug-ins of regularizers are called 'twin'"):
        plugins("regularizers", Regularizer)


def test_a_users_plug_in_cannot_replace_a_shipped_one(mine: Any) -> None:
    mine(L1.format(cls="Mine", name="l2-sp", strength=1))
    with pytest.raises(PluginError, match="'l2-sp'"):
        plugins("regularizers", Regularizer)


def test_a_folder_that_does_not_exist_is_told(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "/no/such/folder")
    registry._plugins.cache_clear()
    with pytest.raises(PluginError, match="/no/such/folder"):
        plugins("regularizers", Regularizer)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("l2sp", "did you mean 'l2-sp'?"),
        ("zzz", "valid: "),
        (None, "valid: "),
        (["l2"], "did you mean 'l2'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_valid_one(name: Any, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        find("regularizers", Regularizer, name, "regularizer.name")
    [mistake] = caught.value.mistakes
    assert mistake.place == "regularizer.name"
    assert hint in mistake.hint


class Example(Plugin):
    name: ClassVar[str] = "example"

    count: int = Field(ge=1)
    rate: float = 0.5
    pair: tuple[int, ...] = ()


def test_settings_are_checked_strictly_and_every_mistake_has_its_place() -> None:
    with pytest.raises(InputError) as caught:
        build(Example, {"count": "3", "rat": 1, "pair": [1, "x"]}, "here")
    places = {mistake.place: mistake for mistake in caught.value.mistakes}
    assert set(places) == {"here.count", "here.rat", "here.pair.1"}
    assert places["here.rat"].hint == "did you mean 'rate'?"
    assert "'3'" in places["here.count"].reason


@pytest.mark.parametrize("value", [True, "3", 2.5, None, [3], float("nan"), 10**400])
def test_a_whole_number_is_a_whole_number(value: Any) -> None:
    """No truth value, text or fraction passes for a count; 10**400 is one, and ends in no crash."""
    if value == 10**400:
        assert build(Example, {"count": value}, "x").count == value
        return
    with pytest.raises(InputError):
        build(Example, {"count": value}, "x")


def test_settings_as_a_file_writes_them_become_the_models_types() -> None:
    made = build(Example, {"count": 2, "rate": 1, "pair": [1, 2]}, "x")
    assert (made.rate, made.pair) == (1.0, (1, 2))
    assert isinstance(made.rate, float)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_setting_is_infinite(value: float) -> None:
    with pytest.raises(InputError, match="finite"):
        build(Example, {"count": 1, "rate": value}, "x")


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_mapping_is_no_settings(value: Any) -> None:
    with pytest.raises(InputError, match="takes settings"):
        build(Example, value, "x")


def test_what_json_cannot_say_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match=r"x: holds a value"):
        build(Example, {"count": {1, 2}}, "x")


def test_a_missing_setting_is_told_by_its_name() -> None:
    with pytest.raises(InputError, match=r"x\.count: is missing"):
        build(Example, {}, "x")
