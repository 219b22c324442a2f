"""A model as judge of pairs: the log-probabilities of its two labels become a soft preference.

Source: Lee et al. 2023 (arXiv 2309.00267), sections 2.1 and 3. Both orders are shown and averaged; a rationale may
be written first (two steps), once or several times (self-consistency). Where we differ: nothing is sampled or parsed
to get the label; a judgement that cannot be read stays None with its problem, and so does a preference that lacks one
of its orders; each principle of an ensemble counts by its weight.

**Readout.** From label log-probabilities to preferences and scores: pure maths, in storage order.

Source: Lee et al. 2023 (arXiv 2309.00267), section 3 and appendix on position bias; expected rating, section 4.2.
Where we differ: they average the probabilities of the two orders; averaging the *logits* is offered besides, since it
recovers the margin exactly where a position adds a constant to the logit.

    margin m = log P(first) − log P(second)         P(first is better) = 1 / (1 + e^−m)
    shown as stored:  m = l₁ − l₂                   shown swapped:  m = l₂ − l₁

**Principles.** A pair is judged by one drawn principle, by each with the results averaged, or by all in one prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.models.pending import at_once, each_before_pending
from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.registry import Wording
from aifeedback.prompts.render import Renderer, control_tokens, needs_principle, uses_chat, uses_critiques
from aifeedback.types import (
    Comparison,
    Judgement,
    Model,
    Preference,
    Problem,
    Progress,
    PromptLike,
    Reading,
    Reply,
    Sampling,
    content_id,
    silent,
)


def derived_seed(seed: int, *parts: str | int) -> int:
    """A 31-bit seed for one purpose: equal parts, equal seed, on every machine."""
    return int(content_id("seed", seed, *parts), 16) % 2**31


Floats = NDArray[np.float64]


def softmax(logprobs: Sequence[float] | Floats) -> Floats:
    """P over the labels alone, shape (K,) or (N, K): log-probabilities renormalised over the last axis."""
    logits = np.asarray(logprobs, dtype=np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sigmoid(margin: float) -> float:
    """1 / (1 + e^−margin), such that sigmoid(−m) is *exactly* 1 − sigmoid(m) in floating point."""
    larger = 1.0 / (1.0 + math.exp(-abs(margin)))
    return larger if margin >= 0 else 1.0 - larger


def logit(p: float) -> float:
    """log p/(1−p); ±inf at 0 and 1."""
    if p in (0.0, 1.0):
        return math.inf if p else -math.inf
    return math.log(p) - math.log1p(-p)


def p_first(logprobs: Sequence[float], *, swapped: bool) -> float:
    """P that the first *stored* response is better, from the labels *as shown*; half of a tie's probability, where the
    third label is a tie, goes to each response. Swapping gives exactly 1 − p."""
    if len(logprobs) == 2:
        return sigmoid(margin(logprobs, swapped=swapped))
    shown_first, shown_second, tie = softmax(logprobs)
    stored = (shown_second, shown_first) if swapped else (shown_first, shown_second)
    larger = min(float(max(stored) + tie / 2.0), 1.0)
    return larger if stored[0] >= stored[1] else 1.0 - larger


def margin(logprobs: Sequence[float], *, swapped: bool) -> float:
    """Log-odds that the first *stored* response is better, from the two labels *as shown*."""
    shown_first, shown_second = logprobs
    return shown_second - shown_first if swapped else shown_first - shown_second


def fault(logprobs: Sequence[float | None]) -> Problem | None:
    """Why these label log-probabilities cannot be used, or None. A hair above 0 is rounding, more is impossible."""
    if any(value is None for value in logprobs):
        return Problem.LABEL_HIDDEN
    if any(not math.isfinite(value) or value > 1e-3 for value in logprobs if value is not None):
        return Problem.BAD_LOGPROBS
    return None


def average_orders(p_as_stored: float, p_swapped: float) -> float:
    """½(P_AB + P_BA), both about storage order. A judge that sees only the position gives exactly ½."""
    return (p_as_stored + p_swapped) / 2.0


def average_margins(margins: Sequence[float]) -> float:
    """P from the mean log-odds: an additive position bias of the logit cancels."""
    return sigmoid(math.fsum(margins) / len(margins))


def position_gap(p_as_stored: float, p_swapped: float) -> float:
    """P(first) when shown first minus P(first) when shown second, in [−1, 1]; > 0 favours the first position."""
    return p_as_stored - p_swapped


def clamp(p: float, low: float = 0.4, high: float = 0.6) -> float:
    """Keep a saturated probability inside [low, high] (Bai et al. 2022, arXiv 2212.08073, section 4.1)."""
    return min(max(p, low), high)


def expected_score(distribution: Sequence[float] | Floats) -> float:
    """Σ i·P(i), i = 1..K, of a distribution that sums to 1."""
    p = np.asarray(distribution, dtype=np.float64)
    return float(p @ np.arange(1, len(p) + 1))


def score_value(expected: float, labels: int = 10) -> float:
    """An expected rating in [1, K] as a reward in [−1, 1]: (2s − K − 1)/(K − 1), for ten labels (2s − 11)/9."""
    return (2.0 * expected - (labels + 1.0)) / (labels - 1.0)


def p_from_ratings(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float:
    """P(first better) = Σ_{i>j} P₁(i)P₂(j) + ½ Σ_i P₁(i)P₂(i) for two independent rating distributions.

    Swapping the arguments gives exactly 1 − p.
    """
    p, q = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    joint = np.outer(p, q)
    wins, losses = float(np.tril(joint, -1).sum()), float(np.tril(joint.T, -1).sum())
    ties = float(np.trace(joint))
    larger = (max(wins, losses) + ties / 2.0) / (wins + losses + ties)
    larger = min(max(larger, 0.5), 1.0)
    return larger if wins >= losses else 1.0 - larger


How = Literal["drawn", "averaged", "together"]


class PrincipleUse:
    """drawn: ``per_pair`` of them by weight, by seed and item, averaged. averaged: each of them. together: one text."""

    def __init__(self, wordings: Sequence[Wording], how: How = "averaged", *, per_pair: int = 1, seed: int = 0) -> None:
        if not wordings:
            raise StandardsError("no principle to judge by", fix="give at least one")
        if not 1 <= per_pair <= len(wordings):
            raise StandardsError(f"{per_pair} of {len(wordings)} principles cannot be drawn", key="per_pair")
        self.wordings, self.how, self._per_pair, self._seed = tuple(wordings), how, per_pair, seed

    @property
    def digest(self) -> str:
        """Equal only where every item would be judged by the same words."""
        return content_id("principles", [list(w) for w in self.wordings], self.how, self._per_pair, self._seed)

    def of(self, item_id: str) -> list[Wording]:
        """The wordings for one item; the same for the same item, whatever else is labelled beside it."""
        if self.how == "averaged":
            return list(self.wordings)
        if self.how == "together":
            return [together(self.wordings)]
        weights = np.array([wording.weight for wording in self.wordings])
        drawn = _generator(self._seed, item_id).choice(
            len(weights), size=self._per_pair, replace=False, p=weights / weights.sum()
        )
        # Weights decided the draw already; counting them again in the mean would use them twice.
        return [self.wordings[i]._replace(weight=1.0) for i in drawn]


def use_of(
    constitution: Constitution, *, how: How | None = None, per_pair: int | None = None, seed: int = 0
) -> PrincipleUse:
    """A constitution's principles for comparing, used as it says itself unless told otherwise."""
    how = how or constitution.use
    drawn = per_pair or constitution.per_pair
    return PrincipleUse(constitution.wordings("compare"), how, per_pair=drawn if how == "drawn" else 1, seed=seed)


