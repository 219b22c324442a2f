"""Mixes hold their declared proportions; noise moves labels towards one half; unknown stays unknown."""

from __future__ import annotations

from collections import Counter

import pytest
from tiny import made_pairs

from aifeedback.errors import RecipeError
from aifeedback.training.examples import Source, hard_labels, mix, noisy_labels


def test_proportions_hold_and_are_reported() -> None:
    human, machine = made_pairs(30, seed=1), made_pairs(100, seed=2)
    mixed = mix([Source("human", human, 1), Source("ai", machine, 3)], seed=0)
    assert mixed.counts == {"human": 30, "ai": 90}
    ids = Counter(row.comparison.id for row in mixed.rows)
    assert sum(ids[r.comparison.id] for r in human) == 30
    assert len(mixed.rows) == 120
    assert mixed == mix([Source("human", human, 1), Source("ai", machine, 3)], seed=0)
    assert mixed.rows != mix([Source("human", human, 1), Source("ai", machine, 3)], seed=1).rows


def test_sizes_weights_and_unknown_labels() -> None:
    human = [r._replace(p_first=None) if i % 3 == 0 else r for i, r in enumerate(made_pairs(30, seed=1))]
    mixed = mix([Source("human", human, 1, weight=2.0), Source("ai", made_pairs(30, seed=2), 2)], rows=10, seed=0)
    assert mixed.counts == {"human": 3, "ai": 7}
    assert mixed.left_out == {"human": 10, "ai": 0}
    assert Counter(row.weight for row in mixed.rows) == {2.0: 3, 1.0: 7}
    assert all(row.p_first is not None for row in mixed.rows)


def test_too_few_rows_are_refused_not_repeated() -> None:
    with pytest.raises(RecipeError, match="'human' has 5 labelled rows, 10 are asked for"):
        mix([Source("human", made_pairs(5), 1), Source("ai", made_pairs(99, seed=2), 1)], rows=20, seed=0)
    with pytest.raises(RecipeError, match="different names"):
        mix([Source("a", made_pairs(5)), Source("a", made_pairs(5))], seed=0)


def test_noise() -> None:
    # a label that is right 80 % of the time: 1 → 0.8, 0 → 0.2, ½ stays
    rows = [r._replace(p_first=p) for r, p in zip(made_pairs(4), (1.0, 0.0, 0.5, None), strict=True)]
    assert [r.p_first for r in noisy_labels(rows, accuracy=0.8)] == [0.8, pytest.approx(0.2), 0.5, None]
    assert [r.p_first for r in hard_labels(rows)] == [1.0, 0.0, None, None]
    with pytest.raises(RecipeError):
        noisy_labels(rows, accuracy=0.4)
