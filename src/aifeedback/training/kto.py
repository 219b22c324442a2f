"""KTO: a policy from single verdicts, good or bad, without pairs (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7–8).

With h = log π/π_ref of the response and z = max(0, mean log π/π_ref of responses to *other* prompts), an estimate of the KL
without gradient,

    loss = p·λ_good·(1 − σ(β(h − z))) + (1−p)·λ_bad·(1 − σ(β(z − h)))

Where we differ: the verdict is a probability p (a judge's, or 0 or 1 of a person); the other prompt's response is fixed for
each row, so that the reference is evaluated once before training and is not in memory; z is the mean over the rows of a
step, of all processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aifeedback.errors import TrainingError
from aifeedback.training import compute, folders
from aifeedback.training.examples import encode_sft, split_by_tokens
from aifeedback.training.loop import Loss, Plan, Session, Title, TrainResult, lowest_loss
from aifeedback.training.losses import kto_loss
from aifeedback.training.objective import RowObjective, encoded, planned_steps, row_order, share_of, stop_rule
from aifeedback.training.settings import KtoConfig
from aifeedback.types import Completion, Progress, Prompt, silent


class VerdictRow(NamedTuple):
    """A response and the probability that it is good; None is unknown and is left out."""

    prompt: Prompt
    completion: Completion
    p_good: float | None
    weight: float = 1.0


class VerdictIds(NamedTuple):
    """Token ids of one response, and of a response to another prompt that the KL is estimated with."""

    prompt: list[int]
    completion: list[int]
    other: list[int]
    p_good: float
    weight: float
    row: int

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


def encode_verdicts(tokenizer: Any, rows: Sequence[VerdictRow], **limits: Any) -> tuple[list[VerdictIds], Counter[str]]:
    """Usable rows as token ids, and how many were left out for which reason.

    The other response is that of the next row with another prompt; a file with a single prompt has none.
    """
    known = [i for i, row in enumerate(rows) if row.p_good is not None]
    for i in known:
        if not 0.0 <= float(rows[i].p_good or 0.0) <= 1.0:
            raise TrainingError(f"row {i + 1}: p_good = {rows[i].p_good!r} is not a probability in [0, 1]")
    kept, skipped = encode_sft(tokenizer, [(rows[i].prompt, rows[i].completion) for i in known], **limits)
    if unknown := len(rows) - len(known):
        skipped["verdict_unknown"] += unknown
    examples = []
    for at, ids in enumerate(kept):
        row = rows[known[ids.row]]
        later = (kept[(at + n) % len(kept)] for n in range(1, len(kept)))
        other = next((one for one in later if one.prompt != ids.prompt), None)
        if other is None:
            raise TrainingError("all rows have the same prompt, and KTO compares with responses to other prompts")
        p_good = float(row.p_good or 0.0)
        examples.append(VerdictIds(ids.prompt, ids.completion, other.completion, p_good, row.weight, known[ids.row]))
    return examples, skipped


class KtoMicro(NamedTuple):
    """Rows of one forward pass. ``scale`` divides their summed loss; an empty pass has scale 0."""

    rows: list[VerdictIds]
    scale: float
    kl: float
    """z, in nats."""


class KtoObjective(RowObjective):
    """Soft-verdict KTO against stored reference log-probabilities."""

    def __init__(
        self, model: Any, rows: Sequence[VerdictIds], *, reference_N2: Tensor, config: KtoConfig, **rest: Any
    ) -> None:
        super().__init__(model, rows, **rest)
        self.reference = {row.row: pair for row, pair in zip(rows, reference_N2.unbind(0), strict=True)}
        self.loss = loss_of(config)

    def plan(self, step: int) -> Plan:
        plan = super().plan(step)
        rows = [row for micro in plan.micro if micro.scale for row in micro.rows]
        other_N = logprobs(self.model, rows, forward_tokens=self.forward_tokens)[:, 1] if rows else torch.zeros(0)
        ratios = [float(own - self.reference[row.row][1]) for own, row in zip(other_N, rows, strict=True)]
        kl = max(0.0, _mean_over_processes(ratios, self.share.world))
        # The loop adds figures up, and every process has the same one.
        figures = {"kl": kl if self.share.rank == 0 else 0.0}
        return Plan([KtoMicro(micro.rows, micro.scale, kl) for micro in plan.micro], plan.tokens, figures)

    def forward(self, micro: KtoMicro) -> Loss:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = micro.rows
        logp = compute.sequence_logprobs(self.model, [r.prompt for r in rows], [r.completion for r in rows], grad=True)
        own_B = torch.stack([logp_T.sum() for logp_T in logp])
        ratio_B = own_B - torch.stack([self.reference[r.row][0] for r in rows]).to(own_B)
        p_B, weight_B = own_B.new_tensor([r.p_good for r in rows]), own_B.new_tensor([r.weight for r in rows])
        weight_B = weight_B * micro.scale
        loss_B = self.loss(ratio_B, p_B, micro.kl)
        agrees_B = torch.sign(ratio_B.detach() - micro.kl) == torch.sign(p_B - 0.5)
        figures = {"accuracy": (agrees_B * weight_B).sum(), "log_ratio": (ratio_B.detach() * weight_B).sum()}
        return Loss((loss_B * weight_B).sum(), figures)


def loss_of(config: KtoConfig) -> Callable[[Tensor, Tensor, float], Tensor]:
    """``kto_loss`` with the weights of the settings."""
    return partial(kto_loss, beta=config.beta, good_weight=config.good_weight, bad_weight=config.bad_weight)


def _mean_over_processes(mine: list[float], world: int) -> float:
    if world > 1:
        import torch.distributed as dist

        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, mine)
        mine = [value for part in parts for value in part]
    return sum(mine) / max(1, len(mine))


def logprobs(model: Any, rows: Sequence[VerdictIds], *, forward_tokens: int) -> Tensor:
    """Summed log p of the response and of the other one, for every row, without gradient. Shape (N, 2)."""
    parts = []
    tokens = [2 * len(r.prompt) + len(r.completion) + len(r.other) for r in rows]
    for group in split_by_tokens(range(len(rows)), tokens, limit=forward_tokens):
        part = [rows[i] for i in group]
        prompts = [r.prompt for r in part]
        responses = [r.completion for r in part] + [r.other for r in part]
        logp = compute.sequence_logprobs(model, prompts + prompts, responses, grad=False)
        parts.append(torch.stack([logp_T.sum() for logp_T in logp]).view(2, -1).T.cpu())
    return torch.cat(parts)


def heldout_figures(
    model: Any, held: Sequence[VerdictIds], reference_N2: Tensor, config: KtoConfig
) -> dict[str, float]:
    """Mean loss on held-out verdicts, and the share whose side of z is that of their verdict (½ has none)."""
    ratio_N2 = (logprobs(model, held, forward_tokens=config.forward_tokens) - reference_N2).double()
    kl = max(0.0, float(ratio_N2[:, 1].mean()))
    p_N = torch.tensor([row.p_good for row in held], dtype=torch.float64)
    decided_N = p_N != 0.5
    agrees_N = torch.sign(ratio_N2[:, 0] - kl) == torch.sign(p_N - 0.5)
    figures = {"heldout_loss": float(loss_of(config)(ratio_N2[:, 0], p_N, kl).mean())}
    figures["heldout_n"] = float(decided_N.sum())
    if bool(decided_N.any()):
        figures["heldout_accuracy"] = float(agrees_N[decided_N].double().mean())
    return figures


def train_kto(
    model_dir: str | PathLike[str],
    rows: Sequence[VerdictRow],
    config: KtoConfig,
    out: str | PathLike[str],
    *,
    reference_dir: str | PathLike[str] | None = None,
    heldout: Sequence[VerdictRow] | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train a causal LM folder on single verdicts and write the folder ``out``; run again, it resumes.

    The reference is ``reference_dir``, or the starting model itself. Rows with an unknown verdict or that are too long
    are left out and counted. Raises TrainingError, ModelError, and RecipeError for ``evaluate_every`` or ``patience``
    without held-out rows.
    """
    reference_dir = reference_dir or model_dir
    keys = [(row.prompt, row.completion, f"{row.p_good} {row.weight}") for row in rows]
    held_keys = [(row.prompt, row.completion, f"{row.p_good} {row.weight}") for row in heldout or ()]
    session = Session(
        "kto", base=model_dir, out=out, config=config, rows=keys, heldout=held_keys, further=[reference_dir]
    )
    if (done := session.finished()) is not None:
        return done
    stop = stop_rule(config, heldout)
    tokenizer = folders.load_tokenizer(model_dir)
    kept, held, skipped = encoded(encode_verdicts, tokenizer, rows, heldout, config, model_dir)
    reference = folders.load_policy(reference_dir, dtype=session.dtype).to(session.accelerator.device).eval()
    reference_N2 = logprobs(reference, kept, forward_tokens=config.forward_tokens)
    held_N2 = logprobs(reference, held, forward_tokens=config.forward_tokens) if held else None
    policy = reference if Path(reference_dir) == Path(model_dir) else None
    del reference
    if policy is None:
        policy = folders.load_policy(model_dir, dtype=session.dtype)
    objective = KtoObjective(
        session.adapt(policy),
        kept,
        reference_N2=reference_N2,
        config=config,
        order=row_order(kept, config, prompts=[row.prompt for row in rows]),
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
    title = Title("KTO policy", "Trained on single verdicts by Kahneman–Tversky optimisation.")
    return session.conclude(objective.model, tokenizer, outcome, title, rows=len(kept), skipped=skipped)
