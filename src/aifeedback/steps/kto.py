"""``kto``: optimisation of a policy on single verdicts, without pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from aifeedback.config import Cli
from aifeedback.data.verdicts import Verdicts, load_verdicts
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.sources import FromFiles, total_rows
from aifeedback.steps.step import Context, Rows
from aifeedback.steps.trained import TrainFigures
from aifeedback.training.settings import KtoConfig


class Kto(FromFiles):
    """Optimise a policy on single verdicts, good or bad (KTO); writes policy/."""

    kind: ClassVar[str] = "kto"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Responses with label (true or false), p_good, or the score that ``score`` wrote. Repeat to mix several files, each
    FILE or FILE=WEIGHT."""
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

        read = {path: load_verdicts(path) for path in self.weights}
        parts = {path: self._rows(verdicts) for path, verdicts in read.items()}
        gathered = self.gather(parts, lambda row: row.p_good is not None, context)
        rows = [row._replace(weight=weight) for row, weight in gathered.rows]
        result = train_kto(
            self.model.folder(),
            rows,
            self.seeded(self.train, context),
            context.result("policy"),
            heldout=self._rows(load_verdicts(self.heldout)) if self.heldout else (),
            reference_dir=self.reference.folder() if self.reference else None,
            progress=context.progress,
        )
        origin = lineage.of_base(Path(self.reference.folder()), self.reference) if self.reference else Origin()
        for path, one in read.items():
            known = [judge for judge, p in zip(one.judges, one.p_good, strict=True) if p is not None]
            origin += lineage.of_labels(path, known)
        self.leave_origin(context.result("policy"), context, origin, [row.prompt for row in rows], self.data)
        return TrainFigures.of(
            result,
            file=total_rows([Rows.of(one.report) for one in read.values()]),
            are_steps_set=self.train.steps is not None,
            by_source=gathered.by_source,
        )

    def _rows(self, read: Verdicts) -> list[Any]:
        from aifeedback.training.kto import VerdictRow

        verdicts = [_rounded(p) for p in read.p_good] if self.hard else read.p_good
        return [VerdictRow(*row) for row in zip(read.prompts, read.rows, verdicts, strict=True)]


def _rounded(p_good: float | None) -> float | None:
    return None if p_good is None or p_good == 0.5 else float(p_good > 0.5)
