"""``sft``: supervised fine-tuning on completions, or on the preferred responses of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from aifeedback.config import Cli
from aifeedback.data import load_preferred, read_completions, read_labelled
from aifeedback.errors import FileError
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Rows
from aifeedback.steps.trained import Trained, TrainFigures
from aifeedback.training.settings import SftConfig
from aifeedback.types import Completion, Prompt


class Sft(Trained):
    """Fine-tune a model on completions, or on the preferred responses of comparisons; writes policy/."""

    kind: ClassVar[str] = "sft"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    data: Annotated[Ref, Cli(metavar="FILE")]
    """Prompts with completions, or comparisons with human or AI labels."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Held-out rows on which the loss is measured."""
    train: Annotated[SftConfig, Cli(flatten=(SftConfig,), panel="Trainer")] = SftConfig()
    """Settings of the trainer."""

    def run(self, context: Context) -> TrainFigures:
        from aifeedback.training.examples import SftRow
        from aifeedback.training.sft import train_sft

        pairs, rows = demonstrations(self.data, context.seed)
        result = train_sft(
            self.model.folder(),
            [SftRow(prompt, completion) for prompt, completion in pairs],
            self.seeded(self.train, context),
            context.result("policy"),
            heldout=[SftRow(p, c) for p, c in demonstrations(self.heldout, context.seed)[0]] if self.heldout else (),
            progress=context.progress,
        )
        prompts = [prompt for prompt, _ in pairs]
        self.leave_origin(context.result("policy"), context, self._origin(pairs, context), prompts, self.data)
        return TrainFigures.of(result, file=rows, are_steps_set=self.train.steps is not None)

    def _origin(self, pairs: Sequence[tuple[Prompt, Completion]], context: Context) -> Origin:
        """Models that wrote the texts; of labelled comparisons, whoever preferred them."""
        base = Path(self.model.folder())
        texts = lineage.of_texts(
            self.data, [completion.source for _, completion in pairs], base if base.is_dir() else None
        ) + lineage.of_selection(self.data)
        if is_completions(self.data):
            return texts
        labels = read_labelled(self.data, context.seed)
        return texts + lineage.of_labels(self.data, [row.judge for row in labels if row.p_first is not None])


def is_completions(path: str) -> bool:
    """Whether the file holds completions, and not comparisons."""
    try:
        read_completions(path, limit=1)
    except FileError:
        return False
    return True


def demonstrations(path: str, seed: int) -> tuple[Sequence[tuple[Prompt, Completion]], Rows]:
    """Prompts with completions; of a file of comparisons, the preferred responses by its labels (``p_first``, else the
    human ones). Raises FileError where there is neither."""
    try:
        read = read_completions(path, only_wanted=True)
    except FileError as not_completions:
        try:
            read = load_preferred(path, seed)
        except FileError:
            raise not_completions from None
    return list(zip(read.prompts, read.rows, strict=True)), Rows.of(read.report)
