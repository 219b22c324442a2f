"""``dpo``: direct preference optimisation on per-pair soft labels."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback.config import Cli
from aifeedback.data import read_labelled
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.reward_model import one_or_mixed
from aifeedback.steps.step import Context
from aifeedback.steps.trained import Trained, TrainFigures
from aifeedback.training.settings import DpoConfig


class Dpo(Trained):
    """Optimise a policy directly on soft preferences (DPO); writes policy/."""

    kind: ClassVar[str] = "dpo"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Labelled comparisons. Repeat to mix several files, each FILE or FILE=WEIGHT."""
    hard: bool = False
    """Round every label to 0 or 1; a label of one half is left out."""
    mix: Annotated[dict[Ref, float], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Further labelled files → weight of their rows."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Held-out labelled comparisons on which the loss is measured."""
    reference: Annotated[ModelRef | None, Cli(metavar="MODEL")] = None
    """Reference policy; the starting model by default."""
    train: Annotated[DpoConfig, Cli(flatten=(DpoConfig,), panel="Trainer")] = DpoConfig()
    """Settings of the trainer."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Dpo:
        return super().from_options(one_or_mixed(settings), chosen)

    def run(self, context: Context) -> TrainFigures:
        from aifeedback.training.dpo import train_dpo
        from aifeedback.training.examples import PairRow, hard_labels

        rows: list[Any] = []
        origin = lineage.of_base(Path(self.reference.folder()), self.reference) if self.reference else Origin()
        for path, weight in {self.data: 1.0, **self.mix}.items():
            labels = read_labelled(path, context.seed)
            rows += [PairRow(r.comparison, r.p_first, weight) for r in labels]
            origin += lineage.of_labels(path, [r.judge for r in labels if r.p_first is not None])
        result = train_dpo(
            self.model.folder(),
            hard_labels(rows) if self.hard else rows,
            self.seeded(self.train, context),
            context.result("policy"),
            heldout=read_labelled(self.heldout, context.seed) if self.heldout else (),
            reference_dir=self.reference.folder() if self.reference else None,
            progress=context.progress,
        )
        self.leave_origin(context.result("policy"), context, origin, [r.comparison.prompt for r in rows], self.data)
        return TrainFigures.of(result, are_steps_set=self.train.steps is not None)
