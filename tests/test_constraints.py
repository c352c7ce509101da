"""What a run installs can be installed on every Python that the harness supports."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

FILE = Path(__file__).parents[1] / "constraints.txt"


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_pins_hold_where_their_release_runs(python: str) -> None:
    wrong = []
    for line in FILE.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is not None and not pin.marker.evaluate({"python_version": python}):
            continue
        try:
            found = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:
            continue
        needs = SpecifierSet(found.get("Requires-Python") or "")
        if found["Version"] in pin.specifier and not needs.contains(f"{python}.20"):
            wrong.append(f"{line} needs Python {needs}")
    assert not wrong
