"""Nothing, one row, nothing known, all the same: an estimate that says so, never a crash and never a false certainty."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aifeedback import metrics
from aifeedback.errors import InputError

NAN = math.nan
COLUMNS = {
    "nothing": [], "one": [1.0], "one tie": [0.5], "nothing known": [NAN, None], "all won": [1.0] * 5,
    "all ties": [0.5] * 5, "some missing": [1, NAN, 0, None, 0.5, 1, 0.2], "two": [0.0, 1.0],
}  # fmt: skip


def every_estimate(column: list) -> dict:
    hard = [None if x is None or x != x else float(x > 0.5) for x in column]
    table = np.array([[NAN if x is None else x] * 3 for x in column], dtype=float).reshape(len(column), 3)
    labels, n = table[:, 0], len(column)
    lengths = [10.0 + i for i in range(n)], [12.0] * n
    return {
        **{f"win rate {m}": metrics.win_rate(column, method=m) for m in ("wilson", "clopper-pearson", "t", "bootstrap")},
        "win rate, ties dropped": metrics.win_rate(column, "drop"),
        **{t: metrics.compare_win_rates(column, column[::-1], test=t) for t in ("t", "wilcoxon", "mcnemar", "permutation")},
        **{m: metrics.length_controlled_win_rate(column, *lengths, method=m) for m in ("ratio", "log-ratio", "spline", "glm")},
        "length-controlled rate": metrics.length_controlled_rate(hard, lengths[0], 11.0),
        "alignment": metrics.alignment(column, hard),
        "position": metrics.position_bias(column, column),
        "Cohen": metrics.cohens_kappa(labels, labels[::-1]),
        "Fleiss": metrics.fleiss_kappa(table),
        **{f"alpha {a}": metrics.krippendorff_alpha(table, a) for a in ("nominal", "ordinal", "interval")},
        "W": metrics.kendalls_w(table),
        "W by context": metrics.kendalls_w(table, contexts=[i // 2 for i in range(n)]),
        "calibration": metrics.expected_calibration_error(column, hard),
        "Brier": metrics.brier(column, hard),
        "log loss": metrics.log_loss(column, hard),
        "rewards": metrics.reward_accuracy(column, column[::-1]),
        "people": metrics.prediction_powered_win_rate(hard, column, column),
        "repeatability": metrics.repeatability(table),
        "harmless": metrics.harmless_rate(column),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COLUMNS)
def test_every_estimate_of_hardly_anything(name: str) -> None:
    known = sum(x is not None and x == x for x in COLUMNS[name])
    for what, result in every_estimate(COLUMNS[name]).items():
        assert result.notes, what  # so few rows are never passed over in silence
        assert result.n <= known, what
        if known == 0:
            assert math.isnan(result.value), what
            assert math.isnan(result.low), what
        if not math.isnan(result.low):
            assert result.low <= result.value + 1e-12, what
            assert result.value <= result.high + 1e-12, what


def test_rankings_of_hardly_anything() -> None:
    assert metrics.rank_policies([], [], [], prompts=[]).names == ()
    assert np.isnan(metrics.rank_policies(["a"], ["b"], [None], prompts=[1]).value).all()
    assert metrics.rank_policies([], [], []).notes
    with pytest.raises(InputError, match="no item"):
        metrics.bradley_terry(np.zeros((0, 0)))


def test_equal_rows_have_no_spread_and_the_interval_says_so() -> None:
    """Five ties do not show that the truth is exactly one half."""
    column = [0.5] * 40
    result = metrics.length_controlled_win_rate(column, range(60, 100), [80] * 40)
    assert result.value == 0.5
    assert math.isnan(result.low)
    assert any("no spread" in note for note in result.notes)
    for other in (
        metrics.compare_win_rates(column, column),
        metrics.prediction_powered_win_rate(column, column, column),
    ):
        assert any("no spread" in note for note in other.notes)


def test_perfect_agreement_up_to_rounding_is_perfect() -> None:
    ratings = np.repeat([[1.0], [0.0], [0.5], [1.0], [0.2]], 3, axis=1)
    result = metrics.krippendorff_alpha(ratings, "interval")
    assert result.value == 1.0
    assert result.low < 0.7


def test_agreement_without_spread_has_no_interval() -> None:
    result = metrics.cohens_kappa([0, 1], [1, 0])
    assert result.value == -1.0
    assert math.isnan(result.low)


def test_losses_are_not_below_zero() -> None:
    p, y = [1.0, 0.0, 0.5, 1.0, 0.2], [1, 0, 0, 1, 0]
    assert metrics.brier(p, y).low == 0.0
    assert metrics.log_loss(p, y).low == 0.0
