"""Supervised fine-tuning: the mean negative log-probability of the completion's tokens, prompts not counted.

A step's mean is over all completion tokens of its rows (a long answer counts more than a short one), as TRL does it.
In a dialogue the last assistant turn is the completion; with ``loss_on="all"`` the earlier ones are too, each after the
prompt that it had then. They are branches of one token tree, so the dialogue is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from aifeedback.training import compute, folders
from aifeedback.training.examples import SftIds, SftRow, encode_sft, split_by_tokens
from aifeedback.training.loop import Loss, Session, Title, TrainResult, lowest_loss
from aifeedback.training.objective import (
    Micro,
    RowObjective,
    encoded,
    planned_steps,
    row_order,
    share_of,
    stop_rule,
)
from aifeedback.training.settings import SftConfig
from aifeedback.types import Completion, Progress, Prompt, silent


class SftObjective(RowObjective):
    """Token-mean cross-entropy on completions."""

    def weight(self, row: SftIds) -> float:
        return row.weight * row.counted

    def forward(self, micro: Micro) -> Loss:
        rows: list[SftIds] = micro.rows
        turns = [(*turn, row.weight * micro.scale) for row in rows for turn in row.turns]
        prompts, completions, scale = zip(*turns, strict=True)
        total = compute.completion_nll(self.model, prompts, completions, scale=scale)
        return Loss(total, {})


def heldout_loss(model: Any, held: Sequence[SftIds], *, forward_tokens: int) -> float:
    """Mean −log p per completion token over held-out rows, weighted by row, in nats."""
    total = 0.0
    for group in split_by_tokens(range(len(held)), [row.tokens for row in held], limit=forward_tokens):
        rows = [held[i] for i in group]
        turns = [(*turn, row.weight) for row in rows for turn in row.turns]
        prompts, completions, weights = zip(*turns, strict=True)
        logp = compute.sequence_logprobs(model, prompts, completions, grad=False)
        total -= sum(weight * float(logp_T.double().sum()) for weight, logp_T in zip(weights, logp, strict=True))
    return total / sum(row.weight * row.counted for row in held)


def train_sft(
    model_dir: str | PathLike[str],
    rows: Sequence[SftRow | tuple[Prompt, Completion]],
    config: SftConfig,
    out: str | PathLike[str],
    *,
    heldout: Sequence[SftRow | tuple[Prompt, Completion]] | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Fine-tunes a causal LM folder on responses and writes the folder ``out``; run again, it resumes or returns.

    Rows that are too long are left out and counted in the result. ``heldout`` rows give ``heldout_loss``, every
    ``evaluate_every`` steps and at the end. Raises TrainingError, ModelError, and RecipeError for ``evaluate_every``
    or ``patience`` without held-out rows.
    """
    session = Session("sft", base=model_dir, out=out, config=config, rows=rows, heldout=heldout or ())
    if (done := session.finished()) is not None:
        return done
    stop = stop_rule(config, heldout)
    tokenizer = folders.load_tokenizer(model_dir)
    kept, held, skipped = encoded(encode_sft, tokenizer, rows, heldout, config, model_dir, turns=config.loss_on)
    objective = SftObjective(
        session.adapt(folders.load_policy(model_dir, dtype=session.dtype)),
        kept,
        order=row_order(kept, config, prompts=[row[0] for row in rows]),
        forward_tokens=config.forward_tokens,
        share=share_of(session.accelerator),
    )

    def evaluate(_: int) -> dict[str, float]:
        return {"heldout_loss": heldout_loss(objective.model, held, forward_tokens=config.forward_tokens)}

    outcome = session.run(
        objective,
        steps=planned_steps(len(kept), config),
        progress=progress,
        evaluate=evaluate if held else None,
        stop=stop,
        best=lowest_loss if stop else None,
    )
    title = Title("Supervised fine-tuned policy", "Fine-tuned on completions with aifeedback.")
    return session.conclude(objective.model, tokenizer, outcome, title, rows=len(kept), skipped=skipped)
