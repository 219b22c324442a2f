"""Direct preference optimisation with one soft label per pair.

Rafailov et al. 2023 (arXiv 2305.18290) eq. 7 on Δ = β·[(log π/π_ref)(first) − (log π/π_ref)(second)],
weighted by p and 1−p.
Where we differ: the label is the pair's own probability (human label: 0 or 1), and the reference's log-probabilities
are computed once for the whole data set before the first step, by the starting policy itself where it is the reference,
so there is never a second model in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aifeedback.training import compute, folders
from aifeedback.training.examples import Pair, PairIds, encode_pairs, split_by_tokens
from aifeedback.training.loop import Loss, Session, Title, TrainResult, lowest_loss
from aifeedback.training.losses import dpo_margin, ipo_loss, soft_dpo_loss
from aifeedback.training.objective import (
    Micro,
    RowObjective,
    encoded,
    planned_steps,
    row_order,
    share_of,
    stop_rule,
)
from aifeedback.training.settings import DpoConfig
from aifeedback.types import Progress, silent


class DpoObjective(RowObjective):
    """Soft-label DPO against stored reference log-probabilities."""

    def __init__(
        self, model: Any, rows: Sequence[PairIds], *, reference_N2: Tensor, config: DpoConfig, **rest: Any
    ) -> None:
        super().__init__(model, rows, **rest)
        self.reference = {row.row: pair for row, pair in zip(rows, reference_N2.unbind(0), strict=True)}
        self.beta, self.loss = config.beta, config.loss

    def forward(self, micro: Micro) -> Loss:
        rows: list[PairIds] = micro.rows
        first_B, second_B = pair_logprobs(self.model, rows, grad=True)
        reference_B2 = torch.stack([self.reference[r.row] for r in rows]).to(first_B.device)
        margin_B = dpo_margin(first_B, second_B, reference_B2[:, 0], reference_B2[:, 1], beta=self.beta)
        p_B = torch.tensor([r.p_first for r in rows], device=margin_B.device, dtype=margin_B.dtype)
        weight_B = torch.tensor([r.weight for r in rows], device=margin_B.device, dtype=margin_B.dtype) * micro.scale
        loss_B = soft_dpo_loss(margin_B, p_B) if self.loss == "sigmoid" else ipo_loss(margin_B, p_B, beta=self.beta)
        agrees_B = torch.sign(margin_B) == torch.sign(p_B - 0.5)
        better_B = torch.where(p_B > 0.5, first_B - reference_B2[:, 0], second_B - reference_B2[:, 1])
        return Loss(
            (loss_B * weight_B).sum(),
            {
                "accuracy": (agrees_B * weight_B).sum(),
                "margin": (margin_B.detach().abs() * weight_B).sum(),
                "better_log_ratio": (better_B.detach() * weight_B).sum(),
            },
        )


def pair_logprobs(model: Any, rows: Sequence[PairIds], *, grad: bool) -> tuple[Tensor, Tensor]:
    """Summed log p of both completions of each row, fp32 at least. Two tensors of shape (B,)."""
    prompts = [r.prompt for r in rows]
    logp = compute.sequence_logprobs(
        model, prompts + prompts, [r.first for r in rows] + [r.second for r in rows], grad=grad
    )
    first_B, second_B = torch.stack([logp_T.sum() for logp_T in logp]).chunk(2)
    return first_B, second_B


def reference_logprobs(model: Any, rows: Sequence[PairIds], *, forward_tokens: int) -> Tensor:
    """Summed log p of (first, second) under the reference for every row, without gradient. Shape (N, 2)."""
    parts = []
    for group in split_by_tokens(range(len(rows)), [r.tokens for r in rows], limit=forward_tokens):
        parts.append(torch.stack(pair_logprobs(model, [rows[i] for i in group], grad=False), dim=-1).cpu())
    return torch.cat(parts)


def heldout_figures(model: Any, held: Sequence[PairIds], reference_N2: Tensor, config: DpoConfig) -> dict[str, float]:
    """Mean loss on held-out pairs, and the share whose order the policy's log-ratios share (p_first = ½ has none)."""
    own_N2 = reference_logprobs(model, held, forward_tokens=config.forward_tokens)
    margin_N = dpo_margin(own_N2[:, 0], own_N2[:, 1], reference_N2[:, 0], reference_N2[:, 1], beta=config.beta).double()
    p_N = torch.tensor([row.p_first for row in held], dtype=torch.float64)
    is_sigmoid = config.loss == "sigmoid"
    loss_N = soft_dpo_loss(margin_N, p_N) if is_sigmoid else ipo_loss(margin_N, p_N, beta=config.beta)
    decided_N = p_N != 0.5
    agrees_N = torch.sign(margin_N) == torch.sign(p_N - 0.5)
    figures = {"heldout_loss": float(loss_N.mean()), "heldout_n": float(decided_N.sum())}
    if bool(decided_N.any()):
        figures["heldout_accuracy"] = float(agrees_N[decided_N].double().mean())
    return figures


def train_dpo(
    model_dir: str | PathLike[str],
    rows: Sequence[Pair],
    config: DpoConfig,
    out: str | PathLike[str],
    *,
    reference_dir: str | PathLike[str] | None = None,
    heldout: Sequence[Pair] | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Trains a causal LM folder on labelled comparisons and writes the folder ``out``; run again, it resumes.

    The reference is ``reference_dir``, or the starting model itself. Rows with an unknown label or that are too
    long are left out and counted. ``heldout`` pairs give ``heldout_loss`` and ``heldout_accuracy``, every
    ``evaluate_every`` steps and at the end. Raises TrainingError, ModelError, and RecipeError for ``evaluate_every``
    or ``patience`` without held-out pairs.
    """
    reference_dir = reference_dir or model_dir
    session = Session(
        "dpo", base=model_dir, out=out, config=config, rows=rows, heldout=heldout or (), further=[reference_dir]
    )
    if (done := session.finished()) is not None:
        return done
    stop = stop_rule(config, heldout)
    tokenizer = folders.load_tokenizer(model_dir)
    kept, held, skipped = encoded(encode_pairs, tokenizer, rows, heldout, config, model_dir)
    # One model at a time: where the policy starts as the reference, it is asked before it is adapted.
    reference = folders.load_policy(reference_dir, dtype=session.dtype).to(session.accelerator.device).eval()
    reference_N2 = reference_logprobs(reference, kept, forward_tokens=config.forward_tokens)
    held_N2 = reference_logprobs(reference, held, forward_tokens=config.forward_tokens) if held else None
    policy = reference if Path(reference_dir) == Path(model_dir) else None
    del reference
    if policy is None:
        policy = folders.load_policy(model_dir, dtype=session.dtype)
    objective = DpoObjective(
        session.adapt(policy),
        kept,
        reference_N2=reference_N2,
        config=config,
        order=row_order(kept, config, prompts=[row.comparison.prompt for row in rows]),
        forward_tokens=config.forward_tokens,
        share=share_of(session.accelerator),
    )

    def evaluate(_: int) -> dict[str, float]:
        assert held_N2 is not None
        return heldout_figures(objective.model, held, held_N2, config)

    outcome = session.run(
        objective,
        steps=planned_steps(len(kept), config),
        progress=progress,
        evaluate=evaluate if held else None,
        stop=stop,
        best=lowest_loss if stop else None,
    )
    title = Title("DPO policy", "Trained on soft preference labels by direct preference optimisation.")
    return session.conclude(objective.model, tokenizer, outcome, title, rows=len(kept), skipped=skipped)
