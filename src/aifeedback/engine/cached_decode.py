"""One token at a time through a Hugging Face model's own forward: the decoder that takes every architecture."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aifeedback.engine.plain import TURN

COMPACT = 0.875
"""The cache is copied without its finished rows once no more than this share of them is still running."""


class CachedDecoder:
    """Any Hugging Face causal LM, through its own forward and cache.

    Full-attention models get a preallocated cache that is written in place, left-padded prompts and dropped rows.
    Models with windows, convolutions or recurrent state take prompts of one length at a time (``generate`` sees to
    it), keep their own cache class and carry finished rows along.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"
        self.full_attention = full_attention(model)

    def start(self, prompt_ids: Sequence[Sequence[int]], *, samples: int, max_new_tokens: int) -> Tensor:
        from transformers import DynamicCache

        device = self.model.device
        T = max(len(ids) for ids in prompt_ids)
        lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
        token_PT = torch.tensor([[0] * (T - len(ids)) + list(ids) for ids in prompt_ids], device=device)
        mask_PT = (torch.arange(T, device=device) >= T - lengths[:, None]).long()
        if self.full_attention:
            self.cache: Any = DynamicCache()
            self.cache.layers = [_in_place_layer(T + max_new_tokens) for _ in range(_layer_count(self.model))]
        else:
            self.cache = None
            token_PT, mask_PT = (x.repeat_interleave(samples, dim=0) for x in (token_PT, mask_PT))
            lengths = lengths.repeat_interleave(samples)
        positions = (torch.cumsum(mask_PT, dim=1) - 1).clamp_(min=0)
        logits = self._forward(token_PT, mask_PT, positions)
        if self.full_attention:
            self.cache.batch_repeat_interleave(samples)
            mask_PT, lengths = mask_PT.repeat_interleave(samples, dim=0), lengths.repeat_interleave(samples)
        else:
            logits = logits[::samples]
        self.mask_RT = F.pad(mask_PT, (0, max_new_tokens), value=1)
        self.position_R, self.filled, self.slot_A = lengths, T, None
        return logits

    def step(self, token_A: Tensor) -> Tensor:
        token_R = token_A
        if self.slot_A is not None:
            token_R = token_A.new_zeros(len(self.position_R)).index_copy_(0, self.slot_A, token_A)
        self.filled += 1
        logits = self._forward(token_R[:, None], self.mask_RT[:, : self.filled], self.position_R[:, None])
        self.position_R = self.position_R + 1
        return logits if self.slot_A is None else logits[self.slot_A]

    def _forward(self, token: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        place: dict[str, Any] = {"position_ids": positions} if self.takes_positions else {}
        place[self.cache_name] = self.cache
        if self.full_attention:
            place["attention_mask"] = mask
        with TURN:
            out = self.model(input_ids=token, use_cache=True, **place)
        self.cache = out[self.cache_name]
        return out.logits[:, -1]

    def drop(self, keep: Tensor) -> None:
        slot_A = keep if self.slot_A is None else self.slot_A[keep]
        if not self.full_attention or len(slot_A) > COMPACT * len(self.position_R):
            self.slot_A = slot_A
            return
        self.cache.batch_select_indices(slot_A)
        self.mask_RT, self.position_R, self.slot_A = self.mask_RT[slot_A], self.position_R[slot_A], None


def full_attention(model: Any) -> bool:
    """Whether every layer attends to the whole past, so that left padding and a plain cache are safe."""
    config = model.config.get_text_config()
    if not hasattr(config, "num_attention_heads"):
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windowed and not getattr(model, "_is_stateful", False)


def _layer_count(model: Any) -> int:
    return model.config.get_text_config().num_hidden_layers


def _in_place_layer(max_length: int) -> Any:
    """A cache layer that writes into storage allocated once, and shows the filled part of it."""
    from transformers.cache_utils import DynamicLayer

    class InPlaceLayer(DynamicLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.storage = [x.new_empty(*x.shape[:2], max_length, x.shape[3]) for x in (key_states, value_states)]
                self.filled = 0
            end = self.filled + key_states.shape[2]
            for stored, new in zip(self.storage, (key_states, value_states), strict=True):
                stored[:, :, self.filled : end] = new
            self.filled = end
            return self._show()

        def _show(self) -> tuple[Tensor, Tensor]:
            keys, values = (stored[:, :, : self.filled] for stored in self.storage)
            self.keys, self.values = keys, values
            return keys, values

        def batch_repeat_interleave(self, repeats: int) -> None:
            self.storage = [stored.repeat_interleave(repeats, dim=0) for stored in self.storage]
            self._show()

        def batch_select_indices(self, indices: Tensor) -> None:
            self.storage = [stored[indices] for stored in self.storage]
            self._show()

    return InPlaceLayer()
