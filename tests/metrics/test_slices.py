"""Slices: worst first, corrected, and quiet where nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aifeedback.errors import InputError
from aifeedback.metrics import by_slice


def rows(seed: int = 0, n: int = 2000, harm: float = 0.0) -> tuple[np.ndarray, dict[str, list]]:
    generator = np.random.default_rng(seed)
    topics = generator.choice(["law", "health", "sport", "code"], n)
    languages = generator.choice(["en", "de", "fr"], n)
    right = generator.random(n) < np.where(topics == "law", 0.8 - harm, 0.8)
    return right.astype(float), {"topic": list(topics), "language": list(languages)}


def test_the_planted_slice_comes_first_and_is_called_worse() -> None:
    values, slices = rows(harm=0.15)
    result = by_slice(values, slices)
    assert (result[0].dimension, result[0].name, result[0].is_worse) == ("topic", "law", True)
    assert sum(part.is_worse for part in result) == 1
    assert len(result) == 7


def test_values_and_p_values_are_those_of_the_rows() -> None:
    values, slices = rows(1)
    part = next(s for s in by_slice(values, slices) if s.name == "de")
    inside = np.array(slices["language"]) == "de"
    assert part.value == pytest.approx(values[inside].mean())
    counts = [[values[i].sum(), len(values[i]) - values[i].sum()] for i in (inside, ~inside)]
    assert part.p_value == pytest.approx(stats.fisher_exact(counts)[1])
    assert part.p_adjusted >= part.p_value


def test_soft_values_are_tested_by_welch() -> None:
    generator = np.random.default_rng(2)
    values, tags = generator.random(300), generator.choice(["a", "b"], 300)
    part = by_slice(values, {"tag": list(tags)})[0]
    theirs = stats.ttest_ind(values[tags == part.name], values[tags != part.name], equal_var=False)
    assert part.p_value == pytest.approx(theirs.pvalue)


def test_false_alarms_stay_below_five_percent() -> None:
    alarms = sum(any(part.is_worse for part in by_slice(*rows(seed, n=300))) for seed in range(100))
    assert alarms <= 5 + 4  # 5 % of 100, plus two standard errors


def test_small_slices_are_shown_untested_and_last_and_untagged_rows_are_not_a_slice() -> None:
    values = [1.0, 0.0] * 30 + [0.0, 0.0, None]
    tags = ["big"] * 40 + [None] * 20 + ["small"] * 3
    result = by_slice(values, {"topic": tags})
    assert [part.name for part in result] == ["big", "small"]
    assert (result[-1].n, result[-1].dropped, result[-1].is_worse) == (2, 1, False)
    assert np.isnan(result[-1].p_value)


def test_a_tag_column_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InputError):
        by_slice([1.0, 0.0], {"topic": ["a"]})
