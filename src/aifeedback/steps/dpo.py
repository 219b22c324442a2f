"""``dpo``: direct preference optimisation on per-pair soft labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from aifeedback.config import Cli
from aifeedback.data import read_labelled
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.reward_model import labelled_pairs
from aifeedback.steps.sources import FromFiles
from aifeedback.steps.step import Context
from aifeedback.steps.trained import TrainFigures
from aifeedback.training.settings import DpoConfig


class Dpo(FromFiles):
    """Optimise a policy directly on soft preferences (DPO); writes policy/."""

    kind: ClassVar[str] = "dpo"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Labelled comparisons. Repeat to mix several files, each FILE or FILE=WEIGHT."""
    hard: bool = False
    """Round every label to 0 or 1; a label of one half is left out."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Held-out labelled comparisons on which the loss is measured."""
    reference: Annotated[ModelRef | None, Cli(metavar="MODEL")] = None
    """Reference policy; the starting model by default."""
    train: Annotated[DpoConfig, Cli(flatten=(DpoConfig,), panel="Trainer")] = DpoConfig()
    """Settings of the trainer."""

    def run(self, context: Context) -> TrainFigures:
        from aifeedback.training.dpo import train_dpo
        from aifeedback.training.examples import PairRow, hard_labels

        gathered, labels = labelled_pairs(self, context)
        rows = [PairRow(r.comparison, r.p_first, weight) for r, weight in gathered.rows]
        origin = lineage.of_base(Path(self.reference.folder()), self.reference) if self.reference else Origin()
        origin += labels
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
        return TrainFigures.of(result, are_steps_set=self.train.steps is not None, by_source=gathered.by_source)
