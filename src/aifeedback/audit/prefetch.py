"""The questions of all probes asked together, so that what they share is computed once.

Most probes change the same pairs: sorted by prompt, questions of different probes that begin alike stand side by side,
and one long list keeps several processes busy to its end. So the probes run twice. The first time they are told that
nothing is known, and what they ask is only noted; then each noted question is asked once, and the second time they are
answered. A probe needs to know nothing of this. It may ask anything the second time that it did not ask the first.

Two questions that a probe puts one after the other, such as both versions of a pair, stay together: computed in the
same batch, they are rounded alike, and texts that a judge cannot tell apart get the very same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from aifeedback.models.pending import each_before_pending
from aifeedback.types import Comparison, Labeler, Preference, Problem

CHUNK = 4096
"""Comparisons per call of the labeler: one long list, and still a bar that moves."""


def new_questions(labeler: Labeler) -> int | None:
    """Questions that ``labeler`` has put to its model, without those that a journal or a file of recorded verdicts
    answered; None for a labeler that does not count, because it remembers nothing."""
    return getattr(labeler, "new_questions", None)


@dataclass
class Noted:
    """A ``Labeler`` that notes what it is asked and answers nothing."""

    name: str
    twos: list[list[Comparison]] = field(default_factory=list)
    """Two questions, or one that is left."""
    _seen: set[str] = field(default_factory=set)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        for start in range(0, len(comparisons), 2):
            new = {c.id: c for c in comparisons[start : start + 2] if c.id not in self._seen}
            self._seen.update(new)
            if new:
                self.twos.append(list(new.values()))
        return [Preference(comparison_id=c.id, source=self.name, p_first=None, problem=Problem.MISSING)
                for c in comparisons]  # fmt: skip

    def questions(self) -> list[Comparison]:
        """Each once, in the order to ask them: by prompt, single ones last so that no two are parted."""
        return list(chain(*sorted(self.twos, key=lambda two: (-len(two), two[0].prompt.text))))


class Answered:
    """A ``Labeler`` that asks ``labeler`` the given questions when it is made; others when they come."""

    def __init__(
        self, labeler: Labeler, questions: Sequence[Comparison], *, progress: Callable[[int], None] = lambda done: None
    ) -> None:
        """``progress`` is called with the number answered so far."""
        self._labeler = labeler
        self._known: dict[str, Preference] = {}
        self.problems: Counter[str] = Counter()
        """Why answers are unknown, of all that were given so far."""

        def ask(chunk: Sequence[Comparison]) -> None:
            self._known |= zip([c.id for c in chunk], self._asked(chunk), strict=True)
            progress(len(self._known))

        each_before_pending(partial(ask, questions[start : start + CHUNK]) for start in range(0, len(questions), CHUNK))

    @property
    def name(self) -> str:
        return self._labeler.name

    @property
    def new_questions(self) -> int | None:
        """As the labeler's own: questions put to the model, without those that a journal answered."""
        return new_questions(self._labeler)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        missing = [c for c in comparisons if c.id not in self._known]
        answers = iter(self._asked(missing) if missing else [])
        return [self._known[c.id] if c.id in self._known else next(answers) for c in comparisons]

    def _asked(self, comparisons: Sequence[Comparison]) -> Sequence[Preference]:
        answers = self._labeler.label(comparisons)
        self.problems += problems_of(answers)
        return answers


def problems_of(preferences: Sequence[Preference]) -> Counter[str]:
    """Reason → how many preferences are unknown for it."""
    return Counter(str(one.problem) for one in preferences if one.problem is not None)
