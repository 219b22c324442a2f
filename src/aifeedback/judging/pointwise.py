"""A model as judge of single responses: direct scoring, no reward model.

Source: Lee et al. 2023 (arXiv 2309.00267), section 4.2 (d-RLAIF): the likelihood of each of the ten ratings is read,
normalised over the ten, and the *expected* rating s = Σ i·P(i) becomes the reward (2s − 11)/9. Nothing is sampled.
Where we differ: a prompt may have another scale, 1 to K; the reward is then (2s − K − 1)/(K − 1).
A good–bad prompt reads two labels instead: value = 2·P(good) − 1.

``RubricScorer`` rates each criterion by itself and takes their weighted mean. ``RatingLabeler`` labels a pair from two
ratings: each response is scored alone, so there is no position bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.judging import pairwise
from aifeedback.judging.pairwise import Rationale, RationaleText, p_from_ratings, write_rationales
from aifeedback.models.pending import at_once, each_before_pending
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.registry import Wording
from aifeedback.prompts.render import Renderer, control_tokens, needs_principle, uses_chat
from aifeedback.types import (
    Comparison,
    Completion,
    Judgement,
    Model,
    Preference,
    Problem,
    Progress,
    Prompt,
    PromptLike,
    Reading,
    Score,
    Scorer,
    silent,
)


class ScoreSettings(Config):
    """How a judge is asked about single responses."""

    rationale: Rationale | None = None
    """Chain of thought, or evidence, before the rating; none when not given."""
    hidden_mass: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Labels that a server hides count as 0 where all of them together hold at most this much probability."""
    min_coverage: float = Field(default=0.0, ge=0.0, le=1.0)
    """A reading whose labels carry less probability than this is unreadable."""
    chat: bool | None = None
    """Overrides the prompt file: messages (true) or one plain text (false)."""
    seed: int = 0
    batch_size: int = Field(default=512, ge=1)
    """Completions per call of the model."""


