"""Encoders and decoders of text whose ladder is found the generic way."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.backbones.family import Family, Small

TEXT_KINDS = ("text-classification", "token-classification")
# The small text models share the vocabulary of a backbone that a package carries: BERT's, uncased.
TOKENIZER = {"tokenizer": "minilm-l6"}
VOCABULARY = 30522

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "pad_token_id": 0,
}


class Bert(Family):
    name: ClassVar[str] = "bert"
    source: ClassVar[str] = "Devlin et al. 2019, arXiv 1810.04805"
    kinds: ClassVar[tuple[str, ...]] = TEXT_KINDS
    small: ClassVar[Small | None] = Small({**_SIZES, "max_position_embeddings": 512}, TOKENIZER)


class Roberta(Family):
    name: ClassVar[str] = "roberta"
    source: ClassVar[str] = "Liu et al. 2019, arXiv 1907.11692"
    kinds: ClassVar[tuple[str, ...]] = TEXT_KINDS
    small: ClassVar[Small | None] = Small(
        {**_SIZES, "max_position_embeddings": 514, "type_vocab_size": 2}, TOKENIZER
    )


class DistilBert(Family):
    name: ClassVar[str] = "distilbert"
    source: ClassVar[str] = "Sanh et al. 2019, arXiv 1910.01108"
    kinds: ClassVar[tuple[str, ...]] = TEXT_KINDS
    small: ClassVar[Small | None] = Small(
        {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128}, TOKENIZER
    )


class Gpt2(Family):
    name: ClassVar[str] = "gpt2"
    source: ClassVar[str] = "Radford et al. 2019"
    kinds: ClassVar[tuple[str, ...]] = TEXT_KINDS
    small: ClassVar[Small | None] = Small(
        {
            "vocab_size": VOCABULARY,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 512,
            "bos_token_id": 101,
            "eos_token_id": 102,
        },
        TOKENIZER,
    )


class Llama(Family):
    name: ClassVar[str] = "llama"
    source: ClassVar[str] = "Touvron et al. 2023, arXiv 2302.13971"
    kinds: ClassVar[tuple[str, ...]] = TEXT_KINDS
    small: ClassVar[Small | None] = Small(
        {**_SIZES, "max_position_embeddings": 512, "bos_token_id": 101, "eos_token_id": 102}, TOKENIZER
    )
