"""Win rates against statsmodels and scipy, worked examples, and what ties and missing rows do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from aifeedback.errors import InputError
from aifeedback.metrics import compare_all_win_rates, compare_win_rates, win_rate

soft = st.lists(st.floats(0, 1).map(lambda p: round(p, 4)), min_size=2, max_size=60)


def hard(n_wins: int, n: int) -> list[float]:
    return [1.0] * n_wins + [0.0] * (n - n_wins)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (3, 10), (71, 100), (100, 100), (1, 805)])
@pytest.mark.parametrize(("ours", "theirs"), [("wilson", "wilson"), ("clopper-pearson", "beta")])
def test_hard_labels_give_the_textbook_intervals(wins: int, n: int, ours: str, theirs: str) -> None:
    estimate = win_rate(hard(wins, n), method=ours)
    low, high = proportion_confint(wins, n, method=theirs)
    assert estimate.value == wins / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-10)


def test_bootstrap_of_a_proportion_is_near_wilson() -> None:
    boot, wilson = win_rate(hard(120, 200), method="bootstrap"), win_rate(hard(120, 200))
    assert (boot.low, boot.high) == pytest.approx((wilson.low, wilson.high), abs=0.01)


def test_ties_count_half_nothing_or_a_loss() -> None:
    column = [1.0] * 6 + [0.5] * 2 + [0.0] * 2
    # (6 + 2/2)/10, 6/8, 6/10
    assert win_rate(column).value == pytest.approx(0.7)
    assert win_rate(column, ties="drop").value == pytest.approx(0.75)
    assert win_rate(column, ties="loss").value == pytest.approx(0.6)
    assert win_rate(column, ties="drop").n == 8
    assert (win_rate(column).wins, win_rate(column).ties, win_rate(column).losses) == (6, 2, 2)


def test_soft_labels_give_the_mean_and_the_binarised_share_is_shown_beside_it() -> None:
    estimate = win_rate([0.9, 0.6, 0.4, 0.5])
    assert estimate.value == pytest.approx(0.6)
    assert estimate.hard_value == pytest.approx(2.5 / 4)
    assert win_rate([0.9, 0.6, 0.4, 0.5], hard=True).value == pytest.approx(2.5 / 4)


def test_standard_error_is_that_of_a_mean() -> None:
    column = np.random.default_rng(0).random(50)
    assert win_rate(column).standard_error == pytest.approx(stats.sem(column))


def test_unknown_rows_are_dropped_and_counted_never_filled_in() -> None:
    estimate = win_rate([1.0, None, 0.0, float("nan"), 1.0])
    assert (estimate.n, estimate.dropped) == (3, 2)
    assert estimate.value == pytest.approx(2 / 3)


def test_nothing_known_is_nan_with_a_note() -> None:
    estimate = win_rate([None, None])
    assert np.isnan(estimate.value)
    assert not estimate.is_known
    assert estimate.notes
    assert estimate.as_dict()["value"] is None


@pytest.mark.parametrize("bad", [[1.2], [-0.1], [float("inf")], ["win"], [[0.5, 0.5]]])
def test_what_is_not_a_probability_is_refused(bad: list) -> None:
    with pytest.raises(InputError):
        win_rate(bad)


@given(soft)
@settings(max_examples=40, deadline=None)
def test_swapping_the_pair_mirrors_value_and_interval(column: list[float]) -> None:
    there, back = win_rate(column), win_rate([1 - p for p in column])
    assert there.value == pytest.approx(1 - back.value, abs=1e-9)
    assert there.low == pytest.approx(1 - back.high, abs=1e-6)


@given(soft)
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_value_and_stays_in_range(column: list[float]) -> None:
    for method in ("wilson", "clopper-pearson"):
        estimate = win_rate(column, method=method)
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value <= estimate.high + 1e-12
        assert estimate.high <= 1


def test_rows_of_one_prompt_count_as_one() -> None:
    """Every row written four times under one id is as much evidence as written once."""
    column = (np.random.default_rng(1).random(100) < 0.6).astype(float)
    once = win_rate(column, prompts=np.arange(100))
    fourfold = win_rate(np.repeat(column, 4), prompts=np.repeat(np.arange(100), 4))
    assert (fourfold.low, fourfold.high) == pytest.approx((once.low, once.high))
    assert fourfold.p_value == pytest.approx(once.p_value)
    boot = win_rate(np.repeat(column, 4), prompts=np.repeat(np.arange(100), 4), method="bootstrap")
    assert boot.high - boot.low == pytest.approx(once.high - once.low, rel=0.15)


def test_p_value_is_the_sign_test_on_hard_labels_and_a_t_test_on_soft_ones() -> None:
    assert win_rate(hard(60, 100)).p_value == pytest.approx(stats.binomtest(60, 100).pvalue)
    column = np.random.default_rng(2).beta(3, 2, 80)
    assert win_rate(column).p_value == pytest.approx(stats.ttest_1samp(column, 0.5).pvalue)


def pair(seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=n)
    first = 1 / (1 + np.exp(-(shared + generator.normal(size=n) + 0.4)))
    return first, 1 / (1 + np.exp(-(shared + generator.normal(size=n))))


def test_paired_tests_equal_scipys_and_statsmodels() -> None:
    first, second = pair()
    assert compare_win_rates(first, second, test="t").p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)
    wilcoxon = compare_win_rates(first, second, test="wilcoxon").p_value
    assert wilcoxon == pytest.approx(stats.wilcoxon(first, second).pvalue)
    a, b = first > 0.5, second > 0.5
    counts = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert compare_win_rates(first, second, test="mcnemar").p_value == pytest.approx(mcnemar(counts).pvalue)
    theirs = stats.permutation_test((first - second,), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
    ours = compare_win_rates(first, second, test="permutation").p_value
    assert ours == pytest.approx(theirs.pvalue, abs=0.01)


def test_the_difference_has_the_paired_t_interval() -> None:
    first, second = pair()
    difference = compare_win_rates(first, second)
    theirs = stats.ttest_rel(first, second).confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((theirs.low, theirs.high))


def test_a_policy_does_not_differ_from_itself() -> None:
    first, _ = pair()
    for test in ("t", "wilcoxon", "permutation"):
        assert compare_win_rates(first, first, test=test).p_value == 1.0


def test_permutation_is_calibrated_on_hard_labels() -> None:
    generator = np.random.default_rng(3)
    rejected = 0
    for seed in range(300):
        a, b = (generator.random((2, 60)) < 0.5).astype(float)
        rejected += compare_win_rates(a, b, test="permutation", seed=seed, resamples=499).p_value <= 0.05
    assert rejected / 300 < 0.08


def test_all_pairs_are_corrected_together() -> None:
    first, second = pair()
    third = np.clip(second - 0.05, 0, 1)
    result = compare_all_win_rates({"a": first, "b": second, "c": third})
    assert [(d.first, d.second) for d in result] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(d.p_adjusted >= d.p_value for d in result)
