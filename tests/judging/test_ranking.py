"""Pairs, tournaments, and strengths fitted from soft labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from aifeedback.errors import InputError
from aifeedback.judging.ranking import RankScorer, fit_strengths, rank_answers
from aifeedback.judging.sampling import pair_completions, tournament
from aifeedback.types import Comparison, Completion, Preference, Problem, Prompt

from .judge_stub import generated

PROMPTS = [Prompt.of(f"question {i}") for i in range(20)]


def answers(prompt: Prompt, count: int, source: str = "policy") -> list[Completion]:
    return [Completion.of(prompt, "x" * (i + 1), source=source) for i in range(count)]


class ByLength:
    """Says which text is longer, with a margin of half a nat per character; cannot read what it is told to."""

    name = "length"

    def __init__(self, unread: int = 0) -> None:
        self.asked: list[Comparison] = []
        self._unread = unread

    def label(self, comparisons: list[Comparison]) -> list[Preference]:
        self.asked += comparisons
        return [self._one(i, comparison) for i, comparison in enumerate(comparisons)]

    def _one(self, i: int, comparison: Comparison) -> Preference:
        if i < self._unread:
            return Preference(comparison_id=comparison.id, source=self.name, p_first=None, problem=Problem.TIMEOUT)
        margin = (len(comparison.first.text) - len(comparison.second.text)) / 2
        return Preference(comparison_id=comparison.id, source=self.name, p_first=1 / (1 + np.exp(-margin)))


def test_all_pairs_of_different_answers() -> None:
    completions = [c for p in PROMPTS for c in answers(p, 4)] + [Completion.of(PROMPTS[0], "x", source="other")]
    paired = pair_completions(PROMPTS, completions)
    assert len(paired.comparisons) == 20 * 6 + 3
    assert paired.skipped == {"equal answers": 1}
    assert all(c.first.prompt_id == c.second.prompt_id == c.prompt.id for c in paired.comparisons)


def test_storage_order_says_nothing_and_depends_on_the_seed_alone() -> None:
    completions = [c for p in PROMPTS for c in answers(p, 4)]
    paired = pair_completions(PROMPTS, completions, seed=1).comparisons
    longer_first = sum(len(c.first.text) > len(c.second.text) for c in paired)
    assert 40 <= longer_first <= 80
    assert {c.id for c in paired} == {c.id for c in pair_completions(PROMPTS[::-1], completions, seed=1).comparisons}
    assert {c.id for c in paired} != {c.id for c in pair_completions(PROMPTS, completions, seed=2).comparisons}


def test_fewer_pairs_and_across_sources() -> None:
    prompt = PROMPTS[0]
    completions = answers(prompt, 3) + [c for c in answers(prompt, 6, "sft") if len(c.text) > 3]
    assert len(pair_completions([prompt], completions, per_prompt=2).comparisons) == 2
    across = pair_completions([prompt], completions, across_sources=True)
    assert len(across.comparisons) == 9
    assert across.skipped == {"same source": 6}
    assert pair_completions(PROMPTS[:2], completions[:1]).skipped == {"fewer than two answers": 2}
    with pytest.raises(InputError, match="which is missing"):
        pair_completions(PROMPTS[1:], completions)


@generated
@given(st.integers(2, 12), st.integers(1, 4), st.integers(0, 99))
def test_a_tournament_connects_everyone(count: int, rounds: int, seed: int) -> None:
    met = tournament(count, rounds=rounds, seed=seed)
    assert met == tournament(count, rounds=rounds, seed=seed)
    assert len(set(met)) == len(met) <= rounds * count
    assert all(i < j for i, j in met)
    reached, grown = {0}, True
    while grown:
        more = {j for pair in met if reached & set(pair) for j in pair}
        grown, reached = not more <= reached, reached | more
    assert reached == set(range(count))


def test_two_answers_give_back_their_margin() -> None:
    one, other = fit_strengths(2, [(0, 1, 0.9)])
    assert one - other == pytest.approx(np.log(9), rel=0.02)  # the prior draws in a little
    assert one + other == pytest.approx(0)


def test_strengths_are_scipys_minimum() -> None:
    random = np.random.default_rng(0)
    results = [(i, j, float(random.random())) for i in range(5) for j in range(i + 1, 5)]

    def loss(s: np.ndarray) -> float:
        d = np.array([s[i] - s[j] for i, j, _ in results])
        p = np.array([r[2] for r in results])
        return float(np.sum(p * np.logaddexp(0, -d) + (1 - p) * np.logaddexp(0, d)) + np.sum(s**2) / 1800)

    result = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-10}).x
    assert fit_strengths(5, results) == pytest.approx(result - result.mean(), abs=1e-5)


def test_an_unbeaten_answer_stays_finite() -> None:
    strengths = fit_strengths(3, [(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)])
    assert np.all(np.isfinite(strengths))
    assert list(np.argsort(-strengths)) == [0, 1, 2]


@pytest.mark.parametrize("design", ["all", "tournament"])
def test_ranking_finds_the_order(design: str) -> None:
    prompts = PROMPTS[:3]
    completions = [c for p in prompts for c in answers(p, 6)]
    labeler = ByLength()
    rankings = rank_answers(labeler, prompts, completions, design=design, rounds=2)
    assert [r.best_first for r in rankings] == [(5, 4, 3, 2, 1, 0)] * 3
    assert len(labeler.asked) == 45 if design == "all" else len(labeler.asked) <= 36
    differences = np.diff(rankings[0].strengths)
    assert differences == pytest.approx([0.5] * 5, abs=0.05)


def test_win_rates_are_the_mean_chance_against_the_others() -> None:
    [ranking] = rank_answers(ByLength(), PROMPTS[:1], answers(PROMPTS[0], 3))
    s = np.array(ranking.strengths)
    chance = 1 / (1 + np.exp(-(s[:, None] - s[None, :])))
    by_hand = [(chance[i].sum() - 0.5) / 2 for i in range(3)]
    assert ranking.win_rates == pytest.approx(by_hand)
    assert sum(ranking.win_rates) == pytest.approx(1.5)


def test_answers_that_were_never_connected_have_no_rank() -> None:
    [ranking] = rank_answers(ByLength(unread=3), PROMPTS[:1], answers(PROMPTS[0], 3))
    assert (ranking.strengths, ranking.best_first, ranking.problem) == (None, None, Problem.MISSING)
    [partly] = rank_answers(ByLength(unread=1), PROMPTS[:1], answers(PROMPTS[0], 3))
    assert partly.best_first == (2, 1, 0)


def test_rank_scores() -> None:
    prompts = [PROMPTS[0]] * 3 + [PROMPTS[1]]
    completions = answers(PROMPTS[0], 3) + answers(PROMPTS[1], 1)
    scores = RankScorer(ByLength()).score(prompts, completions)
    values = [score.value for score in scores[:3]]
    assert values == sorted(values)
    assert sum(values) == pytest.approx(0)
    assert (scores[3].value, scores[3].problem) == (None, Problem.MISSING)
