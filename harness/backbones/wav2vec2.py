"""wav2vec 2.0 and the encoders of its build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.backbones.family import Family, Small

if TYPE_CHECKING:
    from torch import nn

SOUND_KINDS = ("audio-classification", "automatic-speech-recognition")
# 8 kHz is the telephone's rate, and all that the shipped sounds need.
WAVEFORM: dict[str, Any] = {
    "class": "Wav2Vec2FeatureExtractor",
    "sampling_rate": 8000,
    "do_normalize": True,
    "return_attention_mask": True,
}
# One frame per 10 ms of 8 kHz. Normalised by layer, so that padding changes nothing. Nothing is masked or
# left out at random, as is done to models of hundreds of layers and hours.
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32, 64, 64],
    "conv_kernel": [32, 5, 4],
    "conv_stride": [8, 5, 2],
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "do_stable_layer_norm": True,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "final_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "classifier_proj_size": 64,
}


class _Waveform(Family):
    """`encoder.layer_norm` stands before the blocks and runs there, but after them with
    `do_stable_layer_norm`."""

    kinds: ClassVar[tuple[str, ...]] = SOUND_KINDS

    def moved(self, name: str, base: nn.Module) -> int | None:
        config: Any = base.config
        after = name == "encoder.layer_norm" and config.do_stable_layer_norm
        return config.num_hidden_layers if after else None


class Wav2Vec2(_Waveform):
    name: ClassVar[str] = "wav2vec2"
    source: ClassVar[str] = "Baevski et al. 2020, arXiv 2006.11477"
    small: ClassVar[Small | None] = Small(_SIZES, WAVEFORM)


class Hubert(_Waveform):
    name: ClassVar[str] = "hubert"
    source: ClassVar[str] = "Hsu et al. 2021, arXiv 2106.07447"
    small: ClassVar[Small | None] = Small(_SIZES, WAVEFORM)


class WavLm(_Waveform):
    name: ClassVar[str] = "wavlm"
    source: ClassVar[str] = "Chen et al. 2022, arXiv 2110.13900"


class UniSpeech(_Waveform):
    name: ClassVar[str] = "unispeech"
    source: ClassVar[str] = "Wang et al. 2021, arXiv 2101.07597"


class UniSpeechSat(_Waveform):
    name: ClassVar[str] = "unispeech-sat"
    source: ClassVar[str] = "Chen et al. 2022, arXiv 2110.05752"
