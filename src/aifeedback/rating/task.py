"""A file read as something to rate: pairs of any known format, or several answers per prompt, to be ranked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import files
from aifeedback.errors import FileError
from aifeedback.rating.items import Item, items_of_comparisons, items_of_completions

ANSWER_COLUMNS = ("completion", "response", "output", "answer")
PAIR_COLUMNS = ("first", "second", "chosen", "rejected", "response_a", "response_b")


class Task(NamedTuple):
    items: list[Item]
    pairs: files.Comparisons | None
    """The pairs as they were read, with what the file says about them; None for answers to be ranked."""
    told: str
    """What was read, in a sentence."""


def read_task(
    path: str | Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    harmful: bool = False,
) -> Task:
    """Raises FileError where the file cannot be used or holds nothing to compare.

    ``limit`` is the most items; ``harmful`` says that all of them are, whatever their tags.
    """
    if _holds_answers(path, columns):
        answers = files.read_completions(path, columns=columns)
        items = items_of_completions(answers.prompts, answers.rows, harmful=harmful)[:limit]
        task = Task(items, None, answers.report.sentence())
    else:
        pairs = files.read_comparisons(path, seed, columns=columns, limit=limit)
        task = Task(items_of_comparisons(pairs.rows, harmful=harmful), pairs, pairs.report.sentence())
    if not task.items:
        raise FileError(
            "no prompt has two different answers", file=path, fix="give pairs, or several answers per prompt"
        )
    return task


def _holds_answers(path: str | Path, columns: Mapping[str, str] | None) -> bool:
    """Whether the first row has one answer rather than two; a column map that names an answer decides."""
    if columns:
        return "completion" in columns
    first: Any = next(iter(files.read_rows(path)), None)
    names = set(first.values) if first is not None else set()
    return bool(names & set(ANSWER_COLUMNS)) and not names & set(PAIR_COLUMNS)
