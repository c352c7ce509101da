from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness.backbones.family import Block, Family, Small, listed
from harness.backbones.wav2vec2 import SOUND_KINDS, WAVEFORM

if TYPE_CHECKING:
    from torch import nn


class WaveNet(Family):
    """The stem is the convolution on samples; then comes a rung per dilated block, and one for the
    convolutions on frames."""

    name: ClassVar[str] = "wavenet"
    source: ClassVar[str] = "van den Oord et al. 2016, arXiv 1609.03499, section 3.4"
    kinds: ClassVar[tuple[str, ...]] = SOUND_KINDS
    small: ClassVar[Small | None] = Small(
        {
            "hidden_size": 24,
            "output_size": 64,
            "dilations": [1, 2, 4, 8],
            "stem_kernel_size": 33,
            "stride": 8,  # eight times as fast as the paper's 1
            "frame_kernel_size": 9,
            "frame_size": 80,
        },
        {**WAVEFORM, "do_normalize": False},
    )

    def blocks(self, base: nn.Module) -> list[Block]:
        return [*listed(base, "blocks"), Block("frames", (base.get_submodule("frames"),))]

    @classmethod
    def register(cls) -> None:
        from harness.backbones.models import frames, wavenet

        frames.join(
            wavenet.WaveNetConfig,
            wavenet.WaveNetModel,
            wavenet.WaveNetForCTC,
            wavenet.WaveNetForAudioClassification,
        )
