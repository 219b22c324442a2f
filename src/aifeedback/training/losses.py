"""The objectives as pure functions on tensors; no model, no settings, no logging.

Axes: B sequences or pairs, T tokens of a completion, K options. Every function returns one loss per item, so that the
caller weights, masks and averages in the open.

Sources: soft-label reward model, Lee et al. 2023 (arXiv 2309.00267) §2.2; DPO, Rafailov et al. 2023 (arXiv 2305.18290)
eq. 7, with the pair's own probability in place of a constant label smoothing (cDPO); IPO, Azar et al. 2023 (arXiv
2310.12036) eq. 17; REINFORCE with a baseline, Williams 1992; KL estimators, Schulman 2020 (joschu.net/blog/kl-approx).
Where we differ: labels are probabilities everywhere. A human label is the case p ∈ {0, 1}.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def token_nll(logits_TV: Tensor, token_T: Tensor) -> Tensor:
    """−log p(token) at each position, in nats; computed in fp32 at least. Shape (T,)."""
    return F.cross_entropy(_at_least_fp32(logits_TV), token_T, reduction="none")


def token_logp(logits_TV: Tensor, token_T: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log p(token) at each position at a sampling temperature > 0, in nats. Shape (T,)."""
    logits_TV = _at_least_fp32(logits_TV)
    return -F.cross_entropy(logits_TV if temperature == 1.0 else logits_TV / temperature, token_T, reduction="none")


def soft_preference_loss(margin_B: Tensor, p_first_B: Tensor, *, lead: float | Tensor = 0.0) -> Tensor:
    """−p·log σ(Δ) − (1−p)·log σ(−Δ), Δ = score(first) − score(second); p in [0, 1]. Shape (B,).

    ``lead``, one for all or one per pair, is subtracted from the difference in both orders: the better one has to lead by
    it (Touvron et al. 2023, arXiv 2307.09288). Exact under a swap: (Δ, p) and (−Δ, 1−p) give the same bits as long as
    1−(1−p) = p.
    """
    return -(p_first_B * F.logsigmoid(margin_B - lead) + (1.0 - p_first_B) * F.logsigmoid(-margin_B - lead))


def centring_loss(first_B: Tensor, second_B: Tensor) -> Tensor:
    """(r₁ + r₂)²: preferences leave the level of rewards open, this holds it at zero (arXiv 2312.09244). Shape (B,)."""
    return (first_B + second_B).square()


def dpo_margin(
    logp_first_B: Tensor, logp_second_B: Tensor, ref_logp_first_B: Tensor, ref_logp_second_B: Tensor, *, beta: float
) -> Tensor:
    """β·[(log π/π_ref)(first) − (log π/π_ref)(second)] of summed log-probabilities. Shape (B,)."""
    return beta * ((logp_first_B - ref_logp_first_B) - (logp_second_B - ref_logp_second_B))


def soft_dpo_loss(margin_B: Tensor, p_first_B: Tensor) -> Tensor:
    """DPO with the pair's own label: the soft preference loss on ``dpo_margin``. p = 1 is eq. 7 of the paper."""
    return soft_preference_loss(margin_B, p_first_B)


def ipo_loss(margin_B: Tensor, p_first_B: Tensor, *, beta: float) -> Tensor:
    """(h − 1/(2β))² for the better, (h + 1/(2β))² for the worse order, weighted by p; h = margin/β. Shape (B,).

    h is the difference of *summed* log-ratios, as in the paper's eq. 17 (some code averages over tokens).
    """
    h_B = margin_B / beta
    target = 1.0 / (2.0 * beta)
    return p_first_B * (h_B - target).square() + (1.0 - p_first_B) * (h_B + target).square()


def kto_loss(
    ratio_B: Tensor, p_good_B: Tensor, kl: float, *, beta: float, good_weight: float = 1.0, bad_weight: float = 1.0
) -> Tensor:
    """p·λ_good·(1 − σ(β(h − z))) + (1−p)·λ_bad·(1 − σ(β(z − h))), h = log π/π_ref, z the KL. Shape (B,)."""
    lead_B = beta * (ratio_B - kl)
    return p_good_B * good_weight * torch.sigmoid(-lead_B) + (1.0 - p_good_B) * bad_weight * torch.sigmoid(lead_B)


