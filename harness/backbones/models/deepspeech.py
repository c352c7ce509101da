"""DeepSpeech (Hannun et al. 2014, arXiv 1412.5567), and the convolutional-recurrent form of DeepSpeech 2
(Amodei et al. 2016, arXiv 1512.02595), which differ in what stands before the recurrent layers.

Both read frames of a log-mel spectrogram. `front: context` is the first paper: clipped rectified layers, the
first of which sees the frames around; one bidirectional recurrent layer whose directions are added; one more
clipped layer. `front: convolution` puts two-dimensional convolutions over time and frequency there, and is
meant for several recurrent layers.

Departure from both: layers are normalised over their own units, where the papers use nothing or BatchNorm. A
frame's own normalisation makes up for loudness, and an example does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
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

_CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class DeepSpeechConfig(PreTrainedConfig):
    """
    Attributes:
        feature_size: mel bands.
        hidden_size: units of every layer.
        front: `context` or `convolution`.
        context: frames that the context layer sees on each side.
        stride: frames per step of the context layer.
        dense_layers: clipped layers after the front and before the recurrent ones.
        channels, kernels, strides: of each convolution; kernels (odd) and strides over (time, frequency).
        recurrent_layers: bidirectional ones, whose directions are added.
        cell: `rnn` (the first paper's, rectified), `gru` or `lstm`.
        clip: where the rectified units stop (20 in both papers).
        dropout: after each layer but the recurrent ones (section 2.1).
        final_dropout: before a head.
    """

    model_type = "deepspeech"

    def __init__(
        self,
        feature_size: int = 80,
        hidden_size: int = 1024,
        front: str = "context",
        context: int = 9,
        stride: int = 2,
        dense_layers: int = 2,
        channels: Sequence[int] = (32, 32),
        kernels: Sequence[Sequence[int]] = ((11, 41), (11, 21)),
        strides: Sequence[Sequence[int]] = ((2, 2), (1, 2)),
        recurrent_layers: int = 1,
        cell: str = "rnn",
        clip: float = 20.0,
        dropout: float = 0.1,
        final_dropout: float = 0.0,
        vocab_size: int = 32,
        pad_token_id: int = 0,
        ctc_loss_reduction: str = "mean",
        ctc_zero_infinity: bool = True,
        **kwargs: Any,
    ) -> None:
        if front not in ("context", "convolution"):
            raise ValueError(f"front is 'context' or 'convolution', not {front!r}")
        if cell not in _CELLS:
            raise ValueError(f"cell is one of {', '.join(_CELLS)}, not {cell!r}")
        if not len(channels) == len(kernels) == len(strides):
            raise ValueError("channels, kernels and strides have an entry for each convolution")
        self.feature_size = feature_size
        self.hidden_size = hidden_size
        self.front = front
        self.context = context
        self.stride = stride
        self.dense_layers = dense_layers
        self.channels = list(channels)
        self.kernels = [list(kernel) for kernel in kernels]
        self.strides = [list(step) for step in strides]
        self.recurrent_layers = recurrent_layers
        self.cell = cell
        self.clip = clip
        self.dropout = dropout
        self.final_dropout = final_dropout
        self.vocab_size = vocab_size
        self.ctc_loss_reduction = ctc_loss_reduction
        self.ctc_zero_infinity = ctc_zero_infinity
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class Clipped(nn.Module):
    """min(max(x, 0), clip), then dropout."""

    def __init__(self, config: DeepSpeechConfig) -> None:
        super().__init__()
        self.clip = config.clip
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self.dropout(values.clamp(0, self.clip))
        return kept


class ContextFront(nn.Module):
    """A clipped layer over a frame and those around it."""

    def __init__(self, config: DeepSpeechConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.norm = nn.LayerNorm(config.feature_size)
        self.window = nn.Conv1d(
            config.feature_size,
            config.hidden_size,
            2 * config.context + 1,
            stride=config.stride,
            padding=config.context,
        )
        self.activation = Clipped(config)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps of shape (batch, steps, hidden) and their mask, of (batch, frames, bands)."""
        features = self.norm(features) * mask.unsqueeze(-1)
        steps = self.activation(self.window(features.transpose(1, 2)).transpose(1, 2))
        return steps, shortened(mask, steps.shape[1], self.stride)


class ConvolutionFront(nn.Module):
    """Clipped convolutions over time and frequency, then a layer that brings them to the hidden size."""

    def __init__(self, config: DeepSpeechConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.feature_size)
        self.layers = nn.ModuleList()
        bands, before = config.feature_size, 1
        for channels, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            (time, band), (jump, step) = kernel, stride
            self.layers.append(
                nn.Conv2d(before, channels, (time, band), stride=(jump, step), padding=(time // 2, band // 2))
            )
            bands, before = -(-bands // step), channels
        self.strides = [stride for stride, _ in config.strides]
        self.activation = Clipped(config)
        self.projection = nn.Linear(bands * before, config.hidden_size)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps of shape (batch, steps, hidden) and their mask, of (batch, frames, bands)."""
        planes = (self.norm(features) * mask.unsqueeze(-1)).unsqueeze(1)
        for layer, stride in zip(self.layers, self.strides, strict=True):
            planes = self.activation(layer(planes))
            mask = shortened(mask, planes.shape[2], stride)
            planes = planes * mask[:, None, :, None]
        return self.projection(planes.transpose(1, 2).flatten(2)), mask


class DenseBlock(nn.Module):
    """A clipped layer on each step."""

    def __init__(self, config: DeepSpeechConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = Clipped(config)

    def forward(self, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.activation(self.linear(self.norm(steps)))
        return found


class RecurrentBlock(nn.Module):
    """A bidirectional recurrent layer, h_forward + h_backward, on each example's own steps."""

    def __init__(self, config: DeepSpeechConfig) -> None:
        super().__init__()
        self.clip = config.clip
        self.norm = nn.LayerNorm(config.hidden_size)
        rectified = {"nonlinearity": "relu"} if config.cell == "rnn" else {}
        self.recurrent = _CELLS[config.cell](
            config.hidden_size, config.hidden_size, batch_first=True, bidirectional=True, **rectified
        )

    def forward(self, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        lengths = mask.sum(-1).clamp(min=1).cpu()
        packed = pack_padded_sequence(self.norm(steps), lengths, batch_first=True, enforce_sorted=False)
        both, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=mask.shape[1])
        forward, backward = both.chunk(2, dim=-1)
        return (forward + backward).clamp(-self.clip, self.clip)


class DeepSpeechPreTrainedModel(FramesModel):
    config_class = DeepSpeechConfig
    base_model_prefix = "deepspeech"
    main_input_name = "input_features"


class DeepSpeechModel(DeepSpeechPreTrainedModel):
    """Features of shape (batch, frames, bands) to steps of shape (batch, ceil(frames / stride), hidden)."""

    def __init__(self, config: DeepSpeechConfig) -> None:
        super().__init__(config)
        self.front = ContextFront(config) if config.front == "context" else ConvolutionFront(config)
        self.blocks = nn.ModuleList(
            [
                *(DenseBlock(config) for _ in range(config.dense_layers)),
                *(RecurrentBlock(config) for _ in range(config.recurrent_layers)),
                DenseBlock(config),
            ]
        )
        self.post_init()

    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> Frames:
        steps, mask = self.front(input_features, mask_of(input_features, attention_mask))
        for block in self.blocks:
            steps = block(steps, mask)
        return Frames(last_hidden_state=steps * mask.unsqueeze(-1), frame_mask=mask)


class DeepSpeechWithHead(DeepSpeechPreTrainedModel, Headed):
    base_class = DeepSpeechModel
    width = "hidden_size"

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        return self.answer(input_features, attention_mask, labels)


class DeepSpeechForCTC(DeepSpeechWithHead, CtcModel):
    """One line of text per sound."""


class DeepSpeechForAudioClassification(DeepSpeechWithHead, ClassModel):
    """One class per sound."""
