"""A model as judge of single responses: direct scoring, no reward model.

Source: Lee et al. 2023 (arXiv 2309.00267), section 4.2 (d-RLAIF): the likelihood of each of the ten ratings is read,
normalised over the ten, and the *expected* rating s = Σ i·P(i) becomes the reward (2s − 11)/9. Nothing is sampled.
A good–bad prompt reads two labels instead: value = 2·P(good) − 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.feedback import readout
from aifeedback.feedback.rationale import Rationale, RationaleText, write_rationales
from aifeedback.protocols import Model, Progress, PromptLike, Reading, silent
from aifeedback.records import Completion, Problem, Prompt, Score
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.render import Renderer, control_tokens, needs_principle, uses_chat
from aifeedback.standards.wording import Wording


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
        given = (settings or ScoreSettings()).model_dump() | overrides
        self.model, self.prompt, self.settings = model, prompt, parse(ScoreSettings, given)
        self._wording, self._progress = wording, progress
        self._check()
        is_chat = uses_chat(prompt, model, self.settings.chat)
        self._name: str | None = None  # a model's card can be dear to ask for, and its URI never changes
        self._renderer = Renderer(prompt, chat=is_chat, control_tokens=control_tokens(model))

    @property
    def asked(self) -> int | None:
        """Questions put to the model so far, without those that a journal answered; None where no journal counts them."""
        return getattr(self.model, "asked", None)

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
        for start in range(0, len(pairs), self.settings.batch_size):
            scores += self._score_batch(pairs[start : start + self.settings.batch_size])
            self._progress(len(scores), len(pairs), {"unread": sum(s.value is None for s in scores)})
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
        asked = [(pair, sample) for pair in pairs for sample in range(samples)]
        rationales = self._rationales([pair for pair, _ in asked], [sample for _, sample in asked])
        readable = [i for i, text in enumerate(rationales) if text is None or text.problem is None]
        verdicts = [self._verdict_prompt(asked[i][0], rationales[i]) for i in readable]
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
        common = {
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
        expected = min(max(readout.expected_score(mean), 1.0), 10.0)
        return Score(
            **common,
            value=readout.score_value(expected),
            expected=expected,
            distribution=tuple(float(p) for p in mean),
        )

    def _distribution(self, rationale: RationaleText | None, reading: Reading | None) -> readout.Floats | Problem:
        if reading is None:
            return (rationale.problem if rationale else None) or Problem.MISSING
        logprobs = fill_hidden(reading, self.settings.hidden_mass)
        if reading.problem not in (None, Problem.LABEL_HIDDEN):
            return reading.problem
        if (found := readout.fault(logprobs)) is not None:
            return found
        if reading.coverage is not None and reading.coverage < self.settings.min_coverage:
            return Problem.UNREADABLE
        return readout.softmax([value if value is not None else -1e9 for value in logprobs])


def fill_hidden(reading: Reading, hidden_mass: float) -> tuple[float | None, ...]:
    """Hidden labels as (next to) impossible, where the labels that were seen leave at most ``hidden_mass`` for them.

    The expected rating is then off by at most 9·hidden_mass; with the default of 0 nothing is filled.
    """
    seen = [value for value in reading.logprobs if value is not None]
    mass = reading.coverage if reading.coverage is not None else math.fsum(math.exp(value) for value in seen)
    if hidden_mass == 0.0 or not seen or 1.0 - mass > hidden_mass:
        return reading.logprobs
    return tuple(-1e9 if value is None else value for value in reading.logprobs)