def policy_gradient_loss(logp_BT: Tensor, advantage_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """−Σ_t log π(a_t)·stopgrad(A_t) over the tokens that the mask counts: one REINFORCE term each. Shape (B,).

    Summed, not averaged: dividing by the length biases the gradient (arXiv 2503.20783).
    """
    return -(logp_BT * advantage_BT.detach() * mask_BT).sum(-1)


def importance(logp_T: Tensor, old_T: Tensor, length_B: Tensor, *, level: str, cap: float | None = None) -> Tensor:
    """π/π_old of every token, responses in a row: of the token alone, or of its whole response. Shape (T,); no gradient.

    ``cap`` truncates the ratio from above (Ionides 2008). E_old[ratio·f] = E_π[f] holds for the ratio of a response
    without a cap; that of single tokens leaves out the ratio of their prefix.
    """
    log_T = (logp_T - old_T).detach()
    if level == "sequence":
        row_T = torch.repeat_interleave(torch.arange(len(length_B), device=log_T.device), length_B.to(log_T.device))
        log_T = log_T.new_zeros(len(length_B)).index_add(0, row_T, log_T)[row_T]
    ratio_T = log_T.exp()
    return ratio_T if cap is None else ratio_T.clamp(max=cap)


def is_clipped(ratio_T: Tensor, advantage_T: Tensor, clip_range: float) -> Tensor:
    """Where min(ρA, clip(ρ, 1−ε, 1+ε)·A) is flat in ρ (Schulman et al. 2017, arXiv 1707.06347, eq. 7). Shape (T,)."""
    return torch.where(advantage_T > 0, ratio_T > 1.0 + clip_range, ratio_T < 1.0 - clip_range)


def kl_loss(logp_T: Tensor, ref_logp_T: Tensor, *, estimator: str) -> Tensor:
    """A KL estimate of every token as a loss. Shape (T,).

    ``k1`` = log π − log π_ref has an expected gradient of zero on samples of π: it descends nothing, and adds noise.
    ``k3`` = π_ref/π − 1 − log(π_ref/π) has that of KL(π_ref‖π) of the next token, prefixes held fixed (GRPO, arXiv
    2402.03300).
    """
    if estimator == "k1":
        return logp_T - ref_logp_T
    log_r_T = ref_logp_T - logp_T
    return torch.expm1(log_r_T) - log_r_T


def next_token_kl(logits_TV: Tensor, other_TV: Tensor) -> Tensor:
    """KL(π‖other) of each next token, summed over the vocabulary. Shape (T,)."""
    logp_TV, other_TV = logits_TV.log_softmax(-1), other_TV.log_softmax(-1)
    return (logp_TV.exp() * (logp_TV - other_TV)).sum(-1)


def value_loss(value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Σ_t (Z_t − V_t)² over the tokens that the mask counts. Shape (B,)."""
    return ((return_BT.detach() - value_BT).square() * mask_BT).sum(-1)


def k1_kl(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Σ_t log π − log π_ref: unbiased for KL(π‖π_ref) on samples of π; may be negative. Shape (B,).

    In the *reward* it gives the exact reverse-KL gradient; as a loss its expected gradient is zero.
    """
    return ((logp_BT - ref_logp_BT) * mask_BT).sum(-1)


def k3_kl(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over counted tokens of r − 1 − log r, r = π_ref/π: unbiased for the token KL, never negative. Shape (B,).

    For the log only: as a loss it descends another divergence.
    """
    log_r_BT = (ref_logp_BT - logp_BT) * mask_BT
    k3_BT = torch.expm1(log_r_BT) - log_r_BT
    return k3_BT.sum(-1) / mask_BT.sum(-1).clamp(min=1)


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
