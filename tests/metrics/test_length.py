"""Length control: the published form against statsmodels, planted effects, and when it says it extrapolates."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize

from aifeedback.errors import InputError
from aifeedback.metrics import ExtrapolationWarning, length_controlled_rate, length_controlled_win_rate
from aifeedback.metrics.length import LengthForm, fit_logistic

N = 2000


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lengths(seed: int, n: int = N, growth: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.lognormal(5 + growth, 0.35, n), generator.lognormal(5, 0.35, n)


def labels(seed: int, chance: np.ndarray) -> np.ndarray:
    return (np.random.default_rng(seed + 10_000).random(len(chance)) < chance).astype(float)


def test_the_published_form_is_a_logit_on_the_ratio_read_at_one() -> None:
    first, second = lengths(0)
    hard = labels(0, sigmoid(0.4 + 1.2 * (first / second - 1)))
    fit = sm.Logit(hard, sm.add_constant(first / second)).fit(disp=0, cov_type="HC1")
    result = length_controlled_win_rate(hard, first, second)
    assert result.value == pytest.approx(float(sigmoid(fit.params.sum())), abs=1e-9)
    assert result.slope == pytest.approx(fit.params[1])
    error = np.sqrt(np.ones(2) @ fit.cov_params() @ np.ones(2))
    logit = np.log(result.high / (1 - result.high)) - fit.params.sum()
    assert logit == pytest.approx(1.96 * error, rel=0.01)


def test_soft_targets_are_fitted_as_they_are() -> None:
    """Against a direct minimisation of the cross-entropy."""
    first, second = lengths(1, n=300)
    soft = np.random.default_rng(1).beta(2, 2, 300)
    ratio = first / second

    def loss(b: np.ndarray) -> float:
        z = b[0] + b[1] * (ratio - 1)
        return float((soft * np.logaddexp(0, -z) + (1 - soft) * np.logaddexp(0, z)).sum())

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    assert length_controlled_win_rate(soft, first, second).value == pytest.approx(float(sigmoid(best[0])), abs=1e-6)


def test_swapping_the_responses_mirrors_the_log_ratio_form() -> None:
    first, second = lengths(2)
    hard = labels(2, sigmoid(0.5 + np.log(first / second)))
    there = length_controlled_win_rate(hard, first, second, method="log-ratio")
    back = length_controlled_win_rate(1 - hard, second, first, method="log-ratio")
    assert there.value == pytest.approx(1 - back.value, abs=1e-9)
    assert there.low == pytest.approx(1 - back.high, abs=1e-9)


SHAPES = {
    "ratio": lambda a, b: a / b - 1,
    "log-ratio": lambda a, b: np.log(a / b),
    "glm": lambda a, b: np.tanh((a - b) / (a - b).std(ddof=1)),
}


def mean_reading(method: str, shape: str, quality: float, draws: int) -> tuple[float, float]:
    """Mean and spread, in points, over independent draws of n = 2,000 hard labels."""
    result = []
    for seed in range(draws):
        first, second = lengths(seed)
        hard = labels(seed, sigmoid(quality + 1.2 * SHAPES[shape](first, second)))
        result.append(100 * length_controlled_win_rate(hard, first, second, method=method).value)
    return float(np.mean(result)), float(np.std(result))


@pytest.mark.parametrize("method", ["ratio", "log-ratio", "glm"])
@pytest.mark.parametrize(("quality", "truth", "within"), [(0.0, 50, 1.0), (np.log(1.5), 60, 1.5)])
def test_length_is_removed_and_quality_kept(method: str, quality: float, truth: float, within: float) -> None:
    mean, _ = mean_reading(method, method, quality, draws=6)
    assert abs(mean - truth) <= within


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_spline_does_not_care_about_the_shape(shape: str) -> None:
    mean, _ = mean_reading("spline", shape, 0.0, draws=10)
    assert abs(mean - 50) <= 1.5


def test_where_only_length_matters_soft_labels_give_exactly_fifty() -> None:
    first, second = lengths(3)
    result = length_controlled_win_rate(sigmoid(1.5 * (first / second - 1)), first, second)
    assert result.raw > 0.56
    assert result.value == pytest.approx(0.5, abs=1e-9)


def test_one_draw_of_hard_labels_is_within_its_own_error() -> None:
    """At n = 2,000 one draw has a standard error of 1.3 points: ± 1 can only be asked of the mean over draws."""
    first, second = lengths(3)
    result = length_controlled_win_rate(labels(3, sigmoid(1.5 * (first / second - 1))), first, second)
    assert 0.010 < result.standard_error < 0.016
    assert abs(result.value - 0.5) < 4 * result.standard_error


@pytest.mark.campaign
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("method", ["ratio", "log-ratio", "spline", "glm"])
def test_campaign_planted_effects_are_read(method: str, shape: str) -> None:
    """400 draws each, figures in docs/reliability.md. A straight form of the wrong shape is printed, not asserted."""
    for quality, truth, within in ((0.0, 50, 1.0), (np.log(1.5), 60, 1.5), (np.log(7 / 3), 70, 1.5)):
        mean, spread = mean_reading(method, shape, quality, draws=400)
        print(f"fit {method} | truth {shape} | planted {truth} | read {mean:.2f} ± {spread:.2f}")
        if method in (shape, "spline"):
            assert abs(mean - truth) <= within


def test_few_rows_near_equal_length_warn() -> None:
    first, second = lengths(4, growth=1.5)
    with pytest.warns(ExtrapolationWarning):
        result = length_controlled_win_rate(labels(4, np.full(N, 0.7)), first, second)
    assert result.extrapolates
    assert any("extrapolates" in note for note in result.notes)


def test_all_rows_on_one_side_warn() -> None:
    second = np.full(200, 100.0)
    first = second * np.random.default_rng(0).uniform(1.01, 1.2, 200)
    with pytest.warns(ExtrapolationWarning, match="one side"):
        result = length_controlled_win_rate(labels(5, np.full(200, 0.6)), first, second)
    assert 0.4 < result.value < 0.8  # near equal length, if on one side of it


@pytest.mark.parametrize("method", ["ratio", "log-ratio", "spline", "glm"])
def test_all_rows_far_away_on_one_side_give_no_figure(method: LengthForm) -> None:
    """A policy twice as long or longer, that wins the more the longer it is: read at equal length it would be 0 %."""
    second = np.full(200, 100.0)
    first = second * np.linspace(2.0, 3.0, 200)
    wins = (np.arange(200) + 10 * (np.arange(200) % 3 - 1) > 60).astype(float)
    with pytest.warns(ExtrapolationWarning, match="not estimable: all rows lie on one side of equal length, 0 of 200"):
        result = length_controlled_win_rate(wins, first, second, method=method)
    assert not result.is_known
    assert np.isnan([result.low, result.high]).all()
    assert result.raw == wins.mean()
    assert result.extrapolates


def test_enough_rows_near_equal_length_do_not_warn() -> None:
    first, second = lengths(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = length_controlled_win_rate(labels(6, np.full(N, 0.6)), first, second)
    assert not result.extrapolates
    assert result.notes == ()


def test_a_straight_fit_that_misses_the_rows_near_equal_length_says_so() -> None:
    """Longer wins only up to equal length: flat beyond, so the ratio line passes over the kink."""
    first, second = lengths(7, n=6000)
    chance = sigmoid(np.minimum(3 * np.log(first / second), 0.0) + 0.5)
    straight = length_controlled_win_rate(labels(7, chance), first, second)
    assert straight.misfit_p_value < 0.01
    assert any("misses" in note for note in straight.notes)
    bent = length_controlled_win_rate(labels(7, chance), first, second, method="spline")
    assert abs(bent.value - sigmoid(0.5)) < abs(straight.value - sigmoid(0.5))


def test_equal_lengths_give_the_raw_win_rate() -> None:
    result = length_controlled_win_rate([1, 0, 1, 1, 0] * 10, [7] * 50, [7] * 50)
    assert result.value == pytest.approx(0.6)
    assert np.isnan(result.slope)


def test_empty_responses_and_unknown_labels_are_dropped_and_counted() -> None:
    first, second = lengths(8, n=100)
    column = list(labels(8, np.full(100, 0.5)))
    column[0], first[1], second[2] = None, 0, np.nan
    result = length_controlled_win_rate(column, first, second)
    assert (result.n, result.dropped) == (97, 3)


@pytest.mark.filterwarnings("ignore::aifeedback.metrics.length.ExtrapolationWarning")
def test_labels_that_bound_no_fit_give_nan_with_the_reason() -> None:
    first, second = lengths(9, n=200)
    for column in (np.ones(200), (first > second).astype(float)):
        result = length_controlled_win_rate(column, first, second)
        assert np.isnan(result.value)
        assert result.notes


def test_rows_of_one_prompt_count_as_one() -> None:
    first, second = lengths(10, n=300)
    hard = labels(10, sigmoid(first / second - 1))
    once = length_controlled_win_rate(hard, first, second, prompts=np.arange(300))
    again = length_controlled_win_rate(
        *(np.repeat(c, 3) for c in (hard, first, second)), prompts=np.repeat(np.arange(300), 3)
    )
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.02)


def test_difficulty_explains_what_is_not_length() -> None:
    first, second = lengths(11)
    hardness = np.random.default_rng(11).normal(size=N)
    chance = sigmoid(0.3 + SHAPES["glm"](first, second) - 2 * hardness)
    result = length_controlled_win_rate(labels(11, chance), first, second, method="glm", difficulty=hardness)
    assert result.value == pytest.approx(float(sigmoid(0.3 - 2 * hardness).mean()), abs=0.03)
    with pytest.raises(InputError):
        length_controlled_win_rate(hardness * 0, first, second, difficulty=hardness)


def test_a_rate_is_read_at_the_reference_length() -> None:
    length, _ = lengths(12)
    harmless = labels(12, sigmoid(0.8 + 0.9 * (length / 150 - 1)))
    result = length_controlled_rate(harmless, length, 150.0)
    assert result.low < sigmoid(0.8) < result.high
    fit = sm.Logit(harmless, sm.add_constant(length / 150)).fit(disp=0)
    assert result.value == pytest.approx(float(sigmoid(fit.params.sum())), abs=1e-9)
    with pytest.raises(InputError):
        length_controlled_rate(harmless, length, 0)


@pytest.mark.parametrize("bad", [{"length_first": [-1, 2]}, {"length_first": [1]}, {"method": "loess"}])
def test_bad_input_is_refused(bad: dict) -> None:
    good = {"p_first": [1, 0], "length_first": [1, 2], "length_second": [2, 1]}
    with pytest.raises(InputError):
        length_controlled_win_rate(**(good | bad))


def test_the_logistic_fit_says_why_it_failed() -> None:
    assert not fit_logistic(np.ones((2, 1)), np.array([0.0, 0.0])).is_bounded
    singular = np.ones((10, 2))
    assert fit_logistic(singular, np.linspace(0, 1, 10)).problem


def test_one_outlying_ratio_leaves_the_fit_and_its_interval_finite() -> None:
    """A response of one character gives a ratio in the hundreds, a row that is fitted to certainty."""
    rng = np.random.default_rng(0)
    ratio = np.exp(rng.normal(0, 0.4, 440))
    ratio[5] = 132.0
    won = (rng.random(440) < 0.75).astype(float)
    won[5] = 1.0
    read = length_controlled_win_rate(won, 100 * ratio, np.full(440, 100.0))
    rest = np.arange(440) != 5
    without = length_controlled_win_rate(won[rest], 100 * ratio[rest], np.full(439, 100.0))
    assert read.low < read.value < read.high
    assert abs(read.value - without.value) < 0.01
