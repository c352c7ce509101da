"""WaveNet for recognition and classification (van den Oord et al. 2016, arXiv 1609.03499, section 3.4).

Samples go through mu-law companding (section 2.2) and gated, dilated residual blocks with skip connections
(2.3, 2.4); the mean over 10 ms makes frames of what the blocks say, and a few convolutions follow. Nothing is
generated here, so no convolution is causal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from harness.backbones.models.frames import (
    ClassModel,
    CtcModel,
    Frames,
    FramesModel,
    Headed,
    mask_of,
    shortened,
)


class WaveNetConfig(PreTrainedConfig):
    """
    Attributes:
        quantization: levels of the mu-law.
        hidden_size: channels of the residual stream and of the gates.
        output_size: channels of the skip connections, of the convolutions on frames and of the output.
        dilations: of the blocks, in order.
        kernel_size: of the dilated convolutions; odd.
        stem_kernel_size, stride: of the convolution on samples; the kernel odd. The paper's stride
            is 1; others cost that many times less.
        frame_size: samples that are one frame, a multiple of the stride: 160 for 10 ms at 16 kHz.
        frame_layers: convolutions on frames, which see `frame_kernel_size` of them; odd.
        dropout: after each convolution on frames.
        final_dropout: before a head.
    """

    model_type = "wavenet"

    def __init__(
        self,
        quantization: int = 256,
        hidden_size: int = 64,
        output_size: int = 128,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) * 2,
        kernel_size: int = 3,
        stem_kernel_size: int = 3,
        stride: int = 1,
        frame_size: int = 160,
        frame_layers: int = 2,
        frame_kernel_size: int = 3,
        dropout: float = 0.0,
        final_dropout: float = 0.0,
        vocab_size: int = 32,
        pad_token_id: int = 0,
        ctc_loss_reduction: str = "mean",
        ctc_zero_infinity: bool = True,
        **kwargs: Any,
    ) -> None:
        if frame_size % stride:
            raise ValueError(f"frame_size is {frame_size}, not a multiple of the stride {stride}")
        if not all(size % 2 for size in (kernel_size, stem_kernel_size, frame_kernel_size)):
            raise ValueError("kernel sizes are odd, so that each kernel has a middle")
        self.quantization = quantization
        self.hidden_size = hidden_size
        self.output_size = output_size
        self.dilations = list(dilations)
        self.kernel_size = kernel_size
        self.stem_kernel_size = stem_kernel_size
        self.stride = stride
        self.frame_size = frame_size
        self.frame_layers = frame_layers
        self.frame_kernel_size = frame_kernel_size
        self.dropout = dropout
        self.final_dropout = final_dropout
        self.vocab_size = vocab_size
        self.ctc_loss_reduction = ctc_loss_reduction
        self.ctc_zero_infinity = ctc_zero_infinity
        super().__init__(pad_token_id=pad_token_id, **kwargs)


def mu_law(samples: torch.Tensor, levels: int) -> torch.Tensor:
    """Samples in [-1, 1], rounded to `levels` values in [-1, 1] that are finer where it is quiet (ITU-T
    G.711). Louder samples are clipped."""
    mu = levels - 1
    samples = samples.clamp(-1, 1)
    companded = samples.sign() * torch.log1p(mu * samples.abs()) / math.log1p(mu)
    return torch.round((companded + 1) / 2 * mu) / mu * 2 - 1


class WaveNetStem(nn.Module):
    """The convolution over companded samples. They enter by their value: a model that generates needs a class
    per level, one that listens would have to learn which levels are neighbours."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.levels, self.stride = config.quantization, config.stride
        size = config.stem_kernel_size
        self.convolution = nn.Conv1d(1, config.hidden_size, size, stride=config.stride, padding=size // 2)

    def forward(self, samples: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states of shape (batch, hidden, steps) and their mask, of samples (batch, samples)."""
        hidden = self.convolution((mu_law(samples, self.levels) * mask).unsqueeze(1))
        mask = shortened(mask, hidden.shape[-1], self.stride)
        return hidden * mask.unsqueeze(1), mask


class WaveNetBlock(nn.Module):
    """A gated dilated convolution, a share of the output, and the residual for the next block, if there is
    one."""

    def __init__(self, config: WaveNetConfig, dilation: int, last: bool) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(
            config.hidden_size,
            2 * config.hidden_size,
            config.kernel_size,
            dilation=dilation,
            padding=dilation * (config.kernel_size // 2),
        )
        self.residual = None if last else nn.Conv1d(config.hidden_size, config.hidden_size, 1)
        self.skip = nn.Conv1d(config.hidden_size, config.output_size, 1)

    def forward(
        self, hidden: torch.Tensor, skips: torch.Tensor | int, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of skips, which is all that leaves the last block, and the next hidden states, zero where
        `mask`, shape (batch, 1, steps), is."""
        filtered, gate = self.dilated(hidden).chunk(2, dim=1)
        gated = torch.tanh(filtered) * torch.sigmoid(gate)
        if self.residual is not None:
            hidden = (hidden + self.residual(gated)) * mask
        return skips + self.skip(gated), hidden


class WaveNetFrames(nn.Module):
    """The mean over the steps of each frame, then convolutions that see the frames around."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.steps = config.frame_size // config.stride
        self.layers = nn.Sequential(
            *(
                nn.Conv1d(
                    config.output_size,
                    config.output_size,
                    config.frame_kernel_size,
                    padding=config.frame_kernel_size // 2,
                )
                for _ in range(config.frame_layers)
            )
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, steps: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames of shape (batch, output, frames) and their mask; a last one may be of fewer steps."""
        missing = -steps.shape[-1] % self.steps
        weight = self._cut(mask.to(steps.dtype).unsqueeze(1), missing)
        cut = self._cut(F.relu(steps), missing)
        frames = (cut * weight).sum(-1) / weight.sum(-1).clamp(min=1)
        own = shortened(mask, frames.shape[-1], self.steps)
        for layer in self.layers:
            frames = self.dropout(F.relu(layer(frames))) * own.unsqueeze(1)
        return frames, own

    def _cut(self, steps: torch.Tensor, missing: int) -> torch.Tensor:
        padded = F.pad(steps, (0, missing))
        return padded.reshape(*padded.shape[:-1], -1, self.steps)


class WaveNetPreTrainedModel(FramesModel):
    config_class = WaveNetConfig
    base_model_prefix = "wavenet"
    main_input_name = "input_values"


class WaveNetModel(WaveNetPreTrainedModel):
    """Samples of shape (batch, samples) to frames of shape (batch, ceil(samples / frame_size), output_size).

    Samples are expected in [-1, 1], as an extractor with `do_normalize: false` gives them.
    """

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__(config)
        self.stem = WaveNetStem(config)
        last = len(config.dilations) - 1
        self.blocks = nn.ModuleList(
            WaveNetBlock(config, dilation, index == last) for index, dilation in enumerate(config.dilations)
        )
        self.frames = WaveNetFrames(config)
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> Frames:
        hidden, mask = self.stem(input_values, mask_of(input_values, attention_mask))
        skips: torch.Tensor | int = 0
        for block in self.blocks:
            skips, hidden = block(hidden, skips, mask.unsqueeze(1))
        frames, own = self.frames(skips, mask)
        return Frames(last_hidden_state=frames.transpose(1, 2), frame_mask=own)


class WaveNetWithHead(WaveNetPreTrainedModel, Headed):
    base_class = WaveNetModel
    width = "output_size"

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        return self.answer(input_values, attention_mask, labels)


class WaveNetForCTC(WaveNetWithHead, CtcModel):
    """One line of text per sound."""


class WaveNetForAudioClassification(WaveNetWithHead, ClassModel):
    """One class per sound."""
