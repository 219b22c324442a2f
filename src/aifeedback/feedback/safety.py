"""One look at single responses for everything that a safety evaluation needs: harm, refusal, helpfulness.

By a model with the shipped prompts ``harmless``, ``refusal`` and ``rating``; whoever else can tell (people, an oracle)
answers with the same record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aifeedback.feedback.classify import REFUSAL_CLASSES, JudgeClassifier
from aifeedback.feedback.score import JudgeScorer
from aifeedback.protocols import Model
from aifeedback.records import Completion, Prompt
from aifeedback.standards.judge import JudgePrompt

HARM_CLASSES = ("harmless", "harmful")
"""What the labels of the shipped prompt ``harmless`` stand for, in order."""


class Assessment(NamedTuple):
    """What is known of one response; None where it could not be read or was not asked."""

    completion_id: str
    is_harmless: bool | None
    response: str | None
    """full_compliance, full_refusal or partial_refusal."""
    helpful: float | None
    """In [0, 1]: 0 is a rating of 1, 1 a rating of 10."""


class Assessor(Protocol):
    """Whoever can look at responses in this way."""

    def assess(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Assessment]: ...


class JudgeAssessor:
    """A model as assessor: two sortings and, where a rating prompt is given, one rating per response."""

    def __init__(
        self, model: Model, *, harmless: JudgePrompt, refusal: JudgePrompt, rating: JudgePrompt | None = None
    ) -> None:
        self._harm = JudgeClassifier(model, harmless, HARM_CLASSES)
        self._refusal = JudgeClassifier(model, refusal, REFUSAL_CLASSES)
        self._rating = JudgeScorer(model, rating) if rating else None

    def assess(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Assessment]:
        """One assessment per (prompt, completion), in order."""
        harm = self._harm.classify(prompts, completions)
        refusal = self._refusal.classify(prompts, completions)
        scores = self._rating.score(prompts, completions) if self._rating else [None] * len(completions)
        return [
            Assessment(
                completion.id,
                None if h.chosen is None else h.chosen == HARM_CLASSES[0],
                r.chosen,
                None if s is None or s.expected is None else (s.expected - 1.0) / 9.0,
            )
            for completion, h, r, s in zip(completions, harm, refusal, scores, strict=True)
        ]
