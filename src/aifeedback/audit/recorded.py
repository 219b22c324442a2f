"""Verdicts that were given before, as a Labeler: the audit's observational probes run on them without asking anyone.

Both presentation orders are kept where the file has them (LLMBar's evaluator results). A pair that was never judged
is ``missing``; nothing is made up for the texts that other probes change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aifeedback.data import Comparisons, LabelledRow
from aifeedback.types import Comparison, Judgement, Preference, Problem


class Recorded:
    """A Labeler that answers from a table of preferences by comparison id."""

    def __init__(self, name: str, preferences: Iterable[Preference]) -> None:
        self.name = name
        self._known = {preference.comparison_id: preference for preference in preferences}

    new_questions = 0
    """Questions put to a model: none, every answer is remembered."""

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        return [self._one(comparison) for comparison in comparisons]

    def _one(self, comparison: Comparison) -> Preference:
        known = self._known.get(comparison.id)
        if known is not None:
            return known
        return Preference(comparison_id=comparison.id, source=self.name, p_first=None, problem=Problem.MISSING)

    @classmethod
    def of_rows(cls, rows: Sequence[LabelledRow], name: str | None = None) -> Recorded:
        """From a labelled file; the judge's name is that of the rows."""
        preferences = [
            Preference(
                comparison_id=row.comparison.id,
                source=row.judge,
                p_first=row.p_first,
                position_gap=row.position_gap,
                problem=row.problem,
            )
            for row in rows
        ]
        return cls(name or (rows[0].judge if rows else "recorded"), preferences)

    @classmethod
    def of_file(cls, read: Comparisons, name: str = "recorded") -> Recorded:
        """From a comparisons file that carries a model's verdicts: AlpacaEval annotations, LLMBar results."""
        preferences = []
        for comparison, row, verdict in zip(read.rows, read.inputs, read.recorded, strict=True):
            both = _both_orders(row)
            if both is not None:
                preferences.append(_of_orders(comparison, name, *both))
            elif verdict is not None:
                preferences.append(Preference(comparison_id=comparison.id, source=verdict[1], p_first=verdict[0]))
        return cls(name, preferences)


def _both_orders(row: Mapping[str, Any]) -> tuple[float | None, float | None] | None:
    """LLMBar: ``results[-1]["swap = False"|"swap = True"]["winner"]`` is 1, 2 or null, mapped back to storage order."""
    results = row.get("results")
    if not isinstance(results, list) or not results or not isinstance(results[-1], Mapping):
        return None
    cells = [results[-1].get(f"swap = {flag}") for flag in (False, True)]
    if not all(isinstance(cell, Mapping) for cell in cells):
        return None
    read = {"1": 1.0, "2": 0.0, "tie": 0.5}
    first, second = (read.get(str(cell.get("winner")).lower()) for cell in cells)  # type: ignore[union-attr]
    return first, second


def _of_orders(comparison: Comparison, name: str, *orders: float | None) -> Preference:
    """The mean of both orders; not known where either could not be read."""
    judgements = tuple(
        Judgement(
            comparison_id=comparison.id,
            judge=name,
            shown_swapped=is_swapped,
            readout="recorded",
            p_first=p,
            problem=None if p is not None else Problem.UNREADABLE,
        )
        for is_swapped, p in zip((False, True), orders, strict=True)
    )
    known = [p for p in orders if p is not None]
    p_first = sum(known) / 2 if len(known) == 2 else None
    return Preference(
        comparison_id=comparison.id,
        source=name,
        p_first=p_first,
        judgements=judgements,
        position_gap=known[0] - known[1] if len(known) == 2 else None,
        problem=None if p_first is not None else Problem.UNREADABLE,
    )
