"""What the training steps share: the model to start from, the trainer's settings, and what every trainer reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from aifeedback.config import Cli
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.step import Context, Figures, Rows, Step, Verdict
from aifeedback.types import Prompt

FEW_STEPS = 10
"""A default batch is as large as a small file: a run that became so short is worth a warning."""


class TrainFigures(Figures):
    """What every trainer reports (``training/result.json`` has it too)."""

    steps: int
    rows: int
    """Rows trained on."""
    skipped: Mapping[str, int] = {}
    """Rows left out, by reason."""
    seconds_per_step: float
    tokens_per_s: float
    peak_memory_mb: float
    figures: Mapping[str, float] = {}
    """Last value of every logged metric."""
    stopped: str | None = None
    """Why it ended before its last planned step."""
    best_step: int | None = None
    """The step that the saved weights are from, where a stop rule returned to an earlier one."""
    file: Rows | None = None
    """Rows of the data files."""
    by_source: dict[str, int] | None = None
    """Usable rows taken of each file, where several were mixed."""

    are_steps_set: bool = Field(default=True, exclude=True)
    """Whether the number of steps was chosen, and not made by the size of the data."""

    def verdict(self) -> Verdict | None:
        if self.stopped:
            return Verdict("watch", f"Stopped early: {self.stopped}.")
        if self.are_steps_set or self.steps >= FEW_STEPS:
            return None
        made = "1 step was" if self.steps == 1 else f"{self.steps} steps were"
        return Verdict(
            "watch", f"{made} made of {self.rows:,} rows, which teaches little.", "Give --steps, or smaller batches."
        )

    @classmethod
    def of(cls, result: Any, **more: Any) -> Any:
        return cls(**{**result.model_dump(exclude={"folder", "identity", "length"}), **more})


class Trained(Step):
    """Root of the training steps."""

    model: Annotated[ModelRef, Cli(metavar="MODEL")]
    """Model to start from: hf:DIR_OR_ID or lab:NAME."""

    def seeded(self, settings: Any, context: Context) -> Any:
        """A trainer's settings, with the run's seed unless one is set."""
        return settings if "seed" in settings.model_fields_set else settings.model_copy(update={"seed": context.seed})

    def leave_origin(
        self, folder: Path, context: Context, data: Origin, prompts: Iterable[Prompt], file: Ref | None = None
    ) -> None:
        """Write into the trained folder whose feedback trained it, that of the model it starts from included."""
        named = tuple(one.model_copy(update={"uri": context.named(one.uri)}) for one in data.trainers)
        lineage.write(
            folder,
            base=(self.model.folder(), context.named(str(self.model))),
            data=data._replace(trainers=named),
            prompts=prompts,
            file=context.named(str(file or "")),
        )

    def memory(self) -> int | None:
        from aifeedback.training.memory import shapes_of, state_bytes

        settings: Any = getattr(self, "train", None)
        if settings is None or self.model.step is not None or self.model.scheme != "hf":
            return None
        shapes = shapes_of(Path(self.model.name)) if Path(self.model.name).is_dir() else {}
        return state_bytes(shapes, settings) if shapes else None

    def requires(self) -> Iterator[str]:
        yield from ("torch", "transformers", "accelerate")
        settings: Any = getattr(self, "train", None)
        if settings is not None:
            yield from ("peft",) if settings.lora else ()
            yield from settings.trackers
