"""Harm, refusal and helpfulness of single responses: everything that a safety evaluation needs.

By a model with the shipped prompts ``harmless``, ``refusal`` and ``rating``; whoever else can tell (people, an oracle)
answers with the same record.

``JudgeClassifier`` gives P over named classes, such as complied, refused, partly refused (XSTest's three).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aifeedback.errors import StandardsError
from aifeedback.judging import pairwise
from aifeedback.judging.pairwise import reading_problem
from aifeedback.judging.pointwise import JudgeScorer
from aifeedback.models.pending import at_once
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.render import Renderer, control_tokens, uses_chat
from aifeedback.types import Completion, Model, Problem, Progress, Prompt, Reading, silent

REFUSAL_CLASSES = ("full_compliance", "full_refusal", "partial_refusal")
"""What the labels of the shipped prompt ``refusal`` stand for, in order; ``metrics.refusal_rates`` takes these."""


class Classified(NamedTuple):
    completion_id: str
    judge: str
    chosen: str | None
    """The class with the largest probability; None with a problem."""
    distribution: tuple[float, ...] | None
    """P of each class, in the order of the labels."""
    coverage: float | None
    problem: Problem | None
    call_id: str | None


class JudgeClassifier:
    """Sorts responses with any prompt of the task ``classify``, or in two with ``goodbad``."""

    def __init__(
        self,
        model: Model,
        prompt: JudgePrompt,
        classes: Sequence[str] | None = None,
        *,
        chat: bool | None = None,
        min_coverage: float = 0.0,
        batch_size: int = 512,
        progress: Progress = silent,
    ) -> None:
        """``classes`` names the labels in their order; the labels themselves, without spaces, when not given."""
        if prompt.task not in ("classify", "goodbad"):
            raise StandardsError(f"judge prompt '{prompt.name}' is for {prompt.task}, not for sorting", key="task")
        self.classes = tuple(classes) if classes is not None else tuple(label.strip() for label in prompt.labels)
        if len(self.classes) != len(prompt.labels):
            raise StandardsError(f"{len(self.classes)} classes for {len(prompt.labels)} labels", key="labels")
        self._model, self._prompt = model, prompt
        self._min_coverage, self._batch_size, self._progress = min_coverage, batch_size, progress
        is_chat = uses_chat(prompt, model, chat)
        self._name: str | None = None  # a model's card can be expensive to get, and its URI never changes
        self._renderer = Renderer(prompt, chat=is_chat, control_tokens=control_tokens(model))

    @property
    def name(self) -> str:
        if self._name is None:
            self._name = f"{self._model.card.uri} {self._prompt.name}"
        return self._name

    def classify(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Classified]:
        """One result per (prompt, completion), in order."""
        pairs = list(zip(prompts, completions, strict=True))
        results: list[Classified] = []
        size = at_once(self._model, self._batch_size)
        for start in range(0, len(pairs), size):
            batch = pairs[start : start + size]
            requests = [self._renderer.verdict(prompt, {"response": answer.text}) for prompt, answer in batch]
            readings = self._model.read_labels(requests, self._prompt.labels)
            results += [self._sorted(answer, reading) for (_, answer), reading in zip(batch, readings, strict=True)]
            self._progress(len(results), len(pairs), {"unknown": sum(one.chosen is None for one in results)})
        return results

    def _sorted(self, completion: Completion, reading: Reading) -> Classified:
        problem = reading_problem(reading, self._min_coverage)
        chosen = distribution = None
        if problem is None:
            p = pairwise.softmax([value for value in reading.logprobs if value is not None])
            chosen, distribution = self.classes[int(p.argmax())], tuple(float(x) for x in p)
        return Classified(completion.id, self.name, chosen, distribution, reading.coverage, problem, reading.call_id)


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
