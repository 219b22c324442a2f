"""Krippendorff's α against his published example, the definition written out, and a brute-force jackknife."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aifeedback.errors import InputError
from aifeedback.metrics import krippendorff_alpha
from aifeedback.metrics.concordance import _sums

N = np.nan
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
).T
"""Four observers, twelve units, missing values: Krippendorff, "Computing Krippendorff's alpha-reliability" (2011)."""


def by_coincidences(table: np.ndarray, level: str) -> float:
    """The definition, pair by pair, slowly."""
    values = sorted({v for v in table.ravel() if not np.isnan(v)})
    index = {v: i for i, v in enumerate(values)}
    together = np.zeros((len(values), len(values)))
    for row in table:
        known = [index[v] for v in row if not np.isnan(v)]
        for i, a in enumerate(known):
            for j, b in enumerate(known):
                if i != j:
                    together[a, b] += 1 / (len(known) - 1)
    counts = together.sum(axis=1)
    distance = np.zeros_like(together)
    for c in range(len(values)):
        for k in range(len(values)):
            low, high = min(c, k), max(c, k)
            distance[c, k] = {
                "nominal": float(c != k),
                "interval": (values[c] - values[k]) ** 2,
                "ordinal": (counts[low : high + 1].sum() - (counts[c] + counts[k]) / 2) ** 2,
            }[level]
    n = counts.sum()
    return 1 - (n - 1) * (together * distance).sum() / (np.outer(counts, counts) * distance).sum()


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(level: str, published: float) -> None:
    result = krippendorff_alpha(PUBLISHED, level)
    assert result.value == pytest.approx(published, abs=5e-4)
    # unit 12 has one rating only and pairs with nothing
    assert (result.n, result.dropped) == (11, 1)


tables = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 12), st.integers(2, 5)),
    elements=st.sampled_from([1.0, 2.0, 3.0, 5.0, np.nan]),
)


@given(tables, st.sampled_from(["nominal", "ordinal", "interval"]))
@settings(max_examples=60, deadline=None)
def test_equals_the_definition_on_any_table(table: np.ndarray, level: str) -> None:
    result = krippendorff_alpha(table, level)
    pairable = table[(~np.isnan(table)).sum(axis=1) >= 2]
    if len(np.unique(pairable[~np.isnan(pairable)])) < 2:
        assert np.isnan(result.value)
        return
    assert result.value == pytest.approx(by_coincidences(table, level), abs=1e-9)
    assert result.value <= 1 + 1e-12


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_leave_one_out_sums_equal_recomputing(level: str) -> None:
    rows = PUBLISHED[:11]
    slowly = [1 - krippendorff_alpha(np.delete(rows, i, axis=0), level).value for i in range(11)]
    assert _sums(rows, level).without_each() == pytest.approx(slowly)


def test_levels_are_blind_to_what_they_should_be() -> None:
    monotone = np.where(np.isnan(PUBLISHED), N, PUBLISHED**3)
    shifted = 10 - 2 * PUBLISHED
    assert krippendorff_alpha(monotone, "ordinal").value == pytest.approx(
        krippendorff_alpha(PUBLISHED, "ordinal").value
    )
    assert krippendorff_alpha(shifted, "interval").value == pytest.approx(
        krippendorff_alpha(PUBLISHED, "interval").value
    )
    names = np.array([[None if np.isnan(v) else f"class {v}" for v in row] for row in PUBLISHED], dtype=object)
    assert krippendorff_alpha(names).value == pytest.approx(krippendorff_alpha(PUBLISHED).value)


def test_no_variation_is_undefined() -> None:
    result = krippendorff_alpha([[1, 1], [1, 1]])
    assert np.isnan(result.value)
    assert result.notes


def test_perfect_agreement_keeps_an_interval() -> None:
    result = krippendorff_alpha([[0, 0], [1, 1]] * 20, "ordinal")
    assert (result.value, result.high) == (1.0, 1.0)
    assert 0.75 < result.low < 0.9


def test_unknown_level_is_refused() -> None:
    with pytest.raises(InputError):
        krippendorff_alpha(PUBLISHED, "ratio")  # type: ignore[arg-type]
