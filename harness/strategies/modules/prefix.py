"""Learned keys and values before those of a block's attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.errors import bad

NAME = "prefix_tuning"
# What attention modules call the number of their heads for keys, and the size of one.
_HEADS = ("num_key_value_heads", "num_heads", "num_attention_heads", "n_heads")
_SIZES = ("head_dim", "attention_head_size")


class Prefix(nn.Module):
    """Attributes:
    key, value: of `length` positions that are not there, shape (length, heads, features of a head).
    on: whether they are attended to; on the CPU, where reading it makes nobody wait for an accelerator.
    """

    on: torch.Tensor

    def __init__(self, length: int, heads: int, size: int, owner: str, device: torch.device) -> None:
        super().__init__()
        self.owner = owner
        self.key = nn.Parameter(torch.randn(length, heads, size).to(device))
        self.value = nn.Parameter(torch.randn(length, heads, size).to(device))
        self.register_buffer("on", torch.tensor(True, device="cpu"))
        self._entered: list[_Attending] = []

    def enter(self, block: nn.Module, args: Any) -> None:
        if self.on:
            self._entered.append(_Attending(self))
            self._entered[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(self, block: nn.Module, args: Any, output: Any) -> None:
        if not self._entered:
            return
        mode = self._entered.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is not None and not mode.met:  # None: the block has failed
            raise bad(
                "prefix-tuning",
                f"{self.owner} does not attend by torch's scaled_dot_product_attention, where prefixes enter",
            )

    def before(self, learned: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Learned keys or values, then those of the inputs, of shape (batch, heads, positions, features)."""
        _, heads, size = learned.shape
        if own.ndim != 4 or own.shape[1] % heads or own.shape[-1] != size:
            shape = tuple(own.shape)
            raise bad("prefix-tuning", f"{self.owner} has keys of shape {shape}, not {heads} heads of {size}")
        grouped = learned.transpose(0, 1).repeat_interleave(own.shape[1] // heads, dim=0)
        return torch.cat([grouped.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=-2)


class _Attending(TorchFunctionMode):
    """The first attention in it, which is a block's to its own inputs, sees the prefix."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self._prefix, self.met = prefix, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention and not self.met:
            self.met = True
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> torch.Tensor:
        if is_causal:  # said in full: the prefix moves the diagonal
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=key.device).tril()
        if attn_mask is not None:
            attn_mask = self._seen(attn_mask.expand(*attn_mask.shape[:-1], key.shape[-2]))
        key = self._prefix.before(self._prefix.key, key)
        value = self._prefix.before(self._prefix.value, value)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, **more)

    def _seen(self, mask: torch.Tensor) -> torch.Tensor:
        """The mask of the inputs (true, or added to the logits) with that of the prefix, which all see."""
        shape = (*mask.shape[:-1], len(self._prefix.key))
        seen = mask.new_ones(shape) if mask.dtype == torch.bool else mask.new_zeros(shape)
        return torch.cat([seen, mask], dim=-1)


def put_into(block: nn.Module, config: Any, length: int, owner: str) -> bool:
    """Give the attention of a block, if it has any, a prefix, of which the block is the parent.

    Raises: InputError where nobody says how many heads there are.
    """
    if not any("attention" in type(module).__name__.lower() for module in block.modules()):
        return False
    found = next(filter(None, map(_heads, block.modules())), None) or _configured(config)
    if found is None or isinstance(block, nn.Sequential):
        raise bad("prefix-tuning", f"nothing says how many heads the attention of {owner} has")
    made = Prefix(length, *found, owner, next(block.parameters()).device)
    block.add_module(NAME, made)
    block.register_forward_pre_hook(made.enter)
    block.register_forward_hook(made.leave, always_call=True)
    return True


def _heads(module: nn.Module) -> tuple[int, int] | None:
    return _pair(module, _HEADS, _SIZES)


def _configured(config: Any) -> tuple[int, int] | None:
    if found := _pair(config, _HEADS, _SIZES):
        return found
    heads, width = (getattr(config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if not (isinstance(heads, int) and isinstance(width, int)):
        return None
    grouped = getattr(config, "num_key_value_heads", None)
    return grouped if isinstance(grouped, int) else heads, width // heads


def _pair(holder: Any, heads: tuple[str, ...], sizes: tuple[str, ...]) -> tuple[int, int] | None:
    found = [
        next((value for name in names if isinstance(value := getattr(holder, name, None), int)), None)
        for names in (heads, sizes)
    ]
    return None if None in found else (found[0], found[1])  # type: ignore[return-value]