def together(wordings: Sequence[Wording]) -> Wording:
    """All of them as one list. The id keeps what they have in common and says how many they are."""
    if len(wordings) == 1:
        return wordings[0]
    source = wordings[0].id.rsplit("/", 1)[0]
    return Wording(f"{source}/all-{len(wordings)}", "\n".join(f"- {wording.text}" for wording in wordings))


def _generator(seed: int, item_id: str) -> np.random.Generator:
    return np.random.default_rng(int(content_id("principle", seed, item_id), 16))


class Rationale(Config):
    """How rationales are written. The defaults are the paper's: one, greedy."""

    samples: int = Field(default=1, ge=1)
    """How many rationales are written and averaged (self-consistency)."""
    temperature: float = Field(default=0.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    """40 in the paper's self-consistency runs."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Overrides the prompt file's limit."""


class RationaleText(NamedTuple):
    text: str
    problem: Problem | None
    call_id: str | None


def write_rationales(
    model: Model,
    prompt: JudgePrompt,
    settings: Rationale,
    requests: Sequence[PromptLike],
    samples: Sequence[int],
    seed: int,
) -> list[RationaleText]:
    """One rationale per request, in order; requests with the same sample number share one call of the model.

    A rationale that hit its length limit is used as it is: the verdict is read after it all the same. One that continues
    to state the verdict by itself is cut there, since the forced ending follows.
    """
    answers: dict[int, RationaleText] = {}
    places = {sample: [i for i, number in enumerate(samples) if number == sample] for sample in sorted(set(samples))}

    def written(sample: int) -> list[Reply]:
        return model.reply([requests[i] for i in places[sample]], _sampling(prompt, settings, sample, seed))

    drawn = each_before_pending(partial(written, sample) for sample in places)
    for chosen, replies in zip(places.values(), drawn, strict=True):
        for i, reply in zip(chosen, replies, strict=True):
            answers[i] = RationaleText(before_verdict(reply.text, prompt).strip(), reply.problem, reply.call_id)
    return [answers[i] for i in range(len(requests))]


def _sampling(prompt: JudgePrompt, settings: Rationale, sample: int, seed: int) -> Sampling:
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=None,
        max_new_tokens=settings.max_tokens or prompt.rationale_max_tokens,
        stop=default_stops(prompt),
        seed=derived_seed(seed, "rationale", sample),
    )


