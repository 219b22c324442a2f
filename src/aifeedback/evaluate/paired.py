"""p-values of paired differences. Two-sided; NaN where the test is not defined."""

from __future__ import annotations

import math

import numpy as np

from aifeedback.evaluate.columns import Floats
from aifeedback.evaluate.intervals import special


def sign_test(wins: int, losses: int) -> float:
    """Exact binomial against one half: twice the smaller tail, at most 1. On discordant pairs: McNemar's exact test.

    NaN when there is no decided row.
    """
    n = wins + losses
    if n == 0:
        return math.nan
    return float(min(1.0, 2 * special().bdtr(min(wins, losses), n, 0.5)))


def wilcoxon(gaps: Floats) -> float:
    """Signed-rank test, zeros dropped, exact for small samples without ties (scipy's own choice)."""
    nonzero = gaps[gaps != 0]
    if len(nonzero) == 0:
        return 1.0 if len(gaps) else math.nan
    special()
    from scipy import stats

    return float(np.asarray(stats.wilcoxon(nonzero))[1])


def sign_permutation(gaps: Floats, *, seed: int, resamples: int = 10_000) -> float:
    """Share of random sign flips with a mean at least as far from zero: (b + 1)/(m + 1). Phipson & Smyth 2010.

    Differences of equal size are flipped together as one binomial count, so hard labels cost nothing.
    """
    if len(gaps) == 0:
        return math.nan
    sizes, counts = np.unique(np.abs(gaps[gaps != 0]), return_counts=True)
    if len(sizes) == 0:
        return 1.0
    generator = np.random.default_rng(seed)
    observed, reached, done = abs(float(gaps.sum())), 0, 0
    block = max(1, min(resamples, 4_000_000 // len(sizes)))
    while done < resamples:
        draws = min(block, resamples - done)
        positive = generator.binomial(counts, 0.5, size=(draws, len(sizes)))
        sums = (2 * positive - counts) @ sizes
        reached += int((np.abs(sums) >= observed - 1e-9).sum())
        done += draws
    return (reached + 1) / (resamples + 1)