class JudgeScorer:
    """A ``Scorer`` over any ``protocols.Model`` and any rating or good–bad prompt."""

    def __init__(
        self,
        model: Model,
        prompt: JudgePrompt,
        settings: ScoreSettings | None = None,
        *,
        wording: Wording | None = None,
        progress: Progress = silent,
        **overrides: object,
    ) -> None:
        """``wording`` is the criterion or principle that the prompt shows, where it shows one."""
        values = (settings or ScoreSettings()).model_dump() | overrides
        self.model, self.prompt, self.settings = model, prompt, parse(ScoreSettings, values)
        self._wording, self._progress = wording, progress
        self._check()
        is_chat = uses_chat(prompt, model, self.settings.chat)
        self._name: str | None = None  # a model's card can be expensive to get, and its URI never changes
        self._renderer = Renderer(prompt, chat=is_chat, control_tokens=control_tokens(model))

    @property
    def new_questions(self) -> int | None:
        """Questions put to the model so far, without those that a journal answered; None where no journal counts them."""
        return getattr(self.model, "new_questions", None)

    @property
    def name(self) -> str:
        """Model, prompt and criterion: what a score names as its judge."""
        if self._name is None:
            criterion = f" {self._wording.id}" if self._wording else ""
            self._name = f"{self.model.card.uri} {self.prompt.name}{criterion}"
        return self._name

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        """One score per (prompt, completion), in order."""
        pairs = list(zip(prompts, completions, strict=True))
        scores: list[Score] = []
        size = at_once(self.model, self.settings.batch_size)
        for start in range(0, len(pairs), size):
            scores += self._score_batch(pairs[start : start + size])
            self._progress(len(scores), len(pairs), {"unknown": sum(s.value is None for s in scores)})
        return scores

    def example(self, prompt: Prompt, completion: Completion) -> PromptLike:
        """The first prompt that this completion would be shown with (``--dry-run``)."""
        render = self._renderer.request if self.settings.rationale else self._renderer.verdict
        return render(prompt, {"response": completion.text}, principle=self._principle)

    def _check(self) -> None:
        if self.prompt.task not in ("rating", "goodbad"):
            what = f"judge prompt '{self.prompt.name}' is for {self.prompt.task}, not for scoring"
            raise StandardsError(what, key="task")
        if self.settings.rationale and self.prompt.rationale_request is None:
            raise StandardsError(f"'{self.prompt.name}' offers no chain of thought", key="rationale_request")
        if needs_principle(self.prompt) != (self._wording is not None):
            raise StandardsError(
                f"judge prompt '{self.prompt.name}' and the criterion do not fit",
                fix="a prompt that shows {{ principle }} needs one, any other takes none",
            )

    @property
    def _principle(self) -> str | None:
        return self._wording.text if self._wording else None

    def _score_batch(self, pairs: Sequence[tuple[Prompt, Completion]]) -> list[Score]:
        samples = self.settings.rationale.samples if self.settings.rationale else 1
        items = [(pair, sample) for pair in pairs for sample in range(samples)]
        rationales = self._rationales([pair for pair, _ in items], [sample for _, sample in items])
        readable = [i for i, text in enumerate(rationales) if text is None or text.problem is None]
        verdicts = [self._verdict_prompt(items[i][0], rationales[i]) for i in readable]
        readings = dict(zip(readable, self.model.read_labels(verdicts, self.prompt.labels), strict=True))
        scores = []
        for number, (_, completion) in enumerate(pairs):
            own = range(number * samples, (number + 1) * samples)
            scores.append(self._combine(completion, [(rationales[i], readings.get(i)) for i in own]))
        return scores

    def _rationales(
        self, pairs: Sequence[tuple[Prompt, Completion]], samples: Sequence[int]
    ) -> Sequence[RationaleText | None]:
        if self.settings.rationale is None:
            return [None] * len(pairs)
        requests = [
            self._renderer.request(prompt, {"response": completion.text}, principle=self._principle)
            for prompt, completion in pairs
        ]
        return write_rationales(self.model, self.prompt, self.settings.rationale, requests, samples, self.settings.seed)

    def _verdict_prompt(self, pair: tuple[Prompt, Completion], rationale: RationaleText | None) -> PromptLike:
        prompt, completion = pair
        return self._renderer.verdict(
            prompt,
            {"response": completion.text},
            principle=self._principle,
            rationale=rationale.text if rationale else None,
        )

    def _combine(self, completion: Completion, read: Sequence[tuple[RationaleText | None, Reading | None]]) -> Score:
        """The mean distribution over the rationales that were read, at least half of them."""
        outcomes = [self._distribution(rationale, reading) for rationale, reading in read]
        known = [p for p in outcomes if not isinstance(p, Problem)]
        texts = [rationale.text for rationale, _ in read if rationale]
        readings = [reading for _, reading in read if reading]
        coverages = [r.coverage for r in readings if r.coverage is not None]
        common: dict[str, Any] = {
            "completion_id": completion.id,
            "judge": self.name,
            "coverage": min(coverages) if coverages else None,
            "rationale": "\n\n".join(texts) if texts else None,
            "call_id": readings[0].call_id if readings else next((r.call_id for r, _ in read if r), None),
        }
        if 2 * len(known) < len(outcomes) or not known:
            problems = {p for p in outcomes if isinstance(p, Problem)}
            failed_alike = len(problems) == 1 and not known
            return Score(**common, problem=next(iter(problems)) if failed_alike else Problem.MISSING)
        mean = np.mean(known, axis=0)
        if self.prompt.task == "goodbad":
            return Score(**common, value=float(mean[0] - mean[1]))
        expected = min(max(pairwise.expected_score(mean), 1.0), float(len(mean)))
        return Score(
            **common,
            value=pairwise.score_value(expected, len(mean)),
            expected=expected,
            distribution=tuple(float(p) for p in mean),
        )

    def _distribution(self, rationale: RationaleText | None, reading: Reading | None) -> pairwise.Floats | Problem:
        if reading is None:
            return (rationale.problem if rationale else None) or Problem.MISSING
        logprobs = fill_hidden(reading, self.settings.hidden_mass)
        if reading.problem not in (None, Problem.LABEL_HIDDEN):
            return reading.problem
        if (problem := pairwise.fault(logprobs)) is not None:
            return problem
        if reading.coverage is not None and reading.coverage < self.settings.min_coverage:
            return Problem.UNREADABLE
        return pairwise.softmax([value if value is not None else -1e9 for value in logprobs])


def fill_hidden(reading: Reading, hidden_mass: float) -> tuple[float | None, ...]:
    """Hidden labels as (next to) impossible, where the labels that were seen leave at most ``hidden_mass`` for them.

    The expected rating of K labels is then off by at most (K − 1)·hidden_mass; with the default of 0 nothing is filled.
    """
    seen = [value for value in reading.logprobs if value is not None]
    mass = reading.coverage if reading.coverage is not None else math.fsum(math.exp(value) for value in seen)
    if hidden_mass == 0.0 or not seen or 1.0 - mass > hidden_mass:
        return reading.logprobs
    return tuple(-1e9 if value is None else value for value in reading.logprobs)


