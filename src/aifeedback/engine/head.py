"""log p of given tokens from hidden states, a few rows of logits at a time; differentiable.

Neither pass keeps a (rows × vocabulary) matrix: the backward pass computes the logits again, which costs one product
more and saves, for R rows and V words, 8·R·V bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aifeedback.engine.plain import unwrapped

SCALED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "dim_model_base")
"""Settings of models that do more to their logits than the output matrix."""
ROWS = 256
"""Rows of logits that are held at a time; fewer make the products slow."""


def plain_head(model: Any) -> nn.Linear | None:
    """The output matrix of a model whose logits are nothing but hidden states times it; None for every other."""
    head = unwrapped(model).get_output_embeddings()
    config = unwrapped(model).config.get_text_config()
    is_plain = type(head) is nn.Linear and head.bias is None and type(head.weight) is nn.Parameter
    return head if is_plain and not any(getattr(config, name, None) for name in SCALED_HEADS) else None


class TokenLogprobs(torch.autograd.Function):
    """``TokenLogprobs.apply(hidden (R, D), weight (V, D), token (R,), temperature)``: (R,) log p in nats, fp32."""

    @staticmethod
    def forward(ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, token_R: Tensor, temperature: float) -> Tensor:
        logp_R = torch.empty(len(token_R), device=hidden_RD.device)
        lse_R = torch.empty_like(logp_R)
        for rows, logits_CV in _chunks(hidden_RD, weight_VD, temperature):
            lse_R[rows] = logits_CV.logsumexp(-1)
            logp_R[rows] = logits_CV.gather(1, token_R[rows, None]).squeeze(1) - lse_R[rows]
        ctx.save_for_backward(hidden_RD, weight_VD, token_R, lse_R)
        ctx.temperature = temperature
        return logp_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden_RD, weight_VD, token_R, lse_R = ctx.saved_tensors
        grad_R1 = (grads[0] / ctx.temperature)[:, None]
        d_hidden_RD = torch.empty_like(hidden_RD) if ctx.needs_input_grad[0] else None
        d_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for rows, logits_CV in _chunks(hidden_RD, weight_VD, ctx.temperature):
            slope_CV = logits_CV.sub_(lse_R[rows, None]).exp_().mul_(-grad_R1[rows])
            slope_CV = slope_CV.scatter_add_(1, token_R[rows, None], grad_R1[rows]).to(hidden_RD.dtype)
            if d_hidden_RD is not None:
                torch.mm(slope_CV, weight_VD, out=d_hidden_RD[rows])
            if d_weight_VD is not None:
                d_weight_VD.addmm_(slope_CV.T, hidden_RD[rows])
        return d_hidden_RD, d_weight_VD, None, None


def _chunks(hidden_RD: Tensor, weight_VD: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their logits in fp32); the logits may be written to."""
    for at in range(0, len(hidden_RD), ROWS):
        rows = slice(at, at + ROWS)
        logits_CV = (hidden_RD[rows] @ weight_VD.T).float()
        yield rows, logits_CV.div_(temperature) if temperature != 1.0 else logits_CV
