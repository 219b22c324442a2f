"""``distill``: a judge's or another model's next-token distribution, taught to a policy on the policy's own samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.step import Context, Rows
from aifeedback.steps.trained import Trained, TrainFigures
from aifeedback.training.settings import DistillConfig


class Distill(Trained):
    """Distil a teacher's next-token distribution into a policy, on the policy's own samples; writes policy/."""

    kind: ClassVar[str] = "distill"
    main: ClassVar[str] = "policy"
    Figures = TrainFigures
    model: Annotated[ModelRef, Cli(("--policy", "--model"), metavar="MODEL")]
    """Policy to start from: hf:DIR_OR_ID or lab:NAME."""
    teacher: Annotated[ModelRef, Cli(metavar="MODEL")]
    """Model to learn from, such as the judge: hf:DIR_OR_ID or lab:NAME with the policy's vocabulary."""
    prompts: Annotated[Ref, Cli(("--prompts", "--data"), metavar="FILE")]
    """Prompts to respond to."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    train: Annotated[DistillConfig, Cli(flatten=(DistillConfig,), panel="Trainer")] = DistillConfig()
    """Settings of the trainer."""

    def memory(self) -> int | None:
        from aifeedback.training.memory import shapes_of

        own, folder = super().memory(), Path(self.teacher.name)
        if own is None or self.teacher.step is not None or self.teacher.scheme != "hf" or not folder.is_dir():
            return None
        return own + (2 if self.train.weights == "bf16" else 4) * sum(map(math.prod, shapes_of(folder).values()))

    def run(self, context: Context) -> TrainFigures:
        from aifeedback.training.distill import train_distill

        read = data.load_prompts(self.prompts, limit=self.limit)
        folder = context.result("policy")
        result = train_distill(
            self.model.folder(),
            self.teacher.folder(),
            read.rows,
            self.seeded(self.train, context),
            folder,
            progress=context.progress,
        )
        teacher = lineage.trainer(self.teacher, role="reward", rows=len(read.rows))
        origin = lineage.of_base(Path(self.teacher.folder()), self.teacher) + Origin((teacher,))
        self.leave_origin(folder, context, origin, read.rows, self.prompts)
        return TrainFigures.of(result, file=Rows.of(read.report), are_steps_set=self.train.steps is not None)
