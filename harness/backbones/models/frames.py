"""What the models of sound share: frames and their masks, initial weights, the two heads' outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput
from transformers.utils import ModelOutput

IGNORED = -100  # the label of padding


@dataclass
class Frames(ModelOutput):
    """Attributes: last_hidden_state, shape (batch, frames, hidden), zero where padded; frame_mask, shape
    (batch, frames), true where an example has a frame."""

    last_hidden_state: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None


@dataclass
class CtcOutput(CausalLMOutput):
    """A CTC head's output, and how many of its frames are an example's own.

    Attributes:
        frame_lengths: shape (batch,).
    """

    frame_lengths: torch.Tensor | None = None


class FramesModel(PreTrainedModel):
    """Base of the models below this package."""

    input_modalities = "audio"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 (arXiv 1502.01852): these networks are rectified or gated, and have no other
        normalisation that would make up for small weights."""
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=1.0)
        elif isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                if "weight" in name:
                    init.orthogonal_(parameter) if "_hh_" in name else init.xavier_uniform_(parameter)
                else:
                    init.zeros_(parameter)


class Headed(FramesModel):
    """Base of a model with a head. A family's forward calls `answer`, by the name that its input has.

    Attributes:
        base_class: the model below the head, which gives `Frames`.
        width: what the configuration calls the size of a frame.
    """

    base_class: ClassVar[type[Any]]
    width: ClassVar[str]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, type(self).base_class(config))
        self.dropout = nn.Dropout(config.final_dropout)

    def below(
        self, inputs: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames of shape (batch, frames, width) and their mask."""
        found = getattr(self, self.base_model_prefix)(inputs, attention_mask)
        return found.last_hidden_state, found.frame_mask

    def answer(
        self, inputs: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor | None
    ) -> Any:
        raise NotImplementedError


class CtcModel(Headed):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(getattr(config, self.width), config.vocab_size)
        self.post_init()

    def answer(
        self, inputs: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor | None
    ) -> CtcOutput:
        """Logits per frame; with labels of shape (batch, labels), padded with -100, the CTC loss."""
        frames, mask = self.below(inputs, attention_mask)
        return ctc_output(self.lm_head(self.dropout(frames)), mask, labels, self.config)


class ClassModel(Headed):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(getattr(config, self.width), config.num_labels)
        self.post_init()

    def answer(
        self, inputs: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor | None
    ) -> SequenceClassifierOutput:
        """Logits per example; with labels of shape (batch,), the cross-entropy."""
        mean = pooled(*self.below(inputs, attention_mask))
        return class_output(self.classifier(self.dropout(mean)), labels)


def join(config: type, model: type, ctc: type, classification: type) -> None:
    """Make a model known to the Auto classes; once more does no harm."""
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)  # type: ignore[attr-defined]
    transformers.AutoModel.register(config, model, exist_ok=True)
    transformers.AutoModelForCTC.register(config, ctc, exist_ok=True)
    transformers.AutoModelForAudioClassification.register(config, classification, exist_ok=True)


def mask_of(inputs: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Which steps of `inputs`, shape (batch, steps, …), are an example's own; all of them without a mask."""
    if attention_mask is None:
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    return attention_mask.bool()


def shortened(mask: torch.Tensor, steps: int, stride: int) -> torch.Tensor:
    """The mask of shape (batch, steps) of what leaves a layer with a stride: ceil(length / stride) steps."""
    lengths = (mask.sum(-1) + stride - 1) // stride
    return torch.arange(steps, device=mask.device) < lengths[:, None]


def ctc_output(
    logits: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None, config: Any
) -> CtcOutput:
    """Connectionist temporal classification (Graves et al. 2006).

    Args:
        logits: shape (batch, frames, classes). The blank is class `config.pad_token_id`.
        mask: shape (batch, frames).
        labels: shape (batch, labels), padded with -100.
    """
    lengths = mask.sum(-1)
    if labels is None:
        return CtcOutput(logits=logits, frame_lengths=lengths)
    if labels.numel() and labels.max() >= config.vocab_size:
        raise ValueError(f"a label is {labels.max()}, and there are {config.vocab_size} classes")
    own = labels >= 0
    with torch.backends.cudnn.flags(enabled=False):  # which takes labels of a few layouts only
        loss = F.ctc_loss(
            F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1),
            labels[own],
            lengths,
            own.sum(-1),
            blank=config.pad_token_id,
            reduction=config.ctc_loss_reduction,
            zero_infinity=config.ctc_zero_infinity,
        )
    return CtcOutput(loss=loss, logits=logits, frame_lengths=lengths)


def pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over each example's own frames, shape (batch, hidden)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def class_output(logits: torch.Tensor, labels: torch.Tensor | None) -> SequenceClassifierOutput:
    """Logits of shape (batch, classes), with the cross-entropy where there are labels."""
    loss = None if labels is None else F.cross_entropy(logits, labels)
    return SequenceClassifierOutput(loss=loss, logits=logits)
