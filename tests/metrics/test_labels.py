"""Alignment, reward accuracy and position bias on examples one can count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from aifeedback.errors import InputError
from aifeedback.metrics import alignment, position_bias, reward_accuracy


def test_alignment_counts_agreeing_verdicts() -> None:
    result = alignment([0.9, 0.2, 0.6, 0.4], [1, 0, 0, 1])
    assert result.value == 0.5
    assert (result.low, result.high) == pytest.approx(proportion_confint(2, 4, method="wilson"))


def test_ai_ties_count_half_wrong_or_nothing() -> None:
    ai, human = [0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]
    assert alignment(ai, human).value == pytest.approx(0.75)
    assert alignment(ai, human, ties="wrong").value == pytest.approx(0.5)
    assert alignment(ai, human, ties="drop").value == pytest.approx(1.0)
    assert alignment(ai, human).ties == 2


def test_human_ties_and_low_confidence_are_left_out_and_counted() -> None:
    result = alignment([0.9, 0.9, 0.9, 0.9], [1.0, 0.5, 0.6, 0.9], min_margin=0.2)
    assert (result.n, result.undecided) == (2, 2)


def test_unreadable_labels_are_dropped_or_count_as_errors() -> None:
    ai, human = [0.9, None, 0.1, None], [1, 1, 0, 0]
    dropped = alignment(ai, human)
    assert (dropped.value, dropped.n, dropped.dropped) == (1.0, 2, 2)
    assert alignment(ai, human, unreadable="wrong").value == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_swapping_every_pair_changes_nothing(rows: list[tuple[float, float]]) -> None:
    ai, human = (np.round(column, 6) for column in zip(*rows, strict=True))
    assert alignment(ai, human).value == pytest.approx(alignment(1 - ai, 1 - human).value)


def test_reward_accuracy_needs_a_higher_reward() -> None:
    assert reward_accuracy([2, 1, 0.5], [1, 2, 0.5]).value == pytest.approx(1 / 3)
    assert reward_accuracy([2, 1, 0.5], [1, 2, 0.5], ties="half").value == pytest.approx(0.5)
    assert reward_accuracy([2, 1], [1, 2], [1, 0]).value == 1.0
    assert reward_accuracy([2, None], [1, 2]).dropped == 1


def test_infinite_rewards_are_refused() -> None:
    with pytest.raises(InputError):
        reward_accuracy([np.inf], [0])


def test_a_pure_slot_judge_is_found() -> None:
    """It gives 0.8 to what is shown first: storage-order p is 0.8 in the original order, 0.2 in the swapped one."""
    result = position_bias([0.8] * 50, [0.2] * 50)
    assert (result.value, result.consistency, result.slot) == (1.0, 0.0, "first")
    assert result.mean_gap == pytest.approx(0.6)
    assert (result.low, result.high) == pytest.approx(proportion_confint(50, 50, method="wilson"))
    assert position_bias([0.2] * 50, [0.8] * 50).slot == "second"


def test_a_judge_blind_to_position_shows_nothing() -> None:
    column = np.random.default_rng(0).random(200)
    result = position_bias(column, column)
    assert (result.value, result.consistency, result.slot, result.mean_gap) == (0.0, 1.0, "neither", 0.0)


def test_position_counts_by_hand() -> None:
    # same slot (first), same slot (second), consistent, consistent tie, tie in one order only, unknown
    result = position_bias([0.9, 0.1, 0.7, 0.5, 0.5, None], [0.2, 0.6, 0.8, 0.5, 0.9, 0.4])
    assert (result.slot_first, result.slot_second, result.mixed, result.n, result.dropped) == (1, 1, 1, 5, 1)
    assert result.value == pytest.approx(2 / 5)
    assert result.consistency == pytest.approx(2 / 5)
    # gaps .7, −.5, −.1, 0, −.4
    assert result.mean_gap == pytest.approx(-0.06)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
@settings(max_examples=40, deadline=None)
def test_renaming_the_stored_responses_changes_nothing(rows: list[tuple[float, float]]) -> None:
    """Swapping storage order maps (p, q) to (1 − q, 1 − p): shown first in the original order is then second."""
    p, q = (np.round(column, 6) for column in zip(*rows, strict=True))
    one, other = position_bias(p, q), position_bias(1 - q, 1 - p)
    assert one.value == pytest.approx(other.value)
    assert (one.slot_first, one.slot_second) == (other.slot_first, other.slot_second)
    assert one.mean_gap == pytest.approx(other.mean_gap, abs=1e-9)
    assert one.value + one.consistency <= 1 + 1e-9


@pytest.mark.parametrize("bias", [-5, -1, 0.3, 2, 5])
def test_an_additive_logit_bias_shows_in_gap_and_slot(bias: float) -> None:
    margin = np.random.default_rng(1).normal(0, 1.5, 500)
    shown_first, shown_second = 1 / (1 + np.exp(-(margin + bias))), 1 / (1 + np.exp(-(margin - bias)))
    result = position_bias(shown_first, shown_second)
    assert np.sign(result.mean_gap) == np.sign(bias)
    assert result.slot == ("first" if bias > 0 else "second")
    assert result.value == pytest.approx((np.abs(margin) < abs(bias)).mean())
