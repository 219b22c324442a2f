"""Drift between rounds: exact where it says so, and right about how rare chance is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from aifeedback.errors import InputError
from aifeedback.metrics.drift import (
    alarm_limit,
    cusum,
    is_above_middle,
    is_far_off,
    is_minority,
    latest_against_earlier,
    mean_rounds_to_alarm,
    switched,
)

NAN = np.nan


def test_with_one_earlier_round_it_is_mcnemars_test() -> None:
    """9 items turned from no to yes and 2 back: of 11 that differ, each is a coin flip; ties are split (mid-p)."""
    before = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 20 + [0.0] * 5)
    after = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 20 + [0.0] * 5)
    found = latest_against_earlier(np.stack([before, after]))
    mid_p = binom.sf(9, 11, 0.5) + binom.pmf(9, 11, 0.5) / 2
    assert float(found.score) == pytest.approx(norm.isf(mid_p), abs=1e-9)
    assert (float(found.observed), float(found.expected), int(found.items)) == (29.0, 25.5, 36)


def test_the_tail_is_that_of_every_assignment_counted() -> None:
    """Four items with 1, 2, 2 and 3 yes in four rounds: the latest holds each with chance 1/4, 1/2, 1/2, 3/4."""
    rounds = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=float)
    shares = [1 / 4, 1 / 2, 1 / 2, 3 / 4]
    chance = dict.fromkeys(range(5), 0.0)
    for outcome in itertools.product((0, 1), repeat=4):
        chance[sum(outcome)] += math.prod(q if o else 1 - q for q, o in zip(shares, outcome, strict=True))
    assert float(latest_against_earlier(rounds).score) == pytest.approx(norm.isf(chance[4] / 2), abs=1e-9)


def test_several_series_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(3)
    outcomes = np.where(rng.random((7, 6, 40)) < 0.1, NAN, (rng.random((7, 6, 40)) < 0.3).astype(float))
    together = latest_against_earlier(outcomes)
    for place in range(7):
        alone = latest_against_earlier(outcomes[place])
        assert float(alone.score) == pytest.approx(together.score[place], abs=1e-9)
        one, all_ = switched(outcomes[place], 2), switched(outcomes, 2)
        assert float(one.p) == pytest.approx(all_.p[place], rel=1e-9)


def test_a_judge_that_always_repeats_itself_has_no_score() -> None:
    same = np.tile((np.arange(50) % 3 == 0).astype(float), (6, 1))
    assert float(latest_against_earlier(same).score) == 0.0
    assert float(latest_against_earlier(is_minority(same)).score) == 0.0
    assert float(switched(same, 2).p) == 1.0


@pytest.mark.parametrize("outcomes", [np.full((4, 5), NAN), np.zeros((4, 0)), np.array([[NAN, 1.0], [1.0, NAN]])])
def test_unknown_outcomes_give_no_score_and_no_crash(outcomes: np.ndarray) -> None:
    assert float(latest_against_earlier(outcomes).score) == 0.0
    assert float(switched(outcomes, 1).p) == 1.0
    assert np.all(np.isnan(is_above_middle(outcomes[:, :0])))


def test_scores_of_an_unchanged_judge_are_independent_and_no_larger_than_normal() -> None:
    """Items of every kind of their own rate; each round tested against all before it, from the fourth on."""
    rng = np.random.default_rng(1)
    rate = rng.beta(0.5, 2.0, (300, 1, 80))
    verdicts = (rng.random((300, 12, 80)) < rate).astype(float)
    scores = np.stack([latest_against_earlier(is_minority(verdicts[:, :end])).score for end in range(4, 13)], axis=1)
    assert abs(scores.mean()) < 0.05
    assert 0.9 < scores.std() < 1.02
    assert abs(np.corrcoef(scores[:, :-1].ravel(), scores[:, 1:].ravel())[0, 1]) < 0.06


def test_p_of_verdicts_that_turned_over_is_uniform_if_nothing_changed() -> None:
    rng = np.random.default_rng(2)
    rate = rng.beta(0.5, 0.5, (400, 1, 100))
    p = switched((rng.random((400, 9, 100)) < rate).astype(float), 4).p
    assert kstest(p, "uniform").pvalue > 0.01


def test_ten_verdicts_that_turn_over_are_seen_among_a_hundred_that_waver() -> None:
    """Flips alone hide it: 15 of 100 verdicts differ between any two rounds of this judge."""
    rng = np.random.default_rng(4)
    wavering = (rng.random((9, 100)) < rng.beta(0.3, 0.3, 100)).astype(float)
    turned = np.concatenate([np.zeros((5, 10)), np.ones((4, 10))])
    assert float(switched(np.concatenate([wavering, turned], axis=1), 4).p) < 1e-4
    assert float(switched(wavering, 4).p) > 0.01


def test_minority_and_middle_treat_all_rounds_alike() -> None:
    verdicts = np.array([[1, 1, 0, NAN], [1, 0, 1, NAN], [0, 0, 1, 1]], dtype=float)
    assert is_minority(verdicts)[:, :3].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    order = [2, 0, 1]
    values = np.array([[3.0, 1.0], [5.0, 1.0], [9.0, 2.0]])
    for rule in (is_minority, is_above_middle, is_far_off):
        assert np.array_equal(rule(values[order]), rule(values)[order])
    assert is_above_middle(values)[:, 0].tolist() == [0, 0, 1]
    assert is_far_off(np.array([[0.5], [0.5], [0.5], [0.9]]))[:, 0].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("limit", "shift", "published"), [(4.0, 0.0, 335.4), (5.0, 0.0, 930.9), (4.0, 1.0, 8.38)])
def test_mean_time_to_an_alarm_is_the_published_one(limit: float, shift: float, published: float) -> None:
    """Hawkins and Olwell (1998), table of one-sided charts with k = 0.5."""
    assert mean_rounds_to_alarm(limit, shift=shift) == pytest.approx(published, rel=2e-3)


def test_the_limit_gives_the_wanted_time_between_alarms_in_simulation() -> None:
    limit = alarm_limit(52.0)
    scores = np.random.default_rng(0).normal(size=(200, 2600))
    alarms = (cusum(scores, limit) >= limit).sum()
    assert 200 * 2600 / alarms == pytest.approx(52.0, rel=0.04)


def test_a_sum_starts_again_after_an_alarm_and_never_falls_below_zero() -> None:
    assert cusum(np.array([2.0, 2.0, -9.0, 1.0]), 3.0).tolist() == [1.5, 3.0, 0.0, 0.5]
    assert cusum(np.zeros((2, 0)), 3.0).shape == (2, 0)


@pytest.mark.parametrize("rounds", [0.0, 3.9, -1.0, 2e6, math.inf, NAN])
def test_an_impossible_rate_of_false_alarms_is_refused(rounds: float) -> None:
    with pytest.raises(InputError, match="false_alarms_per_year"):
        alarm_limit(rounds)
