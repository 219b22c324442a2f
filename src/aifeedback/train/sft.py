"""Supervised fine-tuning: the mean negative log-probability of the completion's tokens, prompts not counted.

A step's mean is over all completion tokens of its rows (a long answer counts more than a short one), as TRL does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch

from aifeedback.protocols import Progress, silent
from aifeedback.records import Completion, Prompt
from aifeedback.train import compute, folders, loop
from aifeedback.train.loop import Loss
from aifeedback.train.objective import (
    Micro,
    RowConfig,
    RowObjective,
    Share,
    TrainResult,
    conclude,
    finished,
    planned_steps,
    require_rows,
    row_order,
)
from aifeedback.train.rows import SftIds, SftRow, digest, encode_sft


class SftConfig(RowConfig):
    """Settings of ``train_sft``: the published ones are one epoch, batch 128, Adafactor at 1e-5."""


class SftObjective(RowObjective):
    """Token-mean cross-entropy on completions."""

    def weight(self, row: SftIds) -> float:
        return row.weight * len(row.completion)

    def forward(self, micro: Micro) -> Loss:
        rows: list[SftIds] = micro.rows
        logp = compute.sequence_logprobs(
            self.model, [row.prompt for row in rows], [row.completion for row in rows], grad=True
        )
        total = -torch.stack([row.weight * logp_T.sum() for row, logp_T in zip(rows, logp, strict=True)]).sum()
        return Loss(total * micro.scale, {})


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
    identity = digest(rows, kind="sft", config=config.model_dump_json(), model=folders.weights_digest(model_dir))
    if (done := finished(out, identity)) is not None:
        return done
    tokenizer = folders.load_tokenizer(model_dir)
    kept, skipped = encode_sft(
        tokenizer,
        rows,
        max_prompt_tokens=config.max_prompt_tokens,
        max_completion_tokens=config.max_completion_tokens,
    )
    require_rows(kept, skipped)
    accelerator = loop.start(config)
    share = Share(accelerator.process_index, accelerator.num_processes)
    groups = [rows[ids.row][0].tags.get(config.balance_by, "") for ids in kept] if config.balance_by else None
    objective = SftObjective(
        folders.load_policy(model_dir),
        kept,
        order=row_order(kept, config, groups=groups),
        forward_tokens=config.forward_tokens,
        share=share,
    )
    outcome = loop.run(
        objective,
        config=config,
        steps=planned_steps(len(kept), config),
        out=Path(out) / "training",
        identity=identity,
        accelerator=accelerator,
        progress=progress,
    )
    text = folders.card(
        "Supervised fine-tuned policy",
        summary="Fine-tuned on completions with aifeedback.",
        base=str(model_dir),
        settings=config.model_dump(mode="json"),
        figures=outcome.figures,
    )
    folders.save_folder(objective.model, tokenizer, out, card=text)
    return conclude(out, outcome, rows=len(kept), skipped=skipped, identity=identity)
