"""Kendall's W against scipy's Friedman test, worked examples, and the average rank correlation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aifeedback.errors import InputError
from aifeedback.metrics import kendalls_w
from aifeedback.metrics.concordance import _without_each, concordance


def scores(seed: int, items: int = 40, raters: int = 3, decimals: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(items, 1)) + generator.normal(size=(items, raters))
    return np.round(table, decimals)


def test_worked_example_without_ties() -> None:
    # ranks of 4 items by 3 raters; rank sums 4, 7, 7, 12; S = 3.5² + .5² + .5² + 4.5² = 33; W = 12·33/(9·60)
    table = np.array([[1, 2, 1], [2, 1, 4], [3, 3, 1 + 0.5], [4, 4, 3 + 1]])
    table[:, 2] = [1, 4, 2, 3]
    sums = table.sum(axis=1)
    expected = 12 * ((sums - 7.5) ** 2).sum() / (9 * 60)
    assert kendalls_w(table).value == pytest.approx(expected)


@given(st.integers(0, 500), st.integers(3, 30), st.integers(3, 6), st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_chi2_is_friedmans_with_ties(seed: int, items: int, raters: int, decimals: int) -> None:
    table = scores(seed, items, raters, decimals)
    ours = kendalls_w(table)
    if not ours.is_known:
        return
    theirs = stats.friedmanchisquare(*table)
    assert ours.chi2 == pytest.approx(theirs.statistic, rel=1e-9)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-300)
    assert -1e-12 <= ours.value <= 1 + 1e-12


def test_without_ties_it_is_the_mean_rank_correlation() -> None:
    """W = (1 + (m − 1)·mean Spearman)/m."""
    table = scores(1, decimals=9)
    r = stats.spearmanr(table).statistic
    mean = (r.sum() - 3) / 6
    assert kendalls_w(table).value == pytest.approx((1 + 2 * mean) / 3)


def test_leave_one_out_equals_recomputing() -> None:
    table = scores(2)
    slowly = [concordance(np.delete(table, i, axis=0)) for i in range(len(table))]
    assert _without_each(table) == pytest.approx(slowly, abs=1e-12)


def test_the_large_table_jackknife_is_close_to_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    table = scores(3, items=400)
    exact = kendalls_w(table)
    monkeypatch.setattr("aifeedback.metrics.concordance.EXACT", 10)
    assert kendalls_w(table).standard_error == pytest.approx(exact.standard_error, rel=0.05)


def test_contexts_are_averaged() -> None:
    table, contexts = scores(4, items=20), np.repeat(np.arange(5), 4)
    each = [concordance(table[contexts == k]) for k in range(5)]
    result = kendalls_w(table, contexts=contexts)
    low, high = stats.t.interval(0.95, 4, np.mean(each), stats.sem(each))
    assert result.value == pytest.approx(np.mean(each))
    assert result.contexts == 5
    assert (result.low, result.high) == pytest.approx((max(0, low), min(1, high)))


def test_a_context_that_all_tie_has_no_w_and_is_reported() -> None:
    table = [[1, 1], [1, 1], [1, 2], [2, 1], [1, 1], [2, 2]]
    result = kendalls_w(table, contexts=["a", "a", "b", "b", "c", "c"])
    assert result.contexts == 2
    assert result.value == pytest.approx(0.5)
    assert any("1 contexts have no W" in note for note in result.notes)


def test_missing_items_are_dropped_and_all_tied_is_undefined() -> None:
    table = scores(5)
    table[3, 1] = np.nan
    result = kendalls_w(table)
    assert result.dropped == 1
    assert result.value == pytest.approx(kendalls_w(np.delete(table, 3, axis=0)).value)
    assert np.isnan(kendalls_w([[1, 1], [1, 1]]).value)


def test_one_rater_is_refused() -> None:
    with pytest.raises(InputError):
        kendalls_w([[1], [2]])
