"""One update of a policy on a step's samples: their micro-batches and the loss of each.

With ρ = π/π_old, the ratio to the policy that sampled, w = π_old/π_sampler where another engine drew the samples, and A
the advantage, the gradient of a response is

    −Σ_t w_t·ρ_t·A_t·∇log π(a_t), and zero at tokens that are clipped (PPO, arXiv 1707.06347, eq. 7)

On the policy's own fresh samples ρ = w = 1, which is REINFORCE. It is written with weights that carry no gradient, so
that one sum over tokens serves ratios of tokens and of whole responses; the gradient is that of ρ·A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aifeedback.training.loop import Loss
from aifeedback.training.losses import importance, is_clipped, kl_loss, policy_gradient_loss, value_loss
from aifeedback.training.objective import Share
from aifeedback.training.rollout import Rollout, row_batches
from aifeedback.training.settings import RLConfig


class Samples(NamedTuple):
    """What a step knows of this process's samples before its first update."""

    rollout: Rollout
    """With the log-probabilities of the policy that is updated, at the sampling temperature."""
    reference: Sequence[Tensor]
    """Log-probabilities under the reference, per token."""
    weight: Sequence[Tensor] | None
    """π_old/π_sampler per token; None where the policy itself sampled, or no weights are wanted."""


class Weighed(NamedTuple):
    """What the samples of all processes are worth, (B,)."""

    advantage_B: Tensor
    """NaN: left out of the gradient."""
    target_B: Tensor
    length_B: Tensor


class Micro(NamedTuple):
    """Rows of one gradient pass. ``scale`` divides their summed loss; an empty pass has scale 0."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    advantage_B: Tensor
    """R − b per row; the value network's estimate is subtracted in the pass."""
    target_B: Tensor
    """R − b before any normalisation: what the value network learns."""
    scale: float
    factor_B: Tensor
    """Multiplies a row's policy loss: the normalisation by length."""
    old_T: Tensor
    """Log-probabilities under the policy that was sampled; all rows' tokens in a row."""
    reference_T: Tensor
    weight_T: Tensor | None
    token_scale: float
    """Divides sums over tokens for figures: one over the step's tokens, 0 for an empty pass."""

    @property
    def length_B(self) -> Tensor:
        return torch.tensor([len(ids) for ids in self.completion_ids])


def micro_batches(
    samples: Samples, weighed: Weighed, config: RLConfig, share: Share, *, most: Callable[[int], int]
) -> list[Micro]:
    """This process's gradient passes; every process gets equally many, so that they stay in step.

    ``most``: the largest of a number over all processes.
    """
    is_weighed_B = ~weighed.advantage_B.isnan()
    tokens = float(weighed.length_B[is_weighed_B].sum())
    rows_in_all = int(is_weighed_B.sum())
    each = len(weighed.advantage_B) // share.world
    mine = slice(share.rank * each, (share.rank + 1) * each)
    factor_B = _length_factor(weighed.length_B, tokens / max(1, rows_in_all), config)[mine]
    rows = [i for i in range(each) if bool(is_weighed_B[mine][i])]
    batches = row_batches(samples.rollout, rows, limit=config.forward_tokens)

    def micro(batch: Sequence[int], scale: float, token_scale: float, advantage_B: Tensor, target_B: Tensor) -> Micro:
        return Micro(
            [samples.rollout.prompt_ids[i] for i in batch],
            [samples.rollout.completion_ids[i] for i in batch],
            advantage_B,
            target_B,
            scale,
            factor_B[list(batch)],
            torch.cat([samples.rollout.logp[i] for i in batch]),
            torch.cat([samples.reference[i] for i in batch]),
            None if samples.weight is None else torch.cat([samples.weight[i] for i in batch]),
            token_scale,
        )

    micros = [
        micro(
            batch,
            1.0 / max(1, rows_in_all),
            1.0 / max(1.0, tokens),
            weighed.advantage_B[mine][batch],
            weighed.target_B[mine][batch],
        )
        for batch in batches
    ]
    passes = max(1, most(len(batches)))
    empty = torch.zeros(1, dtype=torch.float64)
    return micros + [micro([0], 0.0, 0.0, empty, empty)] * (passes - len(micros))


def _length_factor(length_B: Tensor, mean: float, config: RLConfig) -> Tensor:
    if config.length_normalisation == "response":
        return 1.0 / length_B.clamp(min=1.0)
    if config.length_normalisation == "batch":
        return torch.full_like(length_B, 1.0 / max(1.0, mean))
    return torch.ones_like(length_B)


def policy_loss(logp_T: Tensor, micro: Micro, config: RLConfig, *, value_T: Tensor | None = None) -> Loss:
    """The loss of one pass: policy gradient, the KL where it is a loss, and the value network's error."""
    length_B = micro.length_B
    advantage_T = micro.advantage_B.repeat_interleave(length_B).to(logp_T)
    weight_T = micro.factor_B.repeat_interleave(length_B).to(logp_T)
    figures: dict[str, Tensor] = {}
    if micro.weight_T is not None:
        given_T = micro.weight_T.to(logp_T)
        weight_T = weight_T * given_T
        figures["importance_weight"] = given_T.sum() * micro.token_scale
    kl_weight_T = weight_T
    if value_T is not None:
        advantage_T = advantage_T - value_T.detach()
    if config.updates_per_rollout > 1 or config.clip_range is not None:
        old_T = micro.old_T.to(logp_T)
        ratio_T = importance(logp_T, old_T, length_B, level=config.importance_level)
        weight_T = weight_T * ratio_T
        moved_T = logp_T.detach() - old_T
        figures["update_kl"] = (torch.expm1(moved_T) - moved_T).sum() * micro.token_scale
        if config.clip_range is not None:
            clipped_T = is_clipped(ratio_T, advantage_T, config.clip_range)
            weight_T = torch.where(clipped_T, 0.0, weight_T)
            figures["clip_share"] = clipped_T.sum() * micro.token_scale
    total = policy_gradient_loss(logp_T, advantage_T, weight_T) * micro.scale
    if config.kl_term != "reward":
        kl_T = kl_loss(logp_T, micro.reference_T.to(logp_T), estimator=config.kl_term)
        total = total + config.beta * (kl_T * kl_weight_T).sum() * micro.scale
    if value_T is not None:
        target_T = micro.target_B.repeat_interleave(length_B).to(value_T)
        lost = value_loss(value_T, target_T, torch.ones_like(value_T)) * micro.scale
        total = total + config.value_weight * lost
        figures["value_loss"] = lost
    return Loss(total, figures)
