"""What can go wrong, as one tree. Each message says what, where (file, row, key) and what to do.

AIFeedbackError
├── InputError          what the user gave is wrong; detected before the first model call; exit code 2
│   ├── FileError       a data file: path, row, column
│   ├── RecipeError     a recipe or setting: file, key
│   ├── StandardsError  a constitution, rubric or judge prompt: file, key
│   └── ModelError      a model URI or folder that cannot be used
├── MissingExtra        an optional dependency is not installed; exit code 2
├── JournalError        the journal is damaged or was edited; exit code 3
├── JudgeUnavailable    judge unreachable after all retries; exit code 4 (as when nothing could be read)
├── TrainingError       a training run cannot continue (a rank died, loss is not finite); exit code 5
├── GateClosed          a result does not meet what --fail-on or --require demands; exit code 6
└── BatchPending        calls are waiting in a server's batch; the same command collects them; exit code 7
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any


class AIFeedbackError(Exception):
    """Root of the tree. ``exit_code`` is what the command line returns; docs/running.md lists them."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process boundaries as their class and message."""
        return _rebuilt, (type(self), str(self))


def _rebuilt(kind: type[AIFeedbackError], message: str) -> AIFeedbackError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


class InputError(AIFeedbackError):
    """Wrong input. ``where`` names file, row and key where they are known."""

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        file: str | PathLike[str] | None = None,
        row: int | None = None,
        key: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.file, self.row, self.key, self.fix = what, file, row, key, fix
        super().__init__(self._message())

    def _message(self) -> str:
        where = ", ".join(
            part
            for part in (
                f"{self.file}" if self.file is not None else "",
                f"row {self.row}" if self.row is not None else "",
                f"key '{self.key}'" if self.key is not None else "",
            )
            if part
        )
        message = f"{where}: {self.what}" if where else self.what
        return f"{message}\n  → {self.fix}" if self.fix else message


class FileError(InputError):
    """A data file that cannot be read as what it should be. Rows count from 1."""


class RecipeError(InputError):
    """A recipe, a setting or a command-line value."""


class StandardsError(InputError):
    """A constitution, rubric or judge prompt."""


class ModelError(InputError):
    """A model URI or folder that cannot be used."""


class MissingExtra(AIFeedbackError):
    """An optional dependency is not installed. Several modules, and several extras, are separated by commas."""

    exit_code = 2

    def __init__(self, module: str, extra: str) -> None:
        verb = "are" if "," in module else "is"
        super().__init__(f"{module} {verb} not installed\n  → pip install 'aifeedback[{extra}]'")


class JournalError(AIFeedbackError):
    """The journal is damaged, was edited, or belongs to something else."""

    exit_code = 3


class JudgeUnavailable(AIFeedbackError):
    """Judge unreachable after all retries; carries the last cause."""

    exit_code = 4


class BatchPending(AIFeedbackError):
    """Calls were submitted as a batch that has not ended. ``waiting``: one phrase per batch."""

    exit_code = 7
    FIX = "run the same command again to collect the answers; nothing is submitted twice"

    def __init__(self, waiting: Sequence[str]) -> None:
        self.waiting = tuple(dict.fromkeys(waiting))
        super().__init__("\n".join([*self.waiting, f"  → {self.FIX}"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchPending, (self.waiting,)


class TrainingError(AIFeedbackError):
    """A training run cannot continue."""

    exit_code = 5


class GateClosed(AIFeedbackError):
    """A result does not meet what was required of it; everything was measured and written."""

    exit_code = 6
