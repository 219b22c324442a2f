"""Verdicts as files write them, in words or as an index, and the check that a file's indices have one meaning.

An index is only a verdict where the format fixes its meaning. Where it does not, the whole file decides: 1 and 2 name
the two responses; a 0 could be the first response, or a tie, or "the first is not better", so the file is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aifeedback.errors import FileError
from aifeedback.files.cells import is_blank, kind_of
from aifeedback.files.report import RowFault
from aifeedback.files.tables import Row

ONE_OR_TWO: Mapping[int, float] = {1: 1.0, 2: 0.0}
ZERO_OR_ONE: Mapping[int, float] = {0: 1.0, 1: 0.0}
"""The index of the better response."""
FIRST_IS_BETTER: Mapping[int, float] = {1: 1.0, 0: 0.0}
TIE_OR_NUMBER: Mapping[int, float] = {0: 0.5, 1: 1.0, 2: 0.0}

_NOUNS = ("model", "response", "answer", "output", "completion", "assistant", "option")
_FIRST = {"first", "a", *(f"{noun} {name}" for noun in _NOUNS for name in ("a", "1"))}
_SECOND = {"second", "b", *(f"{noun} {name}" for noun in _NOUNS for name in ("b", "2"))}
_TIES = {"equal", "equally good", "equally bad", "same", "draw", "tied", "both", "neither", "none of them",
         "no preference", "bothbad", "bothgood"}  # fmt: skip
_UNKNOWN = {"cannot tell", "can't tell", "unsure", "unknown", "not sure", "skip", "skipped"}
_PLAUSIBLE = (0, 1, 2)
"""Indices that some convention gives to two responses; any other number is a fault of its row alone."""


def read_verdict(value: Any, key: str, indices: Mapping[int, float] | None = None) -> float | None:
    """A verdict as ``p_first``; None where the cell is empty or says that the rater could not tell. Raises RowFault."""
    if is_blank(value):
        return None
    index = as_index(value)
    if index is not None and indices and index in indices:
        return indices[index]
    words = re.sub(r"[\s_()\-.]+", " ", str(value).lower()).strip()
    if words in _UNKNOWN:
        return None
    if words in _FIRST:
        return 1.0
    if words in _SECOND:
        return 0.0
    if words in _TIES or words.startswith(("tie ", "both ")) or words == "tie" or _number(value) == 0.5:
        return 0.5
    raise RowFault(f"holds {_shown(value)}, which names neither response", key)


def as_index(value: Any) -> int | None:
    """A whole number, also as a float or as text; None for anything else, true and false included."""
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    return f"'{value.strip().lower()[:40]}'" if isinstance(value, str) else kind_of(value)


class Indices:
    """Watches the index column of a file while it is read, and refuses the file once its indices are ambiguous."""

    def __init__(self, file: str | Path, columns: Iterable[str], indices: Mapping[int, float] | None) -> None:
        self.file, self.columns, self.indices = file, tuple(columns), indices or {}
        self._seen: dict[str, set[int]] = {}

    def see(self, row: Row) -> None:
        """Raises FileError at an index that the format's convention does not have."""
        for column in self.columns:
            value = row.values.get(column)
            index = int(value) if isinstance(value, bool) else as_index(value)
            if index is None:
                continue
            if isinstance(value, bool) or (index in _PLAUSIBLE and index not in self.indices):
                shown = str(value).lower() if isinstance(value, bool) else str(index)
                raise self._ambiguous(
                    f"holds {shown}, which could mean either response{self._expected()}", column, row.number
                )
            self._seen.setdefault(column, set()).add(index)

    def close(self) -> None:
        """Raises FileError if no other index than 1 was seen: the columns do not say from where it is counted."""
        for column, seen in self._seen.items():
            if seen == {1}:
                raise self._ambiguous(
                    "holds no other index than 1, which could mean the first response or, counted from 0, the second",
                    column,
                    None,
                )

    def _expected(self) -> str:
        return f" (this format uses {', '.join(map(str, sorted(self.indices)))})" if self.indices else ""

    def _ambiguous(self, what: str, column: str, row: int | None) -> FileError:
        fix = (
            "write the verdict in words ('first', 'second', 'tie'), or as a column 'human_p_first':"
            " 1.0 where the first response is better, 0.0 where the second is, 0.5 for a tie"
        )
        return FileError(what, file=self.file, row=row, key=column, fix=fix)
