"""Calibration measures against scikit-learn and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as their_log_loss

from aifeedback.errors import InputError
from aifeedback.metrics import brier, expected_calibration_error, log_loss, reliability_table


def judged(seed: int = 0, n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p = generator.beta(0.8, 0.8, n)
    return p, (generator.random(n) < p).astype(float)


def test_brier_and_log_loss_equal_sklearn() -> None:
    p, y = judged()
    assert brier(p, y).value == pytest.approx(brier_score_loss(y, p))
    assert log_loss(p, y).value == pytest.approx(their_log_loss(y, p))


def test_one_certain_error_is_not_infinite_and_is_reported() -> None:
    result = log_loss([0.0, 1.0], [1, 1])
    assert result.value == pytest.approx(their_log_loss([1, 1], [0.0, 1.0], labels=[0, 1]))
    assert any("1 certain errors" in note for note in result.notes)


def test_soft_targets_are_averages_over_raters() -> None:
    """y = 0.75 is three raters for, one against: the mean of the two losses, weighted."""
    assert log_loss([0.6], [0.75]).value == pytest.approx(
        0.75 * log_loss([0.6], [1]).value + 0.25 * log_loss([0.6], [0]).value
    )


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_the_reliability_table_equals_sklearns_curve(strategy: str) -> None:
    p, y = judged(1)
    rows = reliability_table(p, y, binning="width" if strategy == "uniform" else "count")
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy=strategy)
    assert [row.observed for row in rows if row.n] == pytest.approx(observed)
    assert [row.predicted for row in rows if row.n] == pytest.approx(predicted)
    assert sum(row.n for row in rows) == 500
    assert all(row.observed_low <= row.observed <= row.observed_high for row in rows if row.n)


def test_ece_by_hand() -> None:
    # bins (0, .1]: p .1, .1, y 0, 1 → gap .4; (.9, 1]: p 1, 1, y 1, 1 → 0. ECE = .5·.4
    assert expected_calibration_error([0.1, 0.1, 1, 1], [0, 1, 1, 1]).value == pytest.approx(0.2)


def test_ece_of_confidence_is_guos() -> None:
    # confidences .9, .8, .5; right: yes, no, half. Bins: .9 → |1 − .9|, .8 → |0 − .8|, .5 → |.5 − .5|
    result = expected_calibration_error([0.1, 0.8, 0.5], [0, 0, 1], of="confidence")
    assert result.value == pytest.approx((0.1 + 0.8 + 0) / 3)


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_ece_is_the_tables_weighted_gap(rows: list[tuple[float, float]], bins: int) -> None:
    p, y = zip(*rows, strict=True)
    table = reliability_table(p, y, bins)
    gap = sum(row.n * abs(row.observed - row.predicted) for row in table if row.n) / len(p)
    result = expected_calibration_error(p, y, bins)
    assert result.value == pytest.approx(gap, abs=1e-9)
    assert 0 <= result.low <= result.high


def test_swapping_pairs_keeps_the_losses() -> None:
    p, y = judged(2)
    assert brier(1 - p, 1 - y).value == pytest.approx(brier(p, y).value)
    assert log_loss(1 - p, 1 - y).value == pytest.approx(log_loss(p, y).value)


def test_a_calibrated_judge_is_distinguished_from_an_overconfident_one() -> None:
    p, y = judged(3, n=4000)
    good = expected_calibration_error(p, y)
    floor = float(good.notes[-1].split("about ")[1].split(" ")[0])
    assert good.value < 2 * floor
    overconfident = expected_calibration_error(np.where(p > 0.5, (1 + p) / 2, p / 2), y)
    assert overconfident.low > good.high


def test_unknown_rows_are_dropped_and_nothing_left_is_nan() -> None:
    assert brier([0.5, None, 0.5], [1, 1, None]).dropped == 2
    assert np.isnan(expected_calibration_error([None], [1]).value)
    assert np.isnan(log_loss([], []).value)


@pytest.mark.parametrize("options", [{"bins": 0}, {"binning": "log"}, {"of": "logit"}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(InputError):
        expected_calibration_error([0.5], [1], **options)
