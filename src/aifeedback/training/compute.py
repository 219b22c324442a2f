"""Hidden states and log-probabilities for training, from shared prefixes; nothing is computed twice.

``sequence_logprobs`` and ``last_hidden`` are the engine's. Here stand two things that only training wants: hidden
states of *all* completion positions (a value head and the output head read the same ones), and a cross-entropy that
takes its gradient in the forward pass, a few rows at a time, so that no (rows × vocabulary) matrix is kept.

Where an architecture cannot share prefixes, and for the value network, batches are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aifeedback.inference.forward import ROWS, engine_of, hidden_at, last_hidden, plain_head, sequence_logprobs
from aifeedback.inference.padded import unwrapped
from aifeedback.inference.passes import by_segment, inputs, take, whole
from aifeedback.inference.prefix_tree import build_tree


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


__all__ = ["completion_hidden", "completion_nll", "engine_of", "hidden_states", "last_hidden", "sequence_logprobs"]


def completion_hidden(
    model: Any, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], *, grad: bool
) -> Tensor:
    """Final hidden states from which the tokens of each completion are predicted, (R, D), completion by completion.

    Row t of a completion is the state *before* its token t: the state that a value function reads.
    """
    sequences = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
    reads = [(i, len(p) - 1 + t) for i, p in enumerate(prompt_ids) for t in range(len(completion_ids[i]))]
    engine = engine_of(model)
    path = engine.path_for(max(map(len, sequences)))
    recomputes = grad and model.training and any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    with torch.set_grad_enabled(grad):
        if path == "padded" or recomputes:
            rows, places = [i for i, _ in reads], [p for _, p in reads]
            with engine.running("padded"):
                return hidden_states(unwrapped(model), sequences)[rows, places]
        tree = build_tree(sequences)
        pending = by_segment(tree, reads)
        ((pack, plan),) = whole(tree, sum(map(len, sequences)))
        order, places_U, at = take(pack, plan.layout, pending)
        with engine.running(path):
            hidden_UD = hidden_at(model, places_U.to(model.device), **inputs(model, plan, path, places_U))
        back = torch.empty_like(at)
        back[torch.tensor(order)] = at
        return hidden_UD.index_select(0, back.to(hidden_UD.device))


class NextTokens(NamedTuple):
    """What the next-token distributions of completions are made of, a row for every token, completion by completion."""

    state_RX: Tensor
    head_VX: Tensor | None
    """The output matrix; None where the states are logits already."""

    def logits(self, rows: slice) -> Tensor:
        """(C, V), fp32 at least."""
        state_CX = self.state_RX[rows]
        logits_CV = state_CX if self.head_VX is None else state_CX @ self.head_VX.T
        return logits_CV.float() if logits_CV.dtype in (torch.float16, torch.bfloat16) else logits_CV


def next_tokens(
    model: Any, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], *, grad: bool
) -> NextTokens:
    """The distributions from which the tokens of each completion are drawn."""
    head = plain_head(model)
    if head is not None:
        return NextTokens(completion_hidden(model, prompt_ids, completion_ids, grad=grad), head.weight)
    ids_BT, mask_BT = pad([[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)], device=model.device)
    rows = [i for i, completion in enumerate(completion_ids) for _ in completion]
    places = [len(p) - 1 + t for p, c in zip(prompt_ids, completion_ids, strict=True) for t in range(len(c))]
    with torch.set_grad_enabled(grad), engine_of(model).running("padded"):
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).logits
    return NextTokens(logits_BTV[rows, places], None)


def completion_nll(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    scale: Sequence[float],
) -> Tensor:
    """Σ over completions of scale·Σ_t −log p(token t), a scalar; differentiable once.

    Uses the fused cross-entropy where the output head is a plain matrix product, the model's own logits elsewhere.
    """
    head = plain_head(model)
    if head is None:
        logp = sequence_logprobs(model, prompt_ids, completion_ids, grad=True)
        return -torch.stack([s * logp_T.sum() for s, logp_T in zip(scale, logp, strict=True)]).sum()
    hidden_RD = completion_hidden(model, prompt_ids, completion_ids, grad=True)
    device = hidden_RD.device
    token_R = torch.tensor([t for c in completion_ids for t in c], device=device)
    scale_R = torch.tensor([s for s, c in zip(scale, completion_ids, strict=True) for _ in c], device=device)
    return _FusedNll.apply(hidden_RD, head.weight, token_R, scale_R)  # type: ignore[return-value]


class _FusedNll(torch.autograd.Function):
    """Σ_r scale_r·(logsumexp(h_r·Wᵀ) − h_r·w_token): value and both gradients, one chunk of rows after another."""

    @staticmethod
    def forward(ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, token_R: Tensor, scale_R: Tensor) -> Tensor:
        total = torch.zeros((), device=hidden_RD.device)
        grad_hidden_RD = torch.empty_like(hidden_RD) if ctx.needs_input_grad[0] else None
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for at in range(0, len(token_R), ROWS):
            part = slice(at, at + ROWS)
            token_C, scale_C, hidden_CD = token_R[part, None], scale_R[part, None], hidden_RD[part]
            logits_CV = (hidden_CD @ weight_VD.T).float()
            lse_C = logits_CV.logsumexp(-1, keepdim=True)
            total += ((lse_C - logits_CV.gather(1, token_C)) * scale_C).sum()
            gradient_CV = logits_CV.sub_(lse_C).exp_().mul_(scale_C).scatter_add_(1, token_C, -scale_C)
            gradient_CV = gradient_CV.to(hidden_RD.dtype)
            if grad_hidden_RD is not None:
                grad_hidden_RD[part] = gradient_CV @ weight_VD.to(gradient_CV.dtype)
            if grad_weight_VD is not None:
                grad_weight_VD += gradient_CV.T @ hidden_CD
        ctx.save_for_backward(grad_hidden_RD, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden_RD, grad_weight_VD = ctx.saved_tensors
        (outer,) = grads
        return (
            None if grad_hidden_RD is None else grad_hidden_RD * outer,
            None if grad_weight_VD is None else grad_weight_VD * outer,
            None,
            None,
        )
