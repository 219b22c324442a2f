"""Repeatability by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aifeedback.errors import InputError
from aifeedback.metrics import repeatability


def test_share_of_equal_repeat_pairs() -> None:
    # item 1: all equal (1); item 2: first, first, second → 1 of 3 pairs; item 3: tie, first → 0
    result = repeatability([[0.9, 0.8, 0.7], [0.6, 0.9, 0.1], [0.5, 0.9, None]])
    assert result.value == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert result.flips == 2
    # squared deviations: .02, .126667·… pooled over 2 + 2 + 1 degrees of freedom
    squares = sum(((np.array(row) - np.mean(row)) ** 2).sum() for row in ([0.9, 0.8, 0.7], [0.6, 0.9, 0.1], [0.5, 0.9]))
    assert result.spread == pytest.approx(np.sqrt(squares / 5))


def test_a_deterministic_judge_scores_one() -> None:
    column = np.random.default_rng(0).random((100, 1))
    result = repeatability(np.repeat(column, 4, axis=1))
    assert (result.value, result.flips, result.spread) == (1.0, 0, pytest.approx(0, abs=1e-12))


def test_items_with_one_repeat_say_nothing() -> None:
    result = repeatability([[0.9, None], [0.9, 0.8]])
    assert (result.n, result.dropped) == (1, 1)
    assert np.isnan(repeatability([[None, 0.4]]).value)


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError):
        repeatability([[0.9], [0.8]])
    with pytest.raises(InputError):
        repeatability([[0.9, 1.2]])
