"""Over-optimisation: planted turning points are found, noise is not one."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifeedback.errors import InputError
from aifeedback.metrics import best_of_n_kl, expected_best, over_optimisation

KL = np.linspace(0, 60, 13)
D = np.sqrt(KL)


def gold(form: str, alpha: float, beta: float) -> np.ndarray:
    bend = D if form == "best-of-n" else np.log(np.maximum(D, 1e-12))
    return 0.3 + D * (alpha - beta * bend)


@pytest.mark.parametrize(
    ("form", "alpha", "beta", "turn"), [("rl", 1.0, 0.5, np.exp(1.0)), ("best-of-n", 1.0, 0.12, 1 / 0.24)]
)
def test_the_planted_curve_is_recovered(form: str, alpha: float, beta: float, turn: float) -> None:
    """d(α − β·ln d) turns at e^{α/β − 1}, d(α − β·d) at α/2β."""
    result = over_optimisation(KL, D, gold(form, alpha, beta), gold_error=np.full(13, 0.01), form=form)
    assert (result.alpha, result.beta) == pytest.approx((alpha, beta), abs=1e-9)
    assert result.fitted_peak_distance == pytest.approx(turn)
    assert abs(result.peak_distance - turn) < 0.7
    assert result.is_over_optimised
    assert result.proxy_gain_after_peak > 0


def test_a_rising_gold_score_is_not_over_optimisation() -> None:
    result = over_optimisation(KL, D, D * 0.8, gold_error=np.full(13, 0.05))
    assert (result.value, result.is_over_optimised) == (0.0, False)
    assert any("still at its best" in note for note in result.notes)


def test_noise_alone_is_rarely_called_a_turn() -> None:
    generator = np.random.default_rng(0)
    alarms = sum(
        over_optimisation(KL, D, generator.normal(1, 0.1, 13), gold_error=np.full(13, 0.1)).is_over_optimised
        for _ in range(400)
    )
    assert alarms / 400 <= 0.06


def test_a_proxy_that_fell_too_is_another_problem() -> None:
    result = over_optimisation(KL, -D, gold("rl", 1.0, 0.5), gold_error=np.full(13, 0.01))
    assert result.p_value < 0.01
    assert not result.is_over_optimised


def test_without_errors_nothing_is_claimed() -> None:
    result = over_optimisation(KL, D, gold("rl", 1.0, 0.5))
    assert not result.is_over_optimised
    assert any("gold_error" in note for note in result.notes)


def test_unknown_checkpoints_are_dropped_and_indices_stay_those_given() -> None:
    column = list(gold("best-of-n", 1.0, 0.12))
    column[0] = None
    result = over_optimisation(KL, D, column, form="best-of-n")
    assert result.dropped == 1
    assert result.peak == int(np.nanargmax(np.array(column, dtype=float)))


def test_bad_input() -> None:
    assert np.isnan(over_optimisation([0, 1], [0, 1], [0, 1]).value)
    with pytest.raises(InputError):
        over_optimisation([-1, 1, 2], [0, 1, 2], [0, 1, 2])


def test_kl_of_best_of_n() -> None:
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(np.log(4) - 0.75)


def test_expected_best_of_n_by_hand() -> None:
    # of 1, 2, 4 the pairs have maxima 2, 4, 4; the mean is 10/3
    assert expected_best([2.0, 4.0, 1.0], 2) == pytest.approx(10 / 3)
    assert expected_best([2.0, 4.0, 1.0], 1) == pytest.approx(7 / 3)
    assert expected_best([2.0, 4.0, 1.0], 3) == 4.0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=7))
def test_expected_best_is_the_mean_over_all_subsets(rewards: list[float]) -> None:
    for n in range(1, len(rewards) + 1):
        subsets = [max(chosen) for chosen in combinations(rewards, n)]
        assert expected_best(rewards, n) == pytest.approx(sum(subsets) / len(subsets), abs=1e-9)


def test_expected_best_is_unbiased_for_the_distribution_the_samples_are_from() -> None:
    """Four values with equal chance: best-of-2 has expectation (1·1 + 3·2 + 5·3 + 7·4)/16; so has the mean of the
    estimate over all 4³ samples of size 3."""
    exact = (1 * 1 + 3 * 2 + 5 * 3 + 7 * 4) / 16
    estimates = [expected_best(drawn, 2) for drawn in product([1.0, 2.0, 3.0, 4.0], repeat=3)]
    assert sum(estimates) / len(estimates) == pytest.approx(exact)


def test_expected_best_needs_as_many_samples() -> None:
    for n in (0, 3):
        with pytest.raises(InputError, match="of 2 samples"):
            expected_best([1.0, 2.0], n)
