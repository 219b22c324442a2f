"""Sampling from a local causal language model, with the log-probabilities that training needs.

Each prompt is read once for all its samples; finished rows leave the batch; tokens are drawn by inverting the
cumulative distribution at a uniform number that belongs to (row, step), so that what a row draws does not depend on
how rows are batched. See ``decoding.py`` for the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aifeedback.errors import InputError
from aifeedback.inference.decoding import full_attention, open_decoder
from aifeedback.inference.passes import context_window
from aifeedback.types import Sampling

CACHE_BYTES = 1 << 30
"""Most memory that the keys and values of one batch may take; more rows are done in several batches."""


class Generated(NamedTuple):
    """B = prompts × samples rows, prompt-major; T = the longest row."""

    tokens_BT: Tensor
    """Token ids, the end-of-sequence token included where one was drawn; ``pad_id`` after the end."""
    logp_BT: Tensor
    """log-probability of each drawn token under the model at the sampling temperature (at 1 when greedy), before any
    top-k or top-p cut; float32, 0 after the end."""
    length_B: Tensor
    """Tokens drawn, the end-of-sequence token included."""
    finished_B: Tensor
    """Whether the row ended by itself; False: cut at ``max_new_tokens``."""


def generate(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    *,
    samples_per_prompt: int = 1,
    sampling: Sampling,
    eos_ids: frozenset[int],
    pad_id: int,
    generator: torch.Generator | None = None,
    uniform_BT: Tensor | None = None,
    stop: Callable[[list[int]], bool] | None = None,
) -> Generated:
    """Continue each prompt ``samples_per_prompt`` times; ``model`` is used as it is, in evaluation mode.

    Randomness is either ``generator`` (one draw of B × max_new_tokens numbers, then none) or ``uniform_BT``, numbers
    in [0, 1) of that shape; at temperature 0 neither is needed. ``stop`` sees the tokens of a row so far and ends it
    by returning True. ``sampling.seed`` and ``sampling.stop`` are the caller's business. Raises InputError on an empty
    prompt and where prompt and answer exceed the model's context.
    """
    _check_lengths(model, prompt_ids, sampling.max_new_tokens)
    B, T = len(prompt_ids) * samples_per_prompt, sampling.max_new_tokens
    if uniform_BT is None and sampling.temperature > 0:
        uniform_BT = torch.rand(B, T, generator=generator, dtype=torch.float64)
    device = model.device
    out = Generated(
        tokens_BT=torch.full((B, T), pad_id, device=device),
        logp_BT=torch.zeros(B, T, device=device),
        length_B=torch.zeros(B, dtype=torch.long, device=device),
        finished_B=torch.zeros(B, dtype=torch.bool, device=device),
    )
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in _batches(model, prompt_ids, samples_per_prompt, T):
                rows = (torch.tensor(batch)[:, None] * samples_per_prompt + torch.arange(samples_per_prompt)).flatten()
                uniform = None if uniform_BT is None else uniform_BT[rows].to(device)
                prompts = [prompt_ids[i] for i in batch]
                _run(model, prompts, samples_per_prompt, sampling, eos_ids, uniform, stop, out, rows.to(device))
    finally:
        model.train(was_training)
    longest = int(out.length_B.max()) if B else 0
    return out._replace(tokens_BT=out.tokens_BT[:, :longest].clone(), logp_BT=out.logp_BT[:, :longest].clone())


def _run(
    model: Any,
    prompt_ids: list[Sequence[int]],
    samples: int,
    sampling: Sampling,
    eos_ids: frozenset[int],
    uniform_RT: Tensor | None,
    stop: Callable[[list[int]], bool] | None,
    out: Generated,
    row_R: Tensor,
) -> None:
    """One batch, written into ``out`` at the rows ``row_R``."""
    R, longest = len(row_R), sampling.max_new_tokens
    decoder, logits = open_decoder(model, prompt_ids, samples=samples, max_new_tokens=longest)
    logits = logits.repeat_interleave(samples, dim=0)
    token_TR, logp_TR = out.tokens_BT[row_R].t().contiguous(), out.logp_BT[row_R].t().contiguous()
    length_R = torch.full((R,), longest, device=row_R.device)
    uniform_TR = None if uniform_RT is None else uniform_RT.t().contiguous()
    place_A = torch.arange(R, device=row_R.device)
    for t in range(longest):
        token_A, logp_A = draw(logits, sampling, None if uniform_TR is None else uniform_TR[t].index_select(0, place_A))
        token_TR[t].index_copy_(0, place_A, token_A)
        logp_TR[t].index_copy_(0, place_A, logp_A)
        ended_A = _ended(token_A, eos_ids)
        if stop is not None:
            so_far = token_TR[: t + 1].t()[place_A].tolist()
            ended_A |= torch.tensor([stop(tokens) for tokens in so_far], device=row_R.device)
        if bool(ended_A.any()):
            length_R[place_A[ended_A]] = t + 1
            out.finished_B[row_R[place_A[ended_A]]] = True
            keep = torch.nonzero(~ended_A).squeeze(1)
            place_A, token_A = place_A[keep], token_A[keep]
            if not len(keep):
                break
            decoder.drop(keep)
        if t + 1 < longest:
            logits = decoder.step(token_A)
    out.tokens_BT[row_R] = token_TR.t()
    out.logp_BT[row_R] = logp_TR.t()
    out.length_B[row_R] = length_R


def _ended(token_A: Tensor, eos_ids: frozenset[int]) -> Tensor:
    ended_A = torch.zeros_like(token_A, dtype=torch.bool)
    for eos in eos_ids:
        ended_A |= token_A == eos
    return ended_A


def draw(logits_AV: Tensor, sampling: Sampling, uniform_A: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability under the distribution *before* top-k and top-p, both (A,).

    The token is the first whose cumulative probability exceeds the uniform number, so a token of probability 0 is
    never drawn. At temperature 0: the most likely token, log-probability at temperature 1.
    """
    if sampling.temperature == 0:
        logp_AV = torch.log_softmax(logits_AV.float(), dim=-1)
        token_A = logp_AV.argmax(dim=-1)
    else:
        assert uniform_A is not None
        logp_AV = torch.log_softmax(logits_AV.float() / sampling.temperature, dim=-1)
        p_AV = truncated(logp_AV.exp(), sampling.top_k, sampling.top_p)
        cumulative_AV = p_AV.cumsum(dim=-1, dtype=torch.float64 if p_AV.shape[1] > 4096 else None)
        total_A = cumulative_AV[:, -1]
        target_A = (uniform_A * total_A).to(total_A.dtype)
        target_A = torch.minimum(target_A, torch.nextafter(total_A, torch.zeros_like(total_A)))
        token_A = torch.searchsorted(cumulative_AV, target_A[:, None], right=True).squeeze(1)
    return token_A, logp_AV.gather(1, token_A[:, None]).squeeze(1)


