"""What a stage is, and what it is handed when it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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
    workers: int | None = 1
    """Processes that hold a local model and share its questions; None: as many as suit the model and the machine."""

    def named(self, uri: str) -> str:
        """A model's URI for a record: one in the run folder is told relative to it, so that a run elsewhere gives the
        same records."""
        return uri.replace(f"{self.run}{os.sep}", "")


@dataclass
class Outcome:
    """What a stage says of itself when done; ``figures`` go into summary.json and the report."""

    figures: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0


class Forecast(NamedTuple):
    """Calls of models, None where it cannot be told; rows per file that the stage leaves."""

    calls: int | None = 0
    leaves: Mapping[str, int] = {}


class Stage(Config):
    """Settings plus ``run``. Paths in settings are strings; ``@id/file`` has been replaced by the time it runs."""

    kind: ClassVar[str]

    def run(self, job: Job) -> Outcome:
        raise NotImplementedError

    def inputs(self) -> Iterator[str]:
        """Files and model URIs that come from outside the run: checked before anything starts, digested after."""
        yield from ()

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings beyond their types; found before anything starts."""
        yield from ()

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        """Model calls this stage will make and rows it will leave, given the rows of the files it reads."""
        del rows
        return Forecast()
