"""Estimates for people from few human and many AI labels: formulas, limits, and what a useless judge does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from aifeedback.annotation import draw
from aifeedback.errors import InputError
from aifeedback.metrics import (
    PredictionPowered,
    prediction_powered_mean,
    prediction_powered_sample,
    prediction_powered_win_rate,
    rogan_gladen,
    sample_size,
)


def world(seed: int, skill: float = 0.85, n: int = 200, more: int = 5000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    human = (generator.random(n + more) < 0.58).astype(float)
    ai = np.where(generator.random(n + more) < skill, human, 1 - human)
    return human[:n], ai[:n], ai[n:]


def test_with_weight_one_it_is_the_published_estimator() -> None:
    human, ai, more = world(0)
    result = prediction_powered_mean(human, ai, more, weight=1)
    assert result.value == pytest.approx(more.mean() + (human - ai).mean())
    error = np.sqrt((human - ai).var(ddof=1) / 200 + more.var(ddof=1) / 5000)
    assert result.standard_error == pytest.approx(error)


def test_with_weight_zero_it_is_the_human_mean() -> None:
    human, ai, more = world(1)
    result = prediction_powered_mean(human, ai, more, weight=0)
    low, high = stats.t.interval(0.95, 199, human.mean(), stats.sem(human))
    assert (result.value, result.low, result.high) == pytest.approx((human.mean(), low, high))
    assert (result.human_only_low, result.human_only_high) == pytest.approx((low, high))


def test_the_tuned_weight_gives_the_smallest_error() -> None:
    human, ai, more = world(2)
    tuned = prediction_powered_mean(human, ai, more)
    others = [prediction_powered_mean(human, ai, more, weight=w).standard_error for w in np.linspace(0, 1.5, 31)]
    assert tuned.standard_error <= min(others) * 1.01


def test_a_good_judge_narrows_and_a_useless_one_does_no_harm() -> None:
    good, useless = prediction_powered_mean(*world(3)), prediction_powered_mean(*world(3, skill=0.5))
    width = good.human_only_high - good.human_only_low
    assert good.high - good.low < 0.8 * width
    assert good.equivalent_human_labels > 300
    assert abs(useless.weight) < 0.2
    assert useless.high - useless.low == pytest.approx(width, rel=0.05)


def test_a_biased_judge_is_corrected() -> None:
    human, ai, more = world(4)
    result = prediction_powered_win_rate(human, np.clip(ai + 0.3, 0, 1), np.clip(more + 0.3, 0, 1))
    assert result.ai_only > 0.65
    assert result.low < 0.58 < result.high


@given(st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_swapping_all_pairs_mirrors_it(seed: int) -> None:
    human, ai, more = world(seed, n=50, more=300)
    there = prediction_powered_win_rate(human, ai, more)
    back = prediction_powered_win_rate(1 - human, 1 - ai, 1 - more)
    assert there.value == pytest.approx(1 - back.value)
    assert there.low == pytest.approx(1 - back.high)


def test_must_show_500_draws_cover_and_are_narrower_than_people_alone() -> None:
    inside, widths, alone = 0, [], []
    for seed in range(500):
        result = prediction_powered_win_rate(*world(seed))
        inside += result.low <= 0.58 <= result.high
        widths.append(result.high - result.low)
        alone.append(result.human_only_high - result.human_only_low)
    assert 0.93 <= inside / 500 <= 0.97
    assert np.mean(widths) < 0.8 * np.mean(alone)


def test_missing_rows_are_dropped_and_too_few_are_not_known() -> None:
    human, ai, more = world(5, n=20, more=50)
    result = prediction_powered_mean([None, *human[1:]], [*ai[:-1], None], [*more, None])
    assert (result.n, result.n_ai, result.dropped) == (18, 50, 3)
    assert np.isnan(prediction_powered_mean([1, 0], [1, 0], more).value)


def test_rogan_gladen_by_hand() -> None:
    # judged .5, se .9, sp .8: (.5 + .8 − 1)/(.9 + .8 − 1) = .3/.7
    assert rogan_gladen(0.5, 0.9, 0.8).value == pytest.approx(3 / 7)
    assert rogan_gladen(0.3, 1, 1).value == pytest.approx(0.3)


def test_a_perfect_test_has_the_agresti_coull_interval() -> None:
    result = rogan_gladen(0.3, 1.0, 1.0, n=200)
    assert (result.low, result.high) == pytest.approx(proportion_confint(60, 200, method="agresti_coull"), abs=1e-9)


def test_uncertain_error_rates_widen_the_interval() -> None:
    known = rogan_gladen(0.5, 0.9, 0.8, n=500)
    estimated = rogan_gladen(0.5, 0.9, 0.8, n=500, n_positive=60, n_negative=60)
    assert estimated.high - estimated.low > 1.5 * (known.high - known.low)


def test_impossible_rates_are_cut_and_reported_and_a_useless_judge_is_unknown() -> None:
    cut = rogan_gladen(0.05, 0.9, 0.8, n=100)
    assert (cut.value, len(cut.notes)) == (0.0, 1)
    assert np.isnan(rogan_gladen(0.5, 0.4, 0.6, n=100).value)
    with pytest.raises(InputError):
        rogan_gladen(1.5, 0.9, 0.8)


@pytest.mark.parametrize(("half_width", "share"), [(0.05, 0.5), (0.03, 0.7), (0.1, 0.95), (0.01, 0.5)])
def test_sample_size_is_the_smallest_that_reaches_the_half_width(half_width: float, share: float) -> None:
    def reach(n: int) -> float:
        low, high = proportion_confint(share * n, n, method="wilson")
        return (high - low) / 2

    n = sample_size(half_width, share=share).value
    assert reach(n) <= half_width < reach(n - 1)


def test_known_sample_sizes() -> None:
    # z²/(4h²) − z² for Wilson at one half: 384.15 − 3.84
    assert sample_size(0.05).value == 381
    assert sample_size(0.05, population=500).value < 250


def test_a_correlated_judge_saves_people() -> None:
    alone, helped = sample_size(0.04).value, sample_size(0.04, ai_correlation=0.7).value
    assert helped == pytest.approx(alone * (1 - 0.49), rel=0.02)
    assert helped < sample_size(0.04, ai_correlation=0.7, n_ai=1000).value < alone


@pytest.mark.parametrize(
    "bad", [{"half_width": 0}, {"half_width": 0.05, "share": 2}, {"half_width": 0.05, "ai_correlation": 1}]
)
def test_bad_plans_are_refused(bad: dict) -> None:
    with pytest.raises(InputError):
        sample_size(**bad)


def test_cutting_the_ends_makes_no_human_labels() -> None:
    """Near 1 the interval is cut to [0, 1]; how much the AI helped is told by the standard errors all the same."""
    human, ai, more = np.array([1.0] * 29 + [0.0]), np.array([1.0] * 28 + [0.0] * 2), np.array([1.0] * 60 + [0.0])
    cut = prediction_powered_win_rate(human, ai, more)
    plain = prediction_powered_mean(human, ai, more)
    assert cut.high == 1.0
    assert cut.human_only_high <= 1.0
    assert cut.equivalent_human_labels == pytest.approx(plain.equivalent_human_labels)


def test_without_any_spread_no_number_of_human_labels_is_equivalent() -> None:
    found = prediction_powered_mean([1.0] * 5, [1.0] * 5, [1.0] * 9)
    assert np.isnan(found.equivalent_human_labels)


# ── from a sample that was drawn with weights ────────────────────────────────────────────────────────────────────────


def drawn(seed: int, *, rows: int = 400, n: int = 60, share: float = 0.5) -> tuple[list[float | None], ...]:
    """Human verdicts of a sample with extra uncertain rows, the AI's of all, weights and strata; truth is 0.7125."""
    generator = np.random.default_rng(seed)
    uncertain = generator.random(rows) < 0.15
    human = (generator.random(rows) < np.where(uncertain, 0.5, 0.75)).astype(float)
    ai = np.where(generator.random(rows) < np.where(uncertain, 0.5, 0.85), human, 1 - human) * 0.8 + 0.15
    columns: tuple[list[float | None], ...] = ([None] * rows, list(ai), [None] * rows, [None] * rows)
    for row in draw(rows, n, uncertain=list(uncertain), uncertain_share=share, seed=seed):
        columns[0][row.row], columns[2][row.row], columns[3][row.row] = human[row.row], row.weight, row.stratum  # type: ignore[call-overload]
    return columns


