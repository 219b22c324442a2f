"""What a stage is, and what it is handed when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from aifeedback.config import Config
from aifeedback.protocols import Progress, silent


@dataclass(frozen=True)
class Job:
    """Where and how a stage runs."""

    folder: Path
    """The stage's own folder; everything it leaves is in here."""
    journal: Path
    """The run's journal of model calls, shared by all stages."""
    run: Path
    """The run folder."""
    seed: int = 0
    progress: Progress = silent


@dataclass
class Outcome:
    """What a stage says of itself when done; ``figures`` go into summary.json and the report."""

    figures: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0


class Stage(Config):
    """Settings plus ``run``. Paths in settings are strings; ``@id/file`` has been replaced by the time it runs."""

    kind: ClassVar[str]

    def run(self, job: Job) -> Outcome:
        raise NotImplementedError

    def inputs(self) -> Iterator[str]:
        """Files and model URIs that come from outside the run: checked before anything starts, digested after."""
        yield from ()

    def forecast(self) -> Mapping[str, float]:
        """Model calls this stage expects to make, as far as its settings tell: {'calls': n}."""
        return {}