def truncated(p_AV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Zero outside the k most likely tokens and outside the smallest set of mass ``top_p``; not renormalised."""
    if top_k is not None and top_k < p_AV.shape[1]:
        kth_A1 = p_AV.topk(top_k, dim=-1).values[:, -1:]
        p_AV = p_AV.masked_fill(p_AV < kth_A1, 0.0)
    if top_p is not None and top_p < 1:
        sorted_AV, order_AV = p_AV.sort(dim=-1, descending=True, stable=True)
        before_AV = sorted_AV.cumsum(dim=-1) - sorted_AV
        sorted_AV = sorted_AV.masked_fill(before_AV >= top_p * sorted_AV.sum(dim=-1, keepdim=True), 0.0)
        p_AV = torch.zeros_like(p_AV).scatter_(1, order_AV, sorted_AV)
    return p_AV


def _batches(model: Any, prompt_ids: Sequence[Sequence[int]], samples: int, new_tokens: int) -> list[list[int]]:
    """Prompts in batches of similar length (of equal length where a model cannot be padded) that fit the cache."""
    order = sorted(range(len(prompt_ids)), key=lambda i: (len(prompt_ids[i]), i))
    padded = full_attention(model)
    per_token = _cache_bytes_per_token(model)
    batches: list[list[int]] = []
    for i in order:
        length = len(prompt_ids[i])
        if batches:
            bytes_if_added = (len(batches[-1]) + 1) * samples * (length + new_tokens) * per_token
            same_length = len(prompt_ids[batches[-1][0]]) == length
            if bytes_if_added <= CACHE_BYTES and (padded or same_length):
                batches[-1].append(i)
                continue
        batches.append([i])
    return batches


def _cache_bytes_per_token(model: Any) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return 2 * config.num_hidden_layers * kv_heads * head_dim * model.dtype.itemsize


def _check_lengths(model: Any, prompt_ids: Sequence[Sequence[int]], new_tokens: int) -> None:
    context = context_window(model.config)
    for i, ids in enumerate(prompt_ids):
        if not len(ids):
            raise InputError("the prompt has no tokens", row=i + 1, fix="give it text, or a tokenizer with a BOS token")
        if context and len(ids) + new_tokens > context:
            raise InputError(
                f"{len(ids)} prompt tokens and {new_tokens} new ones exceed the model's context of {context}",
                row=i + 1,
                fix="shorten the prompt or lower max_new_tokens",
            )