class RatingLabeler:
    """P(first better) = Σ_{i>j} P₁(i)P₂(j) + ½ Σ P₁(i)P₂(i) over the two rating distributions.

    A scorer without distributions (good–bad) gives P = ½ + (value₁ − value₂)/4: with value = 2·P(good) − 1 that is
    the chance that the first is good and the second bad, plus half of the ties.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    @property
    def name(self) -> str:
        return f"{self._scorer.name} ratings"

    @property
    def new_questions(self) -> int | None:
        """As the scorer's own: questions put to the model, without those that a journal answered."""
        return getattr(self._scorer, "new_questions", None)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """One preference per comparison. A completion that is in several comparisons is scored once."""
        sides = {c.first.id: (c.prompt, c.first) for c in comparisons}
        sides |= {c.second.id: (c.prompt, c.second) for c in comparisons}
        scores = self._scorer.score([p for p, _ in sides.values()], [c for _, c in sides.values()])
        by_id = dict(zip(sides, scores, strict=True))
        return [self._preference(c, by_id[c.first.id], by_id[c.second.id]) for c in comparisons]

    def _preference(self, comparison: Comparison, first: Score, second: Score) -> Preference:
        p_first, problem = _p_first(first, second)
        texts = [score.rationale for score in (first, second) if score.rationale]
        coverages = [score.coverage for score in (first, second) if score.coverage is not None]
        judgement = Judgement(
            comparison_id=comparison.id,
            judge=self.name,
            shown_swapped=False,
            readout="ratings",
            p_first=p_first,
            coverage=min(coverages) if coverages else None,
            rationale="\n\n".join(texts) if texts else None,
            problem=problem,
            call_id=" ".join(score.call_id for score in (first, second) if score.call_id) or None,
        )
        return Preference(
            comparison_id=comparison.id, source=self.name, p_first=p_first, judgements=(judgement,), problem=problem
        )


def _p_first(first: Score, second: Score) -> tuple[float | None, Problem | None]:
    if first.value is None or second.value is None:
        same = first.problem if first.problem == second.problem else None
        return None, same or Problem.MISSING
    if first.distribution is not None and second.distribution is not None:
        return p_from_ratings(first.distribution, second.distribution), None
    return 0.5 + (first.value - second.value) / 4.0, None


class RubricScores(NamedTuple):
    total: list[Score]
    by_criterion: Mapping[str, list[Score]]
    """Criterion id → its scores, in the order of the completions."""


class RubricScorer:
    """A ``Scorer`` over several criteria.

    The total's distribution is the weighted mixture of the criteria's distributions, so its expected rating is the
    weighted mean of theirs. One criterion that could not be read leaves the total unknown.
    """

    def __init__(
        self,
        model: Model,
        prompt: JudgePrompt,
        criteria: Sequence[Wording],
        settings: ScoreSettings | None = None,
        *,
        progress: Progress = silent,
    ) -> None:
        if not criteria:
            raise StandardsError("a rubric needs at least one criterion")
        if prompt.task != "rating":
            raise StandardsError(f"judge prompt '{prompt.name}' is for {prompt.task}, not for rating", key="task")
        self._criteria = tuple(criteria)
        self._scorers = [
            JudgeScorer(model, prompt, settings, wording=criterion, progress=progress) for criterion in criteria
        ]
        self._name = f"{model.card.uri} {prompt.name} {criteria[0].id.rsplit('/', 1)[0]}"

    @property
    def name(self) -> str:
        return self._name

    @property
    def shares(self) -> list[float]:
        """Each criterion's share of the total; they add up to one."""
        total = sum(criterion.weight for criterion in self._criteria)
        return [criterion.weight / total for criterion in self._criteria]

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        """The totals alone."""
        return self.score_all(prompts, completions).total

    def score_all(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> RubricScores:
        """Totals and the scores of each criterion."""
        scores = each_before_pending(partial(scorer.score, prompts, completions) for scorer in self._scorers)
        by_criterion = {criterion.id: own for criterion, own in zip(self._criteria, scores, strict=True)}
        columns = list(by_criterion.values())
        total = [self._total(c, [column[i] for column in columns]) for i, c in enumerate(completions)]
        return RubricScores(total, by_criterion)

    def _total(self, completion: Completion, scores: Sequence[Score]) -> Score:
        if any(score.distribution is None for score in scores):
            problems = {score.problem for score in scores}
            only = next(iter(problems)) if len(problems) == 1 else None
            return Score(completion_id=completion.id, judge=self._name, problem=only or Problem.MISSING)
        weights = np.array([criterion.weight for criterion in self._criteria])
        rows = np.array([score.distribution for score in scores], dtype=np.float64)
        mixture = weights @ rows / weights.sum()
        expected = min(max(pairwise.expected_score(mixture), 1.0), float(len(mixture)))
        coverages = [score.coverage for score in scores if score.coverage is not None]
        return Score(
            completion_id=completion.id,
            judge=self._name,
            value=pairwise.score_value(expected, len(mixture)),
            expected=expected,
            distribution=tuple(float(p) for p in mixture),
            coverage=min(coverages) if coverages else None,
        )
