"""``reward_model``: fit a reward model on soft labels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback.config import Cli
from aifeedback.data import read_completions, read_labelled
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Measured
from aifeedback.steps.trained import Trained, TrainFigures
from aifeedback.training.settings import RewardModelConfig


class RewardModelFigures(TrainFigures):
    accuracy: Measured | None = None
    """Share of held-out human pairs whose preferred response scores higher."""
    offset: float | None = None
    """What was subtracted so that the mean reward on ``centre`` is 0."""
    by_source: dict[str, int] | None = None
    """Rows by file, where several were mixed."""


class RewardModel(Trained):
    """Fit a reward model on soft labels; writes reward_model/, an AutoModelForSequenceClassification folder."""

    kind: ClassVar[str] = "reward_model"
    main: ClassVar[str] = "reward_model"
    Figures = RewardModelFigures
    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Labelled comparisons. Repeat to mix several files, each FILE or FILE=WEIGHT."""
    hard: bool = False
    """Round every label to 0 or 1; a label of one half is left out."""
    mix: Annotated[dict[Ref, float], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Further labelled files → weight of their rows (human and AI labels in one model)."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Human comparisons on which accuracy is measured."""
    centre: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Completions of the SFT policy whose mean reward becomes 0."""
    centre_limit: int | None = Field(default=None, ge=1)
    """Use at most this many completions for that mean."""
    train: Annotated[RewardModelConfig, Cli(flatten=(RewardModelConfig,), panel="Trainer")] = RewardModelConfig()
    """Settings of the trainer."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> RewardModel:
        return super().from_options(one_or_mixed(settings), chosen)

    def run(self, context: Context) -> RewardModelFigures:
        from aifeedback.training.examples import PairRow, hard_labels
        from aifeedback.training.reward_model import centre, fit_reward_model

        rows: list[Any] = []
        by_source: dict[str, int] = {}
        origin = Origin()
        for path, weight in {self.data: 1.0, **self.mix}.items():
            labels = read_labelled(path, context.seed)
            own = [PairRow(r.comparison, r.p_first, weight, r.margin) for r in labels]
            origin += lineage.of_labels(path, [r.judge for r in labels if r.p_first is not None])
            by_source[context.named(path)] = len(own)
            rows += own
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
            by_source=by_source if self.mix else None,
        )


def one_or_mixed(settings: dict[str, Any]) -> dict[str, Any]:
    """``data`` repeated as FILE or FILE=WEIGHT → the first as ``data``, the others as ``mix``."""
    data = settings.get("data")
    if not isinstance(data, list):
        return settings
    first, *more = data
    mix = {}
    for text in more:
        path, equals, weight = text.rpartition("=")
        try:
            mix[path if equals else text] = float(weight) if equals else 1.0
        except ValueError:
            mix[text] = 1.0
    return {**settings, "data": first, **({"mix": {**settings.get("mix", {}), **mix}} if mix else {})}


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
