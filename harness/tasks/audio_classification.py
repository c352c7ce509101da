from __future__ import annotations

from typing import ClassVar

from harness.tasks.labels import Labelled
from harness.tasks.sound import Sound


class AudioClassification(Sound, Labelled):
    """One sound to one class."""

    name: ClassVar[str] = "audio-classification"
    kind: ClassVar[str] = "audio-classification"
    auto_class: ClassVar[str] = "AutoModelForAudioClassification"
