"""Padded batches, for any causal LM: where an architecture cannot share prefixes, and for the value network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pad(sequences: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, T) and the mask of real tokens (B, T); padding id 0, which the mask hides."""
    longest = max(len(ids) for ids in sequences)
    ids_BT = torch.tensor([[*ids, *([0] * (longest - len(ids)))] for ids in sequences], device=device)
    length_B = torch.tensor([len(ids) for ids in sequences], device=device)
    return ids_BT, torch.arange(longest, device=device)[None, :] < length_B[:, None]


def hidden_states(model: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Final hidden states (B, T, D) of right-padded sequences; values at padding mean nothing."""
    ids_BT, mask_BT = pad(sequences, device=model.device)
    full = bool(mask_BT.all())
    return model.base_model(
        input_ids=ids_BT, attention_mask=None if full else mask_BT.long(), use_cache=False
    ).last_hidden_state
