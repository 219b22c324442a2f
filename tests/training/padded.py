"""The straightforward computation on padded batches: what shared prefixes are tested against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aifeedback.inference.forward import SCALED_HEADS
from aifeedback.training.compute import hidden_states, pad
from aifeedback.training.losses import token_logp


def last_hidden(model: Any, sequences: Sequence[Sequence[int]], *, grad: bool) -> Tensor:
    """Final hidden state of the last token of each sequence, (N, D)."""
    with torch.set_grad_enabled(grad):
        hidden_BTD = hidden_states(model, sequences)
        last_B = torch.tensor([len(ids) - 1 for ids in sequences], device=hidden_BTD.device)
        return hidden_BTD[torch.arange(len(sequences), device=hidden_BTD.device), last_B]


def sequence_logprobs(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    grad: bool,
) -> list[Tensor]:
    """log p of each token of each completion given its prompt, in nats; one 1-D tensor per completion."""
    with torch.set_grad_enabled(grad):
        sequences = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
        rows = [i for i, ids in enumerate(completion_ids) for _ in ids]
        places = [len(p) - 1 + t for p, c in zip(prompt_ids, completion_ids, strict=True) for t in range(len(c))]
        if any(getattr(model.config.get_text_config(), name, None) for name in SCALED_HEADS):
            ids_BT, mask_BT = pad(sequences, device=model.device)
            logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).logits
            logits_TV = logits_BTV[rows, places]
        else:
            logits_TV = model.get_output_embeddings()(hidden_states(model, sequences)[rows, places])
        token_T = torch.tensor([t for ids in completion_ids for t in ids], device=logits_TV.device)
        logp_T = token_logp(logits_TV, token_T, temperature=temperature)
        return list(logp_T.split([len(ids) for ids in completion_ids]))
