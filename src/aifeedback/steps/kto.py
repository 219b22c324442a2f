"""``kto``: optimisation of a policy on single verdicts, without pairs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from aifeedback.config import Cli
from aifeedback.data.verdicts import Verdicts, load_verdicts
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.step import Context, Rows
from aifeedback.steps.trained import Trained, TrainFigures
from aifeedback.training.settings import KtoConfig


class Kto(Trained):
    """Optimise a policy on single verdicts, good or bad (KTO); writes policy/."""

    kind: ClassVar[str] = "kto"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    data: Annotated[Ref, Cli(metavar="FILE")]
    """Responses with label (true or false), p_good, or the score that ``score`` wrote."""
    hard: bool = False
    """Round every verdict to 0 or 1; one half is left out."""
    heldout: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Held-out responses with verdicts on which the loss is measured."""
    reference: Annotated[ModelRef | None, Cli(metavar="MODEL")] = None
    """Reference policy; the starting model by default."""
    train: Annotated[KtoConfig, Cli(flatten=(KtoConfig,), panel="Trainer")] = KtoConfig()
    """Settings of the trainer."""

    def run(self, context: Context) -> TrainFigures:
        from aifeedback.training.kto import train_kto

        read = load_verdicts(self.data)
        result = train_kto(
            self.model.folder(),
            self._rows(read),
            self.seeded(self.train, context),
            context.result("policy"),
            heldout=self._rows(load_verdicts(self.heldout)) if self.heldout else (),
            reference_dir=self.reference.folder() if self.reference else None,
            progress=context.progress,
        )
        return TrainFigures.of(result, file=Rows.of(read.report), are_steps_set=self.train.steps is not None)

    def _rows(self, read: Verdicts) -> list[Any]:
        from aifeedback.training.kto import VerdictRow

        verdicts = [_rounded(p) for p in read.p_good] if self.hard else read.p_good
        return [VerdictRow(*row) for row in zip(read.prompts, read.rows, verdicts, strict=True)]


def _rounded(p_good: float | None) -> float | None:
    return None if p_good is None or p_good == 0.5 else float(p_good > 0.5)
