"""Agreement of two or more raters beyond chance, on categories: Cohen's and Fleiss' κ.

Both are 1 − D_o/D_e, observed over expected disagreement. The interval is symmetric on log(D_o/D_e), with the
standard error from each item's influence on κ (for Cohen's κ that is Fleiss, Cohen & Everitt 1969; for Fleiss' κ Gwet
2021), so it never passes 1. With no observed disagreement the lower end comes from Wilson's bound on the share of
disagreeing items.

By hand although scikit-learn and statsmodels have both coefficients: the interval needs each item's influence, from which
the coefficient follows, and neither library takes rows that share a prompt. Tests hold the values equal to theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import (
    NOT_KNOWN,
    Estimate,
    Floats,
    Interval,
    groups,
    share_interval,
    t_of,
    table,
    variance_of_mean,
)
from aifeedback.metrics.win_rates import size_notes


def cohens_kappa(
    first: Sequence[Any] | NDArray[Any],
    second: Sequence[Any] | NDArray[Any],
    *,
    weights: Literal["linear", "quadratic"] | None = None,
    prompts: Any = None,
    confidence: float = 0.95,
) -> Estimate:
    """Agreement of two raters: κ = (p_o − p_e)/(1 − p_e), p_e from each rater's own marginals (Cohen 1960, 1968).

    Labels may be numbers or text; ``weights`` are for ordered categories and use their rank in sorted order. A tie is a
    category like any other if it is given as one. Rows with a missing label are dropped and counted. ``prompts``: one id
    per row where rows share a prompt. NaN with a note when both raters use a single category.
    """
    ratings = table(_two_columns(first, second))
    kept = np.asarray(~np.isnan(ratings).any(axis=1))
    clusters = groups(prompts, kept)
    ratings, dropped = ratings[kept], int((~kept).sum())
    categories, codes = np.unique(ratings, return_inverse=True)
    a, b = codes.reshape(ratings.shape).T
    size, n = len(categories), len(a)
    agreement = _weights(size, weights)
    p, q = np.bincount(a, minlength=size) / max(n, 1), np.bincount(b, minlength=size) / max(n, 1)
    observed = agreement[a, b]
    expected = float(p @ agreement @ q)
    expected_moves = (agreement @ q)[a] + (p @ agreement)[b] - 2 * expected
    name = "Cohen's κ" + (f", {weights} weights" if weights else "")
    return chance_corrected(observed, expected, expected_moves, name, dropped, confidence, clusters)


def fleiss_kappa(
    ratings: Sequence[Sequence[Any]] | NDArray[Any], *, prompts: Any = None, confidence: float = 0.95
) -> Estimate:
    """Agreement of R ≥ 2 interchangeable raters on categories: κ = (P̄ − P̄_e)/(1 − P̄_e). Fleiss 1971.

    ``ratings`` is (items, raters), numbers or text, *not* counts per category. P̄ is the mean share of agreeing rater
    pairs per item, P̄_e = Σ_c p_c² over all ratings. Items with any missing rating are dropped and counted
    (``krippendorff_alpha`` uses them). With two raters it is Scott's π. NaN with a note when a single category is
    used.
    """
    ratings = table(ratings)
    kept = np.asarray(~np.isnan(ratings).any(axis=1))
    clusters = groups(prompts, kept)
    ratings, dropped = ratings[kept], int((~kept).sum())
    raters = ratings.shape[1]
    if raters < 2:
        raise InputError("has fewer than two raters", key="ratings", fix="one column per rater")
    categories, codes = np.unique(ratings, return_inverse=True)
    codes = codes.reshape(ratings.shape)
    shares = np.bincount(codes.ravel(), minlength=len(categories)) / max(codes.size, 1)
    equal_pairs = sum((codes[:, [i]] == codes[:, i + 1 :]).sum(axis=1) for i in range(raters - 1))
    observed = np.asarray(equal_pairs, dtype=np.float64) / (raters * (raters - 1) / 2)
    expected = float((shares**2).sum())
    expected_moves = 2 * (shares[codes].mean(axis=1) - expected)
    return chance_corrected(observed, expected, expected_moves, "Fleiss' κ", dropped, confidence, clusters)


def chance_corrected(
    observed: Floats,
    expected: float,
    expected_moves: Floats,
    name: str,
    dropped: int,
    confidence: float,
    clusters: NDArray[np.intp] | None = None,
) -> Estimate:
    """κ and its interval from each item's agreement in [0, 1] and its derivative of the expected agreement."""
    n = len(observed)
    notes = list(size_notes(n, dropped))
    if n == 0 or expected >= 1:
        if n:
            notes.append("undefined: only one category was used, so chance agreement is 1")
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, name, dropped, tuple(notes))
    share = float(observed.mean())
    value = (share - expected) / (1 - expected)
    influence = ((observed - share) - (1 - value) * expected_moves) / (1 - expected)
    variance, df = variance_of_mean(influence, clusters)
    error = float(np.sqrt(variance))
    interval = one_minus_ratio_interval(value, error, df, confidence)
    if value == 1:
        interval = in_range(
            Interval((share_interval(observed, clusters, confidence=confidence).low - expected) / (1 - expected), 1.0)
        )
    return Estimate(
        value, interval.low, interval.high, n, f"{name}, interval on log(1 − κ)", dropped, tuple(notes), error
    )


def one_minus_ratio_interval(value: float, error: float, df: float, confidence: float) -> Interval:
    """Interval for 1 − r, r > 0 a ratio, symmetric on log r; cut off at −1."""
    if not (np.isfinite(error) and error > 0 and df >= 1 and value < 1):
        return Interval(NOT_KNOWN, NOT_KNOWN)
    ratio = 1 - value
    factor = float(np.exp(t_of(confidence, df) * error / ratio))
    return in_range(Interval(1 - ratio * factor, 1 - ratio / factor))


def in_range(interval: Interval) -> Interval:
    """The part of it in [−1, 1], where every coefficient of agreement lies.

    The scale log(1 − κ) keeps the upper end below 1 and has no lower end: a handful of items gave −3.4. Cutting off
    what cannot be takes nothing from the coverage, and an interval that is nearly the whole range says itself that
    nothing is known; left out, the value would show no sign of that.
    """
    return Interval(max(interval.low, -1.0), min(interval.high, 1.0))


def _two_columns(first: Any, second: Any) -> NDArray[Any]:
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"columns have shapes {a.shape} and {b.shape}", fix="one label per row in both")
    if a.dtype.kind in "fiub" and b.dtype.kind in "fiub":
        return np.column_stack([a, b])
    return np.column_stack([a.astype(object), b.astype(object)])


def _weights(size: int, kind: str | None) -> Floats:
    """Agreement weights in [0, 1], 1 on the diagonal."""
    if kind is None:
        return np.eye(size)
    if kind not in ("linear", "quadratic"):
        raise InputError(f"no weights '{kind}'", key="weights", fix="None, linear or quadratic")
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / max(size - 1, 1)
    return 1 - (distance if kind == "linear" else distance**2)
