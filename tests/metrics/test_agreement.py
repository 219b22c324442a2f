"""κ against scikit-learn and statsmodels, worked examples, and what ties and missing ratings do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import cohens_kappa as their_cohens
from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss

from aifeedback.errors import InputError
from aifeedback.metrics import cohens_kappa, fleiss_kappa, krippendorff_alpha


def raters(seed: int, items: int = 200, count: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, size=(items, 1))
    guess = generator.integers(0, 4, size=(items, count))
    return np.where(generator.random((items, count)) < 0.7, truth, guess)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_cohens_kappa_equals_sklearn_and_its_error_equals_statsmodels(weights: str | None) -> None:
    table = raters(0)
    ours = cohens_kappa(table[:, 0], table[:, 1], weights=weights)
    assert ours.value == pytest.approx(cohen_kappa_score(table[:, 0], table[:, 1], weights=weights), abs=1e-12)
    counts = np.zeros((4, 4))
    np.add.at(counts, (table[:, 0], table[:, 1]), 1)
    # statsmodels divides by n where we divide by n − 1
    theirs = their_cohens(counts, wt=weights).std_kappa * np.sqrt(200 / 199)
    assert ours.standard_error == pytest.approx(theirs, rel=1e-9)


def test_worked_example_of_cohen() -> None:
    # 50 grants: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no. p_o = .7; p_e = .5·.6 + .5·.4 = .5; κ = .2/.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(first, second).value == pytest.approx(0.4)


def test_fleiss_equals_statsmodels() -> None:
    table = raters(1)
    assert fleiss_kappa(table).value == pytest.approx(their_fleiss(aggregate_raters(table)[0]), abs=1e-12)


def test_worked_example_of_fleiss() -> None:
    """Fleiss 1971 as retold everywhere: 10 subjects, 14 raters, 5 categories, κ = 0.210."""
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    table = [np.repeat(np.arange(5), row) for row in counts]
    # P̄ = .378, P̄_e = .213, κ = (.378 − .213)/(1 − .213)
    assert fleiss_kappa(table).value == pytest.approx(0.20993, abs=1e-5)


def test_fleiss_error_is_the_jackknife_to_first_order() -> None:
    table = raters(2, items=120)
    left_out = np.array([fleiss_kappa(np.delete(table, i, axis=0)).value for i in range(120)])
    jackknife = np.sqrt(119 / 120 * ((left_out - left_out.mean()) ** 2).sum())
    assert fleiss_kappa(table).standard_error == pytest.approx(jackknife, rel=0.02)


def test_missing_rows_are_dropped_and_counted() -> None:
    result = cohens_kappa(["a", "b", None, "a"], ["a", "b", "b", "b"])
    assert (result.n, result.dropped) == (3, 1)
    table = raters(3).astype(float)
    table[:7, 1] = np.nan
    assert fleiss_kappa(table).dropped == 7
    assert fleiss_kappa(table).value == pytest.approx(fleiss_kappa(table[7:]).value)


def test_perfect_agreement_is_one_but_its_interval_is_not_a_point() -> None:
    labels = [0, 1] * 20
    for result in (cohens_kappa(labels, labels), fleiss_kappa(np.column_stack([labels, labels]))):
        assert result.value == pytest.approx(1.0)
        assert result.high == 1.0
        # 40 of 40 agree: Wilson's lower bound is .912, κ's (.912 − .5)/.5
        assert result.low == pytest.approx(0.825, abs=0.001)


def test_one_category_only_is_undefined_not_one() -> None:
    result = cohens_kappa([1, 1, 1], [1, 1, 1])
    assert np.isnan(result.value)
    assert any("one category" in note for note in result.notes)
    assert np.isnan(fleiss_kappa([[2, 2], [2, 2]]).value)


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError):
        cohens_kappa([1, 2], [1])
    with pytest.raises(InputError):
        fleiss_kappa([[1], [2]])
    with pytest.raises(InputError):
        fleiss_kappa([1, 2])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=60))
@settings(max_examples=40, deadline=None)
def test_kappa_is_symmetric_and_blind_to_names(pairs: list[tuple[int, int]]) -> None:
    first, second = (list(column) for column in zip(*pairs, strict=True))
    there, back = cohens_kappa(first, second), cohens_kappa(second, first)
    renamed = cohens_kappa([f"label {3 - a}" for a in first], [f"label {3 - b}" for b in second])
    assert there.value == pytest.approx(back.value, nan_ok=True)
    assert there.value == pytest.approx(renamed.value, nan_ok=True)
    if there.is_known:
        assert there.value <= 1
        assert np.isnan(there.low) or there.low <= there.value + 1e-12 <= there.high + 1e-9


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_with_complete_data_alpha_and_fleiss_differ_by_the_small_sample_term(seed: int) -> None:
    """1 − α = (1 − κ)·(N − 1)/N with N the number of ratings (Krippendorff 2004)."""
    table = raters(seed, items=30, count=2)
    kappa, alpha = fleiss_kappa(table).value, krippendorff_alpha(table).value
    assert 1 - alpha == pytest.approx((1 - kappa) * (60 - 1) / 60)


@pytest.mark.parametrize("rows", [[(0, 1), (1, 0), (0, 0)], [(0, 0), (1, 1)], [(0, 1), (1, 0), (0, 1), (1, 0), (1, 1)]])
def test_intervals_of_a_handful_of_items_stay_where_a_coefficient_can_be(rows: list[tuple[int, int]]) -> None:
    """The scale log(1 − κ) has no lower end: the first table gave −3.4 to 0.49."""
    table = np.array(rows)
    for result in (cohens_kappa(table[:, 0], table[:, 1]), fleiss_kappa(table), krippendorff_alpha(table)):
        assert -1 <= result.low <= result.value <= result.high <= 1, result