TRUTH = 0.15 * 0.5 + 0.85 * 0.75


def of_sample(seed: int, **how: float) -> PredictionPowered:
    human, ai, weights, strata = drawn(seed, **how)  # type: ignore[arg-type]
    return prediction_powered_sample(human, ai, weights=weights, strata=strata)


def test_a_simple_random_sample_gives_the_estimate_of_the_published_formula() -> None:
    human, ai, more = world(0)
    column = [*human, *[None] * len(more)]
    found = prediction_powered_sample(column, np.concatenate([ai, more]), weight=1)
    assert found.value == pytest.approx(np.concatenate([ai, more]).mean() + (human - ai).mean())
    published = prediction_powered_mean(human, ai, more, weight=1)
    assert found.standard_error == pytest.approx(published.standard_error, rel=0.05)
    assert (found.n, found.n_ai) == (200, 5000)


def test_weighted_rates_cover_the_truth_and_are_narrower_than_peoples_alone() -> None:
    found = [of_sample(seed) for seed in range(400)]
    covered = np.mean([f.low <= TRUTH <= f.high for f in found])
    assert 0.92 <= covered <= 0.98  # 0.95 within three standard errors
    assert np.mean([f.value for f in found]) == pytest.approx(TRUTH, abs=0.01)
    assert np.mean([(f.high - f.low) / (f.human_only_high - f.human_only_low) for f in found]) < 0.95


