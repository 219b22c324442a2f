"""Padded batches, sorted by length: right for every causal model; the shared-prefix engine is checked against it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Read = tuple[int, int]
"""(sequence, position): where next-token logits are wanted."""
Consume = Callable[[list[int], Tensor], None]
"""consume(indices into the reads, logits (R, V)): called once per batch."""


TURN = threading.RLock()
"""Held while a model runs. The engine alters a model, and its module's functions, for the time of a pass; another thread
would run half of the one and half of the other."""


def read_padded(
    model: Any, sequences: Sequence[Sequence[int]], reads: Sequence[Read], consume: Consume, *, tokens: int
) -> None:
    """Logits at the given places, in batches of at most ``tokens`` padded tokens (one sequence at least)."""
    wanted: dict[int, list[int]] = {}
    for r, (sequence, _) in enumerate(reads):
        wanted.setdefault(sequence, []).append(r)
    for rows in _batches(sequences, sorted(wanted), tokens):
        ids_BT, mask_BT = pad([sequences[i] for i in rows], device=model.device)
        reads_here = [(b, r) for b, i in enumerate(rows) for r in wanted[i]]
        places, at = torch.unique(
            torch.tensor([reads[r][1] for _, r in reads_here], device=model.device), return_inverse=True
        )
        logits_BUV = logits_at(model, places, input_ids=ids_BT, attention_mask=mask_BT)
        row = torch.tensor([b for b, _ in reads_here], device=model.device)
        consume([r for _, r in reads_here], logits_BUV[row, at])


def logits_at(model: Any, places_U: Tensor, **inputs: Any) -> Tensor:
    """(B, U, V) logits at the given positions, computing no others where the model can.

    A model that predicts no tokens (a reward model) gives its final hidden states instead: they are all it computes.
    """
    with TURN:
        if unwrapped(model).get_output_embeddings() is None:
            return base_of(model)(**inputs, use_cache=False).last_hidden_state[:, places_U]
        if "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters:
            return model(**inputs, logits_to_keep=places_U, use_cache=False).logits
        return model(**inputs, use_cache=False).logits[:, places_U]


def unwrapped(model: Any) -> Any:
    """The transformers model inside LoRA adapters and inside a data-parallel wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def base_of(model: Any) -> Any:
    """The part of a model below its head; LoRA adapters stay in it."""
    return unwrapped(model).base_model


def pad(sequences: Sequence[Sequence[int]], *, device: Any) -> tuple[Tensor, Tensor]:
    """Right-padded ids and mask, (B, T). A causal model does not look right, so the padding cannot matter."""
    longest = max(map(len, sequences))
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in sequences], device=device)
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences], device=device)
    return ids_BT, mask_BT


def _batches(sequences: Sequence[Sequence[int]], rows: Sequence[int], tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in sorted(rows, key=lambda i: (-len(sequences[i]), i)):
        if batch and (len(batch) + 1) * len(sequences[batch[0]]) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
