"""The account of a file's rows: each is kept, or skipped for a reason that a person can act on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from aifeedback.errors import FileError
from aifeedback.records import Record

MOST_BAD = 0.5
"""A file in which more than this share of the rows is unusable is not what it was taken for: FileError."""


class RowFault(Exception):
    """This row cannot be used; ``key`` is the column at fault. Caught by the readers and counted.

    ``is_unsupported`` marks a sound row that a pair of plain texts cannot hold: not a sign of a broken file.
    """

    def __init__(self, reason: str, key: str | None = None, *, is_unsupported: bool = False) -> None:
        self.reason, self.key, self.is_unsupported = reason, key, is_unsupported
        super().__init__(reason)


class Skipped(Record):
    """One row that was left out. Rows count from 1."""

    row: int
    key: str | None = None
    reason: str
    is_repeat: bool = False
    """The same thing as an earlier row: left out, but not a sign of a broken file."""
    is_unsupported: bool = False
    """Sound, but more than a pair of plain texts can hold: not a sign of a broken file either."""


class ReadReport(Record):
    """How many rows a file has, how many were kept, which were not and why."""

    file: str
    shape: str
    """The recognised format."""
    rows: int
    kept: int
    """Rows that gave at least one record."""
    skipped: tuple[Skipped, ...] = ()
    merged: int = 0
    """Of the kept rows, those that were further votes on a pair already read."""

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → number of rows, most frequent first."""
        return dict(Counter(_reason(s) for s in self.skipped).most_common())

    def sentence(self) -> str:
        text = f"{self.file}: {self.kept:,} of {self.rows:,} rows read ({self.shape})"
        if self.merged:
            text += f"; {self.merged:,} of them further votes on the same pair"
        if not self.skipped:
            return text
        return f"{text}; skipped: " + ", ".join(f"{count:,} × {reason}" for reason, count in self.reasons.items())


class Ledger:
    """Collects the fate of each row while a file is read, and judges the file as a whole at the end."""

    def __init__(self, file: str | Path, shape: str) -> None:
        self.file, self.shape = str(file), shape
        self.rows = self.kept = self.merged = 0
        self.skipped: list[Skipped] = []
        self._seen: dict[Any, int] = {}

    def keep(self) -> None:
        self.rows, self.kept = self.rows + 1, self.kept + 1

    def skip(self, row: int, reason: str, key: str | None = None, *, is_repeat: bool = False) -> None:
        self.rows += 1
        self.skipped.append(Skipped(row=row, key=key, reason=reason, is_repeat=is_repeat))

    def skip_fault(self, row: int, fault: RowFault) -> None:
        self.rows += 1
        self.skipped.append(Skipped(row=row, key=fault.key, reason=fault.reason, is_unsupported=fault.is_unsupported))

    def earlier(self, row: int, identity: Any) -> int | None:
        """The row that had this identity before, or None where it is new."""
        earlier = self._seen.setdefault(identity, row)
        return None if earlier == row else earlier

    def report(self) -> ReadReport:
        """Raises FileError if nothing, or less than half of the file, could be used."""
        if not self.rows:
            raise FileError("the file has no rows", file=self.file, fix="give a file with at least one row")
        broken = [s for s in self.skipped if not s.is_repeat and (not s.is_unsupported or not self.kept)]
        if len(broken) > MOST_BAD * self.rows or not self.kept:
            first = broken[0]
            others = f" ({len(broken):,} of {self.rows:,} rows cannot be used)" if len(broken) > 1 else ""
            raise FileError(
                f"{first.reason}{others}",
                file=self.file,
                row=first.row,
                key=first.key,
                fix=f"read as {self.shape}; correct the rows, or rename the columns if this is another format",
            )
        return ReadReport(
            file=self.file,
            shape=self.shape,
            rows=self.rows,
            kept=self.kept,
            skipped=tuple(self.skipped),
            merged=self.merged,
        )


def _reason(skipped: Skipped) -> str:
    """The reason without its row number, so that equal causes count together."""
    reason = skipped.reason.partition(" (first in row ")[0]
    return f"'{skipped.key}' {reason}" if skipped.key else reason
