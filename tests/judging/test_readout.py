"""Worked examples, invariants, and a comparison with another implementation."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.special import softmax as scipy_softmax

from aifeedback.judging import pairwise
from aifeedback.types import Problem

from .judge_stub import generated

MARGINS = st.floats(-40, 40)
BIASES = st.floats(-5, 5)


def test_the_papers_example() -> None:
    # exp(-1.2) = 0.3012, exp(-0.5) = 0.6065; 0.3012 / 0.9077 = 0.3318
    assert pairwise.softmax([-1.2, -0.5]).round(2).tolist() == [0.33, 0.67]
    assert round(pairwise.sigmoid(pairwise.margin([-1.2, -0.5], swapped=False)), 2) == 0.33
    assert round(pairwise.sigmoid(pairwise.margin([-1.2, -0.5], swapped=True)), 2) == 0.67


@generated
@given(st.lists(st.floats(-60, 0), min_size=2, max_size=12))
def test_softmax_is_scipys(logprobs: list[float]) -> None:
    np.testing.assert_allclose(pairwise.softmax(logprobs), scipy_softmax(logprobs), rtol=1e-12)


@generated
@given(MARGINS)
def test_sigmoid_is_scipys_and_exactly_symmetric(margin: float) -> None:
    assert pairwise.sigmoid(margin) == pytest.approx(float(expit(margin)), abs=1e-15)
    assert pairwise.sigmoid(-margin) == 1.0 - pairwise.sigmoid(margin)


@generated
@given(st.floats(0.001, 0.999))
def test_a_judge_of_the_position_alone_says_exactly_one_half(p_shown_first: float) -> None:
    slot = pairwise.logit(p_shown_first)
    as_stored, swapped = pairwise.sigmoid(slot), pairwise.sigmoid(-slot)
    assert pairwise.average_orders(as_stored, swapped) == 0.5
    assert pairwise.average_margins([slot, -slot]) == 0.5


@generated
@given(st.floats(-8, 8), BIASES)
def test_additive_bias_of_the_logit(truth: float, bias: float) -> None:
    # Shown as stored the judge reads truth + bias; swapped, bias favours the other: truth - bias, in storage order.
    as_stored, swapped = pairwise.sigmoid(truth + bias), pairwise.sigmoid(truth - bias)
    averaged = pairwise.average_orders(as_stored, swapped)
    if abs(truth) > 1e-9:
        assert (averaged > 0.5) == (truth > 0), "the sign is kept"
    assert abs(averaged - 0.5) <= abs(pairwise.sigmoid(truth) - 0.5) + 1e-12, "confidence only shrinks"
    recovered = pairwise.logit(pairwise.average_margins([truth + bias, truth - bias]))
    assert recovered == pytest.approx(truth, abs=1e-9)


@pytest.mark.campaign
def test_campaign_a_hundred_thousand_draws() -> None:
    """The two tests above on draws of margin and bias; the largest error of a recovered margin is printed."""
    draw, largest = Random(7), 0.0
    for _ in range(100_000):
        truth, bias = draw.uniform(-8, 8), draw.uniform(-5, 5)
        sides = pairwise.sigmoid(truth + bias), pairwise.sigmoid(truth - bias)
        assert (pairwise.average_orders(*sides) > 0.5) == (truth > 0)
        largest = max(largest, abs(pairwise.logit(pairwise.average_margins([truth + bias, truth - bias])) - truth))
        assert pairwise.average_orders(pairwise.sigmoid(bias), pairwise.sigmoid(-bias)) == 0.5
    print(f"largest error of a margin {largest:.1e}")
    assert largest < 1e-9


def test_the_gap_names_the_favoured_position() -> None:
    assert pairwise.position_gap(pairwise.sigmoid(1.0), pairwise.sigmoid(-1.0)) > 0
    assert pairwise.position_gap(0.3, 0.3) == 0


def test_expected_score() -> None:
    certain = np.eye(10)
    assert [pairwise.expected_score(p) for p in certain] == list(range(1, 11))
    assert pairwise.expected_score([0.1] * 10) == pytest.approx(5.5)
    assert [pairwise.score_value(s) for s in (1, 5.5, 10)] == [-1, 0, 1]


@generated
@given(st.lists(st.floats(-20, 0), min_size=10, max_size=10), st.lists(st.floats(-20, 0), min_size=10, max_size=10))
def test_pair_probability_from_two_ratings(first: list[float], second: list[float]) -> None:
    p, q = pairwise.softmax(first), pairwise.softmax(second)
    by_hand = math.fsum(p[i] * q[j] * (1.0 if i > j else 0.5) for i in range(10) for j in range(i + 1))
    assert pairwise.p_from_ratings(p, q) == pytest.approx(by_hand, abs=1e-12)
    assert pairwise.p_from_ratings(q, p) == 1.0 - pairwise.p_from_ratings(p, q)
    assert pairwise.p_from_ratings(p, p) == 0.5


@pytest.mark.parametrize(
    ("logprobs", "problem"),
    [
        ((-1.0, -2.0), None),
        ((-1.0, 1e-7), None),
        ((-1.0, None), Problem.LABEL_HIDDEN),
        ((-1.0, math.nan), Problem.BAD_LOGPROBS),
        ((-1.0, -math.inf), Problem.BAD_LOGPROBS),
        ((-1.0, 0.7), Problem.BAD_LOGPROBS),
    ],
)
def test_what_cannot_be_read_is_named(logprobs: tuple[float | None, ...], problem: Problem | None) -> None:
    assert pairwise.fault(logprobs) is problem


def test_clamp() -> None:
    assert [pairwise.clamp(p) for p in (0.01, 0.45, 0.99)] == [0.4, 0.45, 0.6]
