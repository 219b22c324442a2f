"""A model as judge of pairs: the log-probabilities of its two labels become a soft preference.

Source: Lee et al. 2023 (arXiv 2309.00267), sections 2.1 and 3. Both orders are shown and averaged; a rationale may
be written first (two steps), once or several times (self-consistency). Where we differ: nothing is sampled or parsed
to get the label; a judgement that cannot be read stays None with its problem, and so does a preference that lacks one
of its orders; each principle of an ensemble counts by its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pydantic import Field, field_validator

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.feedback import readout
from aifeedback.feedback.principles import PrincipleUse
from aifeedback.feedback.rationale import Rationale, RationaleText, write_rationales
from aifeedback.protocols import Model, Progress, PromptLike, Reading, silent
from aifeedback.records import Comparison, Judgement, Preference, Problem, content_id
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.render import Renderer, control_tokens, needs_principle, uses_chat, uses_critiques
from aifeedback.standards.wording import Wording

Critic = Callable[[Sequence[Comparison]], list[tuple[str | None, str | None]]]
"""Critiques of both responses of each comparison, in storage order; None where there is none to show."""


NO_REMARKS = "(none)"


class JudgeSettings(Config):
    """How a judge is asked about pairs, and how its answers become one preference."""

    orders: Literal["both", "one"] = "both"
    """both: each pair is shown in both orders. one: in one order, drawn from seed and pair."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over orders and rationales."""
    rationale: Rationale | None = None
    """Chain of thought before the verdict; none when not given."""
    clamp: tuple[float, float] | None = None
    """Keep the preference in this range, such as [0.4, 0.6] for a chain of thought that saturates."""
    min_coverage: float = Field(default=0.0, ge=0.0, le=1.0)
    """A reading whose labels carry less probability than this is unreadable."""
    chat: bool | None = None
    """Overrides the prompt file: messages (true) or one plain text (false)."""
    seed: int = 0
    batch_size: int = Field(default=512, ge=1)
    """Comparisons per call of the model."""

    @field_validator("clamp")
    @classmethod
    def _holds_undecided(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (0 <= value[0] < value[1] <= 1 and value[0] <= 0.5 <= value[1]):
            raise ValueError("must be [low, high] in [0, 1] with low < high and low <= 0.5 <= high")
        return value


@dataclass(frozen=True)
class View:
    """One way of asking about one comparison."""

    comparison: Comparison
    swapped: bool
    wording: Wording | None
    sample: int
    """Which of the rationales."""
    critiques: tuple[str | None, str | None] | None = None

    @property
    def values(self) -> dict[str, str]:
        texts = [self.comparison.first.text, self.comparison.second.text]
        notes = list(self.critiques or ())
        if self.swapped:
            texts.reverse()
            notes.reverse()
        shown = {"first": texts[0], "second": texts[1]}
        if notes:
            shown |= {"first_critique": notes[0] or NO_REMARKS, "second_critique": notes[1] or NO_REMARKS}
        return shown

    @property
    def principle(self) -> str | None:
        return self.wording.text if self.wording else None


class JudgeLabeler:
    """A ``Labeler`` over any ``protocols.Model`` and any pairwise judge prompt."""

    def __init__(
        self,
        model: Model,
        prompt: JudgePrompt,
        settings: JudgeSettings | None = None,
        *,
        principles: PrincipleUse | None = None,
        critic: Critic | None = None,
        progress: Progress = silent,
        **overrides: object,
    ) -> None:
        """Keyword arguments named as fields of ``JudgeSettings`` set those fields: ``orders="one"``."""
        given = (settings or JudgeSettings()).model_dump() | overrides
        self.model, self.prompt, self.settings = model, prompt, parse(JudgeSettings, given)
        self._principles, self._critic, self._progress = principles, critic, progress
        self._check()
        is_chat = uses_chat(prompt, model, self.settings.chat)
        self._name: str | None = None  # a model's card can be dear to ask for, and its URI never changes
        self._renderer = Renderer(prompt, chat=is_chat, control_tokens=control_tokens(model))

    @property
    def name(self) -> str:
        """Model and prompt: what a judgement names as its judge."""
        if self._name is None:
            self._name = f"{self.model.card.uri} {self.prompt.name}"
        return self._name

    @property
    def asked(self) -> int | None:
        """Questions put to the model so far, without those that a journal answered; None where no journal counts them."""
        return getattr(self.model, "asked", None)

    @property
    def settings_id(self) -> str:
        """Equal only for labelers that would ask every question in the same words and the same way."""
        how = self.settings.model_dump(mode="json", exclude={"batch_size"})
        used = self._principles.digest if self._principles else None
        return content_id(self.model.card, self.prompt.digest, how, used, self._critic is not None)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """One preference per comparison, in order."""
        return list(self.label_each(comparisons, total=len(comparisons)))

    def label_each(self, comparisons: Iterable[Comparison], *, total: int = 0) -> Iterator[Preference]:
        """As ``label``, for any iterable: asks ``batch_size`` at a time and holds no more than that in memory."""
        remaining, done = iter(comparisons), 0
        while batch := list(islice(remaining, self.settings.batch_size)):
            preferences = self._label_batch(batch)
            done += len(batch)
            self._progress(done, total, {"unread": sum(p.p_first is None for p in preferences)})
            yield from preferences

    def example(self, comparison: Comparison) -> PromptLike:
        """The first prompt that this comparison would be shown with (``--dry-run``)."""
        view = self._views([comparison])[0][0]
        if self.settings.rationale:
            return self._renderer.request(view.comparison.prompt, view.values, principle=view.principle)
        return self._verdict_prompt(view, None)

    def _check(self) -> None:
        name = self.prompt.name
        if self.prompt.task != "pairwise":
            raise StandardsError(f"judge prompt '{name}' is for {self.prompt.task}, not for pairs", key="task")
        if self.settings.rationale and self.prompt.rationale_request is None:
            raise StandardsError(f"judge prompt '{name}' offers no chain of thought", key="rationale_request")
        if needs_principle(self.prompt) and self._principles is None:
            raise StandardsError(f"judge prompt '{name}' shows a principle", fix="give a constitution")
        if self._principles is not None and not needs_principle(self.prompt):
            raise StandardsError(f"judge prompt '{name}' never shows a principle", fix="use {{ principle }} in it")
        if uses_critiques(self.prompt) != (self._critic is not None):
            raise StandardsError(f"judge prompt '{name}' and the critic do not fit", fix="give both or neither")

    def _label_batch(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        planned = self._views(comparisons)
        views = [view for group in planned for view in group]
        judgements = iter(self._judge(views))
        return [
            self._combine(comparison, [(view, next(judgements)) for view in group])
            for comparison, group in zip(comparisons, planned, strict=True)
        ]

    def _views(self, comparisons: Sequence[Comparison]) -> list[list[View]]:
        """The views of each comparison; those that share most of their text stand together."""
        critiques = self._critic(comparisons) if self._critic else [None] * len(comparisons)
        samples = self.settings.rationale.samples if self.settings.rationale else 1
        return [
            [
                View(comparison, swapped, wording, sample, notes)
                for wording in (self._principles.of(comparison.id) if self._principles else [None])
                for swapped in self._orders(comparison)
                for sample in range(samples)
            ]
            if _has_content(comparison)
            else []
            for comparison, notes in zip(comparisons, critiques, strict=True)
        ]

    def _orders(self, comparison: Comparison) -> tuple[bool, ...]:
        if self.settings.orders == "both":
            return (False, True)
        return (int(content_id("order", self.settings.seed, comparison.id), 16) % 2 == 1,)

    def _judge(self, views: Sequence[View]) -> list[Judgement]:
        """Asks everything in one call (two with rationales)."""
        rationales = self._rationales(views)
        readable = [i for i, text in enumerate(rationales) if text is None or text.problem is None]
        prompts = [self._verdict_prompt(views[i], rationales[i]) for i in readable]
        readings = dict(zip(readable, self.model.read_labels(prompts, self.prompt.labels), strict=True))
        return [self._judgement(view, rationales[i], readings.get(i)) for i, view in enumerate(views)]

    def _rationales(self, views: Sequence[View]) -> Sequence[RationaleText | None]:
        if self.settings.rationale is None:
            return [None] * len(views)
        requests = [self._renderer.request(v.comparison.prompt, v.values, principle=v.principle) for v in views]
        samples = [view.sample for view in views]
        return write_rationales(self.model, self.prompt, self.settings.rationale, requests, samples, self.settings.seed)

    def _verdict_prompt(self, view: View, rationale: RationaleText | None) -> PromptLike:
        return self._renderer.verdict(
            view.comparison.prompt,
            view.values,
            principle=view.principle,
            rationale=rationale.text if rationale else None,
        )

    def _judgement(self, view: View, rationale: RationaleText | None, reading: Reading | None) -> Judgement:
        problem = rationale.problem if rationale else None
        if reading is not None:
            problem = reading_problem(reading, self.settings.min_coverage)
        p_first = None
        if problem is None and reading is not None:
            p_first = readout.sigmoid(readout.margin(_known(reading.logprobs), swapped=view.swapped))
        return Judgement(
            comparison_id=view.comparison.id,
            judge=self.name,
            principle_id=view.wording.id if view.wording else None,
            shown_swapped=view.swapped,
            readout=getattr(self.model, "readout", "logprobs"),
            p_first=p_first,
            logprobs=reading.logprobs if reading else None,
            coverage=reading.coverage if reading else None,
            rationale=rationale.text if rationale else None,
            problem=problem,
            call_id=reading.call_id if reading else rationale.call_id if rationale else None,
        )

    def _combine(self, comparison: Comparison, asked: Sequence[tuple[View, Judgement]]) -> Preference:
        judgements = tuple(judgement for _, judgement in asked)
        by_wording: dict[Wording | None, list[Judgement]] = {}
        for view, judgement in asked:
            by_wording.setdefault(view.wording, []).append(judgement)
        parts = [combine_orders(group, self.settings.average) for group in by_wording.values()]
        if not parts or any(part is None for part in parts):
            return Preference(
                comparison_id=comparison.id,
                source=self.name,
                p_first=None,
                judgements=judgements,
                problem=common_problem(judgements) if judgements else Problem.EMPTY,
            )
        known = [part for part in parts if part is not None]
        weights = [wording.weight if wording else 1.0 for wording in by_wording]
        p_first = _weighted([p for p, _ in known], weights)
        gaps = [gap for _, gap in known if gap is not None]
        return Preference(
            comparison_id=comparison.id,
            source=self.name,
            p_first=readout.clamp(p_first, *self.settings.clamp) if self.settings.clamp else p_first,
            judgements=judgements,
            position_gap=_weighted(gaps, weights) if len(gaps) == len(weights) else None,
        )


def reading_problem(reading: Reading, min_coverage: float = 0.0) -> Problem | None:
    """Why a reading cannot become a number, or None."""
    if reading.problem is not None:
        return reading.problem
    if (found := readout.fault(reading.logprobs)) is not None:
        return found
    if reading.coverage is not None and reading.coverage < min_coverage:
        return Problem.UNREADABLE
    return None


def combine_orders(
    judgements: Sequence[Judgement], average: Literal["probabilities", "logits"]
) -> tuple[float, float | None] | None:
    """(p_first, position gap) of one comparison under one wording; None where an order was asked and not read.

    With several rationales in an order, at least half of them must have been read; the mean is over those.
    The gap is None where only one order was asked.
    """
    orders = [[j for j in judgements if j.shown_swapped is swapped] for swapped in (False, True)]
    asked = [order for order in orders if order]
    read = [[j for j in order if j.p_first is not None] for order in asked]
    if any(2 * len(known) < len(order) or not known for known, order in zip(read, asked, strict=True)):
        return None
    means = [math.fsum(_p(j) for j in known) / len(known) for known in read]
    gap = readout.position_gap(means[0], means[1]) if len(means) == 2 else None
    if average == "logits":
        margins = [math.fsum(_margin(j) for j in known) / len(known) for known in read]
        return readout.average_margins(margins), gap
    return (readout.average_orders(means[0], means[1]) if len(means) == 2 else means[0]), gap


def common_problem(judgements: Sequence[Judgement]) -> Problem:
    """The problem that all judgements share; ``missing`` where some were read or they failed differently."""
    problems = {judgement.problem for judgement in judgements}
    only = next(iter(problems)) if len(problems) == 1 else None
    return only or Problem.MISSING


def _margin(judgement: Judgement) -> float:
    if judgement.logprobs is None:
        return readout.logit(_p(judgement))
    return readout.margin(_known(judgement.logprobs), swapped=judgement.shown_swapped)


def _p(judgement: Judgement) -> float:
    assert judgement.p_first is not None
    return judgement.p_first


def _known(logprobs: Sequence[float | None]) -> list[float]:
    return [value for value in logprobs if value is not None]


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def _has_content(comparison: Comparison) -> bool:
    """Two empty responses leave nothing to compare; one empty response is simply a bad one."""
    return bool(comparison.first.text.strip() or comparison.second.text.strip())
