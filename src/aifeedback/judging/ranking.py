"""Rank k: an order of all answers to a prompt from judgements about pairs of them.

Either every pair is judged, or a sampled tournament; strengths are then fitted by Bradley and Terry's model (1952),
P(i beats j) = σ(sᵢ − sⱼ), with soft labels and a weak normal prior that keeps an unbeaten answer finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.judging.sampling import by_prompt, tournament
from aifeedback.types import Comparison, Completion, Labeler, Preference, Problem, Prompt, Score

Floats = NDArray[np.float64]
Design = Literal["all", "tournament"]


class Ranking(NamedTuple):
    """All answers to one prompt, in the order they were given, with what is known about them."""

    prompt_id: str
    completion_ids: tuple[str, ...]
    strengths: tuple[float, ...] | None
    """Log-strengths with mean 0; None with a problem where the judgements do not connect all answers."""
    preferences: tuple[Preference, ...]
    problem: Problem | None
    meet: tuple[tuple[int, int], ...] = ()
    """Indices of the two answers that each preference is about."""

    @property
    def best_first(self) -> tuple[int, ...] | None:
        """Indices of the answers from best to worst; equal strengths keep the given order."""
        if self.strengths is None:
            return None
        return tuple(sorted(range(len(self.strengths)), key=lambda i: -self.strengths[i]))  # type: ignore[index]

    @property
    def win_rates(self) -> tuple[float, ...] | None:
        """The fitted probability of each answer to beat another of the same prompt, in [0, 1]."""
        if self.strengths is None:
            return None
        return tuple(_win_rates(self.strengths, [1] * len(self.strengths)))


def rank_answers(
    labeler: Labeler,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    design: Design = "all",
    rounds: int = 2,
    seed: int = 0,
) -> list[Ranking]:
    """One ranking per prompt that has answers. All prompts are labelled in one call."""
    answers = by_prompt(prompts, completions)
    planned: list[tuple[Prompt, list[Completion], list[tuple[int, int]]]] = []
    for prompt in {p.id: p for p in prompts}.values():
        own = answers.get(prompt.id, [])
        if own:
            meet = _matches(len(own), design, rounds, f"{seed}/{prompt.id}")
            planned.append((prompt, own, meet))
    comparisons = [Comparison.of(p, own[i], own[j]) for p, own, meet in planned for i, j in meet]
    labels = iter(labeler.label(comparisons))
    return [_ranking(prompt, own, meet, [next(labels) for _ in meet]) for prompt, own, meet in planned]


class Ranked(NamedTuple):
    score: Score
    calls: tuple[str, ...]
    """Ids of the model calls behind the judgements about this answer."""


class RankScorer:
    """A ``Scorer``: value = 2·(fitted chance to beat another answer of the same prompt) − 1, in [−1, 1].

    This is the normalised rank, soft where the judge is unsure: it tends to 1 for the best of k, to −1 for the worst,
    to 2·(k − rank)/(k − 1) − 1 in general, and adds up to 0 over a prompt. Answers with equal text tie and are judged
    once. Where the known judgements do not connect a prompt's answers, all of them are unknown.
    """

    def __init__(self, labeler: Labeler, *, design: Design = "all", rounds: int = 2, seed: int = 0) -> None:
        self._labeler, self._rounds, self._seed = labeler, rounds, seed
        self._design: Design = design

    @property
    def name(self) -> str:
        return f"{self._labeler.name} rank"

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        """A prompt with one answer gives None with ``missing``: there is nothing to rank it against."""
        return [ranked.score for ranked in self.rank(prompts, completions)]

    def rank(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Ranked]:
        """The same scores, with the calls behind each."""
        first: dict[tuple[str, str], Completion] = {}
        for completion in completions:
            first.setdefault((completion.prompt_id, completion.text), completion)
        copies = Counter(first[completion.prompt_id, completion.text].id for completion in completions)
        known: dict[str, tuple[float | None, tuple[str, ...]]] = {}
        for ranking in rank_answers(
            self._labeler, prompts, list(first.values()), design=self._design, rounds=self._rounds, seed=self._seed
        ):
            own = [copies[one] for one in ranking.completion_ids]
            is_known = ranking.strengths is not None and sum(own) > 1
            rates = _win_rates(ranking.strengths, own) if ranking.strengths and is_known else [None] * len(own)
            calls = [_calls(ranking, at) for at in range(len(own))]
            known |= zip(ranking.completion_ids, zip(rates, calls, strict=True), strict=True)
        return [self._ranked(c, *known[first[c.prompt_id, c.text].id]) for c in completions]

    def _ranked(self, completion: Completion, win_rate: float | None, calls: tuple[str, ...]) -> Ranked:
        if win_rate is None:
            return Ranked(Score(completion_id=completion.id, judge=self.name, problem=Problem.MISSING), calls)
        return Ranked(Score(completion_id=completion.id, judge=self.name, value=2.0 * win_rate - 1.0), calls)


def _win_rates(strengths: Sequence[float], copies: Sequence[int]) -> list[float]:
    """The fitted chance of each answer to beat another one; an answer that occurs several times ties with itself."""
    s, weights = np.array(strengths), np.array(copies)
    beats = 1.0 / (1.0 + np.exp(s[None, :] - s[:, None]))
    return [float(x) for x in (beats @ weights - 0.5) / max(weights.sum() - 1, 1)]


def _calls(ranking: Ranking, answer: int) -> tuple[str, ...]:
    judged = [label for pair, label in zip(ranking.meet, ranking.preferences, strict=True) if answer in pair]
    return tuple(dict.fromkeys(j.call_id for label in judged for j in label.judgements if j.call_id))


def fit_strengths(count: int, results: Sequence[tuple[int, int, float]], *, prior_sd: float = 30.0) -> Floats:
    """Log-strengths, mean 0, shape (count,): minimises Σ −p·log σ(sᵢ−sⱼ) − (1−p)·log σ(sⱼ−sᵢ) + Σ s²/2σ².

    ``results`` holds (i, j, P(i better)). With two answers and p the fitted difference is close to logit p.
    """
    from scipy.optimize import minimize

    i, j = (np.array([result[side] for result in results], dtype=int) for side in (0, 1))
    p = np.array([result[2] for result in results])
    rows = np.arange(len(p))
    signs = np.zeros((len(p), count))
    signs[rows, i], signs[rows, j] = 1.0, -1.0

    def chances(strengths: Floats) -> Floats:
        return 1.0 / (1.0 + np.exp(-np.clip(signs @ strengths, -500, 500)))

    def loss(strengths: Floats) -> tuple[float, Floats]:
        gaps = signs @ strengths
        value = float(np.sum(np.logaddexp(0.0, gaps) - p * gaps) + strengths @ strengths / (2 * prior_sd**2))
        return value, signs.T @ (chances(strengths) - p) + strengths / prior_sd**2

    def hessian(strengths: Floats) -> Floats:
        chance = chances(strengths)
        return signs.T @ ((chance * (1 - chance))[:, None] * signs) + np.eye(count) / prior_sd**2

    fit = minimize(loss, np.zeros(count), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-11})
    return fit.x - fit.x.mean()


def _matches(count: int, design: str, rounds: int, seed: str) -> list[tuple[int, int]]:
    if design == "all":
        return list(combinations(range(count), 2))
    return tournament(count, rounds=rounds, seed=seed)


def _ranking(
    prompt: Prompt, answers: Sequence[Completion], meet: Sequence[tuple[int, int]], labels: Sequence[Preference]
) -> Ranking:
    known = [(i, j, label.p_first) for (i, j), label in zip(meet, labels, strict=True) if label.p_first is not None]
    is_connected = _connects(len(answers), [(i, j) for i, j, _ in known])
    strengths = tuple(float(s) for s in fit_strengths(len(answers), known)) if is_connected else None
    ids = tuple(answer.id for answer in answers)
    return Ranking(prompt.id, ids, strengths, tuple(labels), None if is_connected else Problem.MISSING, tuple(meet))


def _connects(count: int, pairs: Sequence[tuple[int, int]]) -> bool:
    group = list(range(count))
    for i, j in pairs:
        old, new = group[i], group[j]
        group = [new if g == old else g for g in group]
    return len(set(group)) <= 1
