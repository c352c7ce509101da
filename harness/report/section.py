"""A section of the report is a plug-in: one file in `harness/report/sections/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness import registry
from harness.analysis.study import Study
from harness.report.blocks import Block


class Section(ABC):
    """One section.

    `name` is its anchor, `title` its heading, `order` its place (smaller comes first).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    order: ClassVar[int]

    @abstractmethod
    def build(self, study: Study, verdicts: Mapping[str, Any]) -> Sequence[Block]:
        """The section's content; an empty list leaves the section out."""


def find_sections() -> list[Section]:
    """Every section there is, in reading order.

    Raises: PluginError if a section's file is broken or two sections share a name.
    """
    found = [section() for section in registry.plugins("report.sections", Section).values()]
    return sorted(found, key=lambda section: (section.order, section.name))