@pytest.mark.campaign
@pytest.mark.parametrize("how", [{}, {"share": 0.0, "n": 40}, {"rows": 1500, "n": 150}, {"rows": 120, "n": 100}])
def test_coverage_of_weighted_rates_in_a_campaign(how: dict[str, float]) -> None:
    found = [of_sample(seed, **how) for seed in range(2000)]
    covered = np.mean([f.low <= TRUTH <= f.high for f in found])
    print(f"coverage {100 * covered:.2f} % at {how or 'the default'}")
    assert 0.93 <= covered <= 0.97


def test_a_sample_of_everything_is_peoples_mean_and_ignores_the_ai() -> None:
    human, ai, _ = world(3)
    found = prediction_powered_sample(human, 1 - ai)
    assert (found.value, found.weight) == (pytest.approx(human.mean()), 0.0)


@pytest.mark.parametrize("rated", [0, 1, 2])
def test_too_few_rated_rows_give_no_estimate_but_a_note(rated: int) -> None:
    found = prediction_powered_sample([1.0] * rated + [None] * 20, [0.5] * (rated + 20))
    assert not found.is_known
    assert "too few" in found.notes[0]


def test_strata_with_one_rated_row_and_unknown_ai_labels_are_named() -> None:
    human: list[float | None] = [1, 0, 1, 0, 1, 1, None, None, None]
    ai: list[float | None] = [0.9, 0.2, 0.8, 0.3, 0.7, None, 0.6, 0.4, None]
    strata = ["a", "a", "a", "a", "b", "b", "", "", ""]
    found = prediction_powered_sample(human, ai, strata=strata, weights=[1.5] * 4 + [1] * 5)
    assert any("one rated row" in note for note in found.notes)
    assert found.dropped == 2
    assert found.low < found.value < found.high
    with pytest.raises(InputError, match="no sampling weight"):
        prediction_powered_sample(human, ai, weights=[None] * 9)
    with pytest.raises(InputError, match="one stratum"):
        prediction_powered_sample(human, ai, strata=["a"])
