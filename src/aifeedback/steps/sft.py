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
from aifeedback.steps.sources import FromFiles, total_rows
from aifeedback.steps.step import Context, Rows
from aifeedback.steps.trained import TrainFigures
from aifeedback.training.settings import SftConfig
from aifeedback.types import Completion, Prompt


class Sft(FromFiles):
    """Fine-tune a model on completions, or on the preferred responses of comparisons; writes policy/."""

    kind: ClassVar[str] = "sft"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Prompts with completions, or comparisons with human or AI labels. Repeat to mix several files, each FILE or
    FILE=WEIGHT."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Held-out rows on which the loss is measured."""
    train: Annotated[SftConfig, Cli(flatten=(SftConfig,), panel="Trainer")] = SftConfig()
    """Settings of the trainer."""

    def run(self, context: Context) -> TrainFigures:
        from aifeedback.training.examples import SftRow
        from aifeedback.training.sft import train_sft

        read = {path: demonstrations(path, context.seed) for path in self.weights}
        gathered = self.gather({path: pairs for path, (pairs, _) in read.items()}, lambda _: True, context)
        result = train_sft(
            self.model.folder(),
            [SftRow(prompt, completion, weight) for (prompt, completion), weight in gathered.rows],
            self.seeded(self.train, context),
            context.result("policy"),
            heldout=[SftRow(p, c) for p, c in demonstrations(self.heldout, context.seed)[0]] if self.heldout else (),
            progress=context.progress,
        )
        origin = Origin()
        for path, (pairs, _) in read.items():
            origin += self._origin(path, pairs, context)
        prompts = [prompt for (prompt, _), _ in gathered.rows]
        self.leave_origin(context.result("policy"), context, origin, prompts, self.data)
        return TrainFigures.of(
            result,
            file=total_rows([rows for _, rows in read.values()]),
            are_steps_set=self.train.steps is not None,
            by_source=gathered.by_source,
        )

    def _origin(self, path: Ref, pairs: Sequence[tuple[Prompt, Completion]], context: Context) -> Origin:
        """Models that wrote or chose the texts; of labelled comparisons, whoever preferred them."""
        base = Path(self.model.folder())
        sources = [completion.source for _, completion in pairs]
        texts = lineage.of_texts(path, sources, base if base.is_dir() else None) + lineage.of_selection(path)
        if is_completions(path):
            return texts
        labels = read_labelled(path, context.seed)
        return texts + lineage.of_labels(path, [row.judge for row in labels if row.p_first is not None])


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
