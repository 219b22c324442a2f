"""A step: settings, what it does, its forecast and its figures, in one class.

The settings are at once the keys of a recipe and the options of the command (``cli/options.py``); ``Cli`` annotations say
only what a command line needs beyond that. Figures are a typed model: written as JSON, read back as itself. Calls,
tokens and cost are read from the journal and are no figures.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from aifeedback.config import Config, parse
from aifeedback.errors import InputError
from aifeedback.judging.diagnosis import Cause, Outcome, most_frequent_cause
from aifeedback.models.journal.journal import Spent
from aifeedback.refs import Ref, refs_in
from aifeedback.steps.verdict import Verdict
from aifeedback.types import Model, Progress, silent


class Figures(BaseModel):
    """Root of every step's figures. A part that was not measured is None and left out of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    def verdict(self) -> Verdict | None:
        """What the last line of the command says; None where there is nothing to judge."""
        return None

    @property
    def is_unread(self) -> bool:
        """Whether models were called and nothing could be read; a command then ends with exit code 4."""
        return False


class Measured(BaseModel):
    """A number with its interval, as ``Estimate.as_dict`` gives it; None where not known. Further numbers of the
    estimator (p_value, threshold …) keep their own names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    method: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, estimate: Any) -> Self:
        return cls.model_validate(estimate.as_dict())


class Rows(Figures):
    """Rows of an input file: how many there were, how many were kept, and why the others were not."""

    read: int
    kept: int
    skipped: dict[str, int] = {}

    @classmethod
    def of(cls, report: Any) -> Rows:
        return cls(read=report.rows, kept=report.kept, skipped=dict(report.reasons))


class Forecast(NamedTuple):
    """Calls of models, None where unknown before the run; rows per file that the step leaves."""

    calls: int | None = 0
    leaves: Mapping[str, int] = {}


@dataclass(frozen=True)
class Context:
    """Where and how a step runs, and the models it is given."""

    folder: Path
    """The step's own folder; everything that it leaves is here."""
    run: Path
    """The run folder, whose journal all steps share."""
    step: str = ""
    """The step's id: the journal keeps it beside each call."""
    seed: int = 0
    progress: Progress = silent
    workers: int | None = 1
    """Processes that hold a local model and share its prompts; None: as many as suit the model and the machine."""
    out: Path | None = None
    """The folder for the main result where it is not below ``folder``: a command's -o."""
    journal_name: str = "journal.sqlite"

    @property
    def journal(self) -> Path:
        return self.run / self.journal_name

    def result(self, name: str) -> Path:
        """Where the main result goes: ``folder/NAME``, or what a command's -o says."""
        return self.out or self.folder / name

    def named(self, uri: str) -> str:
        """A model's URI for a record: relative to the run folder, so that a run elsewhere gives the same records."""
        return uri.replace(f"{self.run}{os.sep}", "")

    def spent(self) -> Spent:
        """Calls, tokens and cost of this step, read from the run's journal and from those of its own folder."""
        from aifeedback.models.journal import Journal

        total = Spent()
        own = sorted(self.folder.glob("journal-*.sqlite"))
        for path, step in [(self.journal, self.step), *((path, None) for path in own)]:
            if path.is_file():
                with Journal(path) as journal:
                    total += journal.spent(step)
        return total

    def cause(self, records: Iterable[Outcome]) -> Cause | None:
        """The most frequent reason why some of the records are unknown, in the server's words where it gave one."""
        from aifeedback.models.journal import Journal

        if not self.journal.is_file():
            return most_frequent_cause(records)
        with Journal(self.journal) as journal:
            return most_frequent_cause(records, journal)

    def connect(self, name: str, server: Mapping[str, Any] | None = None) -> Model:
        """A model with the run's journal in front of it; a second call in the same process does not load it again."""
        from aifeedback.steps.connect import connect_model

        return connect_model(name, self, server=server)


class Step(Config):
    """Settings and ``run``. ``@STEP/FILE`` in a reference has been replaced by a path by the time it runs."""

    kind: ClassVar[str]
    """Its name in recipes."""
    main: ClassVar[str] = "figures.json"
    """The file or folder that a command's -o names."""
    Figures: ClassVar[type[Figures]] = Figures
    further: ClassVar[tuple[type[BaseModel], ...]] = ()
    """Settings classes whose fields are options of the command too; ``from_options`` says what they mean."""

    def run(self, context: Context) -> Figures:
        """Read records, call functions, write records."""
        raise NotImplementedError

    def report(self, figures: Any, spent: Spent, folder: Path, seed: int) -> Path | None:
        """The report of a finished step, written into its folder; None for a step that has none."""
        del figures, spent, folder, seed

    @property
    def asks_anew(self) -> bool:
        """Whether another start makes its calls again although an earlier one finished."""
        return False

    def refs(self) -> Iterator[Ref]:
        """Everything that the settings name."""
        for name in type(self).model_fields:
            yield from refs_in(getattr(self, name))

    def inputs(self) -> list[Ref]:
        """Files, folders and models from outside the run: checked before anything starts, digested after."""
        return list(dict.fromkeys(ref for ref in self.refs() if ref.step is None))

    def needs(self) -> list[str]:
        """Ids of the steps whose files this one reads."""
        return sorted({ref.step for ref in self.refs() if ref.step is not None})

    def problems(self) -> Iterator[str]:
        """What is wrong with the settings beyond their types; found before anything starts."""
        yield from ()

    def requires(self) -> Iterator[str]:
        """Modules of optional dependencies that ``run`` imports: checked before the first call."""
        yield from ()

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        """Model calls this step will make and rows it will leave, given the rows of the files it reads."""
        del rows
        return Forecast()

    def memory(self) -> int | None:
        """Bytes of training state (activations come on top); None for steps that do not train, and where unknown."""
        return None

    def within(self, run: Path) -> Self:
        """The same settings with every ``@STEP/FILE`` as a path in the run folder."""
        return type(self).model_validate(_within(self, run))

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Self:
        """The step that a command's options describe: ``settings`` by name, nested; ``chosen`` came by --set."""
        return parse(cls, settings, prefix="--", by_set=chosen)


def _within(value: Any, run: Path) -> Any:
    if isinstance(value, Ref):
        return value.within(run)
    if isinstance(value, BaseModel):
        # what was not set stays so: a trainer's own seed counts only where one was given
        return {name: _within(getattr(value, name), run) for name in value.model_fields_set}
    if isinstance(value, Mapping):
        return {_within(key, run): _within(item, run) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_within(item, run) for item in value]
    return value


def settings_problem(check: Any) -> Iterator[str]:
    """The message of the InputError that ``check()`` raises, if it does."""
    try:
        check()
    except InputError as wrong:
        yield str(wrong)


def at_most(count: int | None, limit: int | None) -> int | None:
    """The smaller of the two, where they are known."""
    return limit if count is None else count if limit is None else min(count, limit)
