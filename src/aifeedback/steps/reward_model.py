"""``reward_model``: fit a reward model on soft labels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback.config import Cli
from aifeedback.data import read_completions, read_labelled
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import Ref
from aifeedback.steps.sources import FromFiles, Gathered
from aifeedback.steps.step import Context, Measured
from aifeedback.steps.trained import TrainFigures
from aifeedback.training.settings import RewardModelConfig


class RewardModelFigures(TrainFigures):
    accuracy: Measured | None = None
    """Share of held-out human pairs whose preferred response scores higher."""
    offset: float | None = None
    """What was subtracted so that the mean reward on ``centre`` is 0."""


class RewardModel(FromFiles):
    """Fit a reward model on soft labels; writes reward_model/, an AutoModelForSequenceClassification folder."""

    kind: ClassVar[str] = "reward_model"
    main: ClassVar[str] = "reward_model"
    Figures = RewardModelFigures
    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Labelled comparisons. Repeat to mix several files, each FILE or FILE=WEIGHT."""
    hard: bool = False
    """Round every label to 0 or 1; a label of one half is left out."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Human comparisons on which accuracy is measured."""
    centre: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Completions of the SFT policy whose mean reward becomes 0."""
    centre_limit: int | None = Field(default=None, ge=1)
    """Use at most this many completions for that mean."""
    train: Annotated[RewardModelConfig, Cli(flatten=(RewardModelConfig,), panel="Trainer")] = RewardModelConfig()
    """Settings of the trainer."""

    def run(self, context: Context) -> RewardModelFigures:
        from aifeedback.training.examples import PairRow, hard_labels
        from aifeedback.training.reward_model import centre, fit_reward_model

        gathered, origin = labelled_pairs(self, context)
        rows = [PairRow(r.comparison, r.p_first, weight, r.margin) for r, weight in gathered.rows]
        folder = context.result("reward_model")
        result = fit_reward_model(
            self.model.folder(),
            hard_labels(rows) if self.hard else rows,
            self.seeded(self.train, context),
            folder,
            heldout=read_labelled(self.heldout, context.seed) if self.heldout else None,
            progress=context.progress,
        )
        offset = None
        if self.centre:
            read = read_completions(self.centre)
            few = slice(self.centre_limit)
            offset = centre(folder, read.prompts[few], read.rows[few])
        self.leave_origin(folder, context, origin, [r.comparison.prompt for r in rows], self.data)
        return RewardModelFigures.of(
            result,
            are_steps_set=self.train.steps is not None,
            offset=offset,
            accuracy=_accuracy(result.figures),
            by_source=gathered.by_source,
        )


def labelled_pairs(step: FromFiles, context: Context) -> tuple[Gathered, Origin]:
    """The labelled rows of a step's files, and whose labels those are that are known."""
    parts = {path: read_labelled(path, context.seed) for path in step.weights}
    origin = Origin()
    for path, labels in parts.items():
        origin += lineage.of_labels(path, [row.judge for row in labels if row.p_first is not None])
    return step.gather(parts, lambda row: row.p_first is not None, context), origin


def _accuracy(logged: Any) -> Measured | None:
    if "heldout_accuracy" not in logged:
        return None
    return Measured(
        value=logged["heldout_accuracy"],
        low=logged["heldout_accuracy_low"],
        high=logged["heldout_accuracy_high"],
        n=int(logged["heldout_n"]),
        method="share of held-out pairs whose preferred completion scores higher, Wilson interval",
    )
