from __future__ import annotations

from typing import ClassVar

from harness.backbones.family import Family, Small
from harness.backbones.wav2vec2 import SOUND_KINDS


class DeepSpeech(Family):
    """The stem is what stands before the first layer on single steps: the layer over a frame and its context,
    or the convolutions of DeepSpeech 2. Every layer after it, recurrent or not, is a block."""

    name: ClassVar[str] = "deepspeech"
    source: ClassVar[str] = "Hannun et al. 2014, arXiv 1412.5567; Amodei et al. 2016, arXiv 1512.02595"
    kinds: ClassVar[tuple[str, ...]] = SOUND_KINDS
    small: ClassVar[Small | None] = Small(
        {"feature_size": 40, "hidden_size": 64, "context": 2, "stride": 1},
        # The log-mel extractor that is the same with and without torchaudio, and counts in milliseconds: 32
        # per window, 10 per frame, at any rate.
        {
            "class": "Gemma3nAudioFeatureExtractor",
            "sampling_rate": 8000,
            "feature_size": 40,
            "min_frequency": 60.0,
            "max_frequency": 4000.0,
        },
    )

    @classmethod
    def register(cls) -> None:
        from harness.backbones.models import deepspeech, frames

        frames.join(
            deepspeech.DeepSpeechConfig,
            deepspeech.DeepSpeechModel,
            deepspeech.DeepSpeechForCTC,
            deepspeech.DeepSpeechForAudioClassification,
        )
