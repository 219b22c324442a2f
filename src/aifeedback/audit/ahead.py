"""The questions of all probes asked at once, so that what they share is computed once.

Most probes change the same pairs: sorted by text, questions of different probes that begin alike stand side by side, and
one long list keeps several workers busy to its end. So the probes run twice. The first time they are told that nothing
is known, and what they ask is only noted; then each noted question is asked once, and the second time they are answered.
A probe needs to know nothing of this. It may ask anything the second time that it did not ask the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aifeedback.protocols import Labeler
from aifeedback.records import Comparison, Preference, Problem

CHUNK = 4096
"""Comparisons per call of the labeler: one long list, and still a bar that moves."""


@dataclass
class Noted:
    """A ``Labeler`` that notes what it is asked and answers nothing."""

    name: str
    questions: dict[str, Comparison] = field(default_factory=dict)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        self.questions |= {c.id: c for c in comparisons}
        return [Preference(comparison_id=c.id, source=self.name, p_first=None, problem=Problem.MISSING)
                for c in comparisons]  # fmt: skip


class Answered:
    """A ``Labeler`` that asks ``labeler`` the given questions when it is made; others when they come."""

    def __init__(
        self, labeler: Labeler, questions: Sequence[Comparison], *, progress: Callable[[int], None] = lambda done: None
    ) -> None:
        """``progress`` is told now and then how many are answered."""
        self._labeler = labeler
        self._known: dict[str, Preference] = {}
        ordered = sorted(questions, key=lambda c: (c.prompt.text, c.first.text, c.second.text))
        for start in range(0, len(ordered), CHUNK):
            asked = ordered[start : start + CHUNK]
            self._known |= zip([c.id for c in asked], labeler.label(asked), strict=True)
            progress(len(self._known))

    @property
    def name(self) -> str:
        return self._labeler.name

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        missing = [c for c in comparisons if c.id not in self._known]
        said = iter(self._labeler.label(missing) if missing else [])
        return [self._known[c.id] if c.id in self._known else next(said) for c in comparisons]