def default_stops(prompt: JudgePrompt) -> tuple[str, ...]:
    """Where a rationale ends: the prompt's own stops, else the first words of its ending.

    Examples teach "rationale, then verdict", so a base model writes its verdict, and further samples, before the forced
    ending comes.
    """
    words = _ending_words(prompt)
    return prompt.rationale_stop or ((words,) if words else ())


def before_verdict(text: str, prompt: JudgePrompt) -> str:
    """The part of a rationale before a line that begins as the prompt's ending does, whatever its capitals and marks."""
    words = re.findall(r"\w+", _ending_words(prompt))
    if not words or prompt.rationale_stop:
        return text
    spaced = r"[^\w\n]+".join(map(re.escape, words))
    ending = rf"^[^\w\n]*{spaced}[^\w\n]*[=:]"
    match = re.search(ending, text, re.IGNORECASE | re.MULTILINE)
    return text[: match.start()] if match else text


def _ending_words(prompt: JudgePrompt) -> str:
    """What the ending's last line says, up to where the label stands: "Preferred Response=" or "Rating:"."""
    lines = [line.strip() for line in prompt.ending.split("\n") if line.strip()]
    return lines[-1] if lines and re.fullmatch(r"[^={}]*\w\s*[=:]", lines[-1]) else ""


Critic = Callable[[Sequence[Comparison]], list[tuple[str | None, str | None]]]
"""Critiques of both responses of each comparison, in storage order; None if the prompt shows none."""


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
        values = (settings or JudgeSettings()).model_dump() | overrides
        self.model, self.prompt, self.settings = model, prompt, parse(JudgeSettings, values)
        self._principles, self._critic, self._progress = principles, critic, progress
        self._check()
        is_chat = uses_chat(prompt, model, self.settings.chat)
        self._name: str | None = None  # a model's card can be expensive to get, and its URI never changes
        self._renderer = Renderer(prompt, chat=is_chat, control_tokens=control_tokens(model))

    @property
    def name(self) -> str:
        """Model and prompt: what a judgement names as its judge."""
        if self._name is None:
            self._name = f"{self.model.card.uri} {self.prompt.name}"
        return self._name

    @property
    def new_questions(self) -> int | None:
        """Questions put to the model so far, without those that a journal answered; None where no journal counts them."""
        return getattr(self.model, "new_questions", None)

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
        """Like ``label``, for any iterable: labels ``batch_size`` pairs at a time and keeps no more in memory."""
        remaining, done = iter(comparisons), 0
        while batch := list(islice(remaining, at_once(self.model, self.settings.batch_size))):
            preferences = self._label_batch(batch)
            done += len(batch)
            self._progress(done, total, {"unknown": sum(p.p_first is None for p in preferences)})
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
        """Ask everything in one call (two with rationales)."""
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
        preference = None
        if problem is None and reading is not None:
            preference = p_first(_known(reading.logprobs), swapped=view.swapped)
        return Judgement(
            comparison_id=view.comparison.id,
            judge=self.name,
            principle_id=view.wording.id if view.wording else None,
            shown_swapped=view.swapped,
            readout=getattr(self.model, "readout", "logprobs"),
            p_first=preference,
            logprobs=reading.logprobs if reading else None,
            coverage=reading.coverage if reading else None,
            rationale=rationale.text if rationale else None,
            problem=problem,
            call_id=reading.call_id if reading else rationale.call_id if rationale else None,
        )

    def _combine(self, comparison: Comparison, views: Sequence[tuple[View, Judgement]]) -> Preference:
        judgements = tuple(judgement for _, judgement in views)
        by_wording: dict[Wording | None, list[Judgement]] = {}
        for view, judgement in views:
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
            p_first=clamp(p_first, *self.settings.clamp) if self.settings.clamp else p_first,
            judgements=judgements,
            position_gap=_weighted(gaps, weights) if len(gaps) == len(weights) else None,
        )


def reading_problem(reading: Reading, min_coverage: float = 0.0) -> Problem | None:
    """Why a reading cannot become a number, or None."""
    if reading.problem is not None:
        return reading.problem
    if (problem := fault(reading.logprobs)) is not None:
        return problem
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
    shown = [order for order in orders if order]
    read = [[j for j in order if j.p_first is not None] for order in shown]
    if any(2 * len(known) < len(order) or not known for known, order in zip(read, shown, strict=True)):
        return None
    means = [math.fsum(_p(j) for j in known) / len(known) for known in read]
    gap = position_gap(means[0], means[1]) if len(means) == 2 else None
    if average == "logits":
        margins = [math.fsum(_margin(j) for j in known) / len(known) for known in read]
        return average_margins(margins), gap
    return (average_orders(means[0], means[1]) if len(means) == 2 else means[0]), gap


def common_problem(judgements: Sequence[Judgement]) -> Problem:
    """The problem that all judgements share; ``missing`` where some were read or they failed differently."""
    problems = {judgement.problem for judgement in judgements}
    only = next(iter(problems)) if len(problems) == 1 else None
    return only or Problem.MISSING


def _margin(judgement: Judgement) -> float:
    if judgement.logprobs is None or len(judgement.logprobs) > 2:
        return logit(_p(judgement))
    return margin(_known(judgement.logprobs), swapped=judgement.shown_swapped)


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
