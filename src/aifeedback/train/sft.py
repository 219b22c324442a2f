"""Supervised fine-tuning: the mean negative log-probability of the completion's tokens, prompts not counted.

A step's mean is over all completion tokens of its rows (a long answer counts more than a short one), as TRL does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from aifeedback.protocols import Progress, silent
from aifeedback.records import Completion, Prompt
from aifeedback.train import compute, folders
from aifeedback.train.loop import Loss
from aifeedback.train.objective import (
    Micro,
    RowObjective,
    limits,
    planned_steps,
    require_rows,
    row_order,
    share_of,
)
from aifeedback.train.rows import SftIds, SftRow, encode_sft
from aifeedback.train.session import Session, Title, TrainResult
from aifeedback.train.settings import SftConfig


class SftObjective(RowObjective):
    """Token-mean cross-entropy on completions."""

    def weight(self, row: SftIds) -> float:
        return row.weight * len(row.completion)

    def forward(self, micro: Micro) -> Loss:
        rows: list[SftIds] = micro.rows
        total = compute.completion_nll(
            self.model,
            [row.prompt for row in rows],
            [row.completion for row in rows],
            scale=[row.weight * micro.scale for row in rows],
        )
        return Loss(total, {})


def train_sft(
    model_dir: str | PathLike[str],
    rows: Sequence[SftRow | tuple[Prompt, Completion]],
    config: SftConfig,
    out: str | PathLike[str],
    *,
    progress: Progress = silent,
) -> TrainResult:
    """Fine-tunes a causal LM folder on answers and writes the folder ``out``; run again, it goes on or returns.

    Rows that are too long are left out and counted in the result. Raises TrainingError, ModelError.
    """
    session = Session("sft", base=model_dir, out=out, config=config, rows=rows)
    if (done := session.finished()) is not None:
        return done
    tokenizer = folders.load_tokenizer(model_dir)
    kept, skipped = encode_sft(tokenizer, rows, **limits(config))
    require_rows(kept, skipped)
    objective = SftObjective(
        session.adapt(folders.load_policy(model_dir)),
        kept,
        order=row_order(kept, config, prompts=[row[0] for row in rows]),
        forward_tokens=config.forward_tokens,
        share=share_of(session.accelerator),
    )
    outcome = session.run(objective, steps=planned_steps(len(kept), config), progress=progress)
    title = Title("Supervised fine-tuned policy", "Fine-tuned on completions with aifeedback.")
    return session.conclude(objective.model, tokenizer, outcome, title, rows=len(kept), skipped=skipped)
