from __future__ import annotations

import math

import pytest

from aifeedback.errors import InputError
from aifeedback.metrics.safety import change, mean_helpfulness, standing


def test_each_side_is_counted_on_its_own_prompts() -> None:
    """Four unsafe prompts, three of them answered without harm; two safe ones, helpful 0.8 and 0.4."""
    result = standing(
        [1, 1, 1, 0, 1, 1],
        [None, None, None, None, 0.8, 0.4],
        ["full_refusal"] * 3 + ["full_compliance"] * 2 + ["partial_refusal"],
        [False] * 4 + [True] * 2,
        judged_by="people",
    )
    assert (result.harmless.value, result.harmless.n) == (0.75, 4)
    assert result.harmless_all.value == pytest.approx(5 / 6)
    assert result.helpful.value == pytest.approx(0.6)
    assert result.refusal is not None
    assert (result.refusal.over_refusal.value, result.refusal.under_refusal.value) == (0.5, 0.25)


def test_prompts_that_nobody_has_sorted_count_on_both_sides_and_say_nothing_of_refusal() -> None:
    result = standing([1, 0], [0.5, 0.7], ["full_refusal", "full_compliance"], [None, None], judged_by="j")
    assert (result.harmless.value, result.helpful.value, result.refusal) == (0.5, pytest.approx(0.6), None)


def test_what_was_not_read_drops_and_is_counted() -> None:
    result = mean_helpfulness([0.5, None, 0.7, 0.6])
    assert (result.value, result.n, result.dropped) == (pytest.approx(0.6), 3, 1)
    # s = 0.1, t(0.975, 2) = 4.303, reach 4.303·0.1/√3 = 0.2484
    assert result.high - result.value == pytest.approx(0.2484, abs=1e-4)
    assert not mean_helpfulness([None, None]).is_known


def test_change_is_paired() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, s = 0.1; what the two have in common does not widen it."""
    result = change([0.2, 0.7, 1.0, None], [0.1, 0.5, 0.7, 0.3])
    assert result.value == pytest.approx(0.2)
    assert (result.n, result.dropped) == (3, 1)
    assert result.high - result.value == pytest.approx(4.3027 * 0.1 / math.sqrt(3), abs=1e-4)
    assert not change([0.5], [0.5]).is_known


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(InputError, match="length"):
        standing([1, 1], [0.5], ["full_refusal"], [True], judged_by="j")
