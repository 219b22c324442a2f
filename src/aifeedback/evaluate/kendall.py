"""Kendall's W: do several raters put the items in the same order?

W = 12·S / (m²(n³ − n) − m·Σ_j T_j), S the spread of the n rank sums over m raters, T_j = Σ(t³ − t) over rater j's
tied ranks (Kendall & Gibbons 1990, ch. 6); χ² = m(n − 1)W with n − 1 degrees of freedom, Friedman's statistic. Lee et
al. 2023 report W per context with its few responses, averaged: give ``contexts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Floats, groups, table
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import mean_interval, special, t_of
from aifeedback.evaluate.win import size_notes

EXACT = 1000
"""Items up to which the jackknife is exact."""


@dataclass(frozen=True)
class Concordance(Estimate):
    chi2: float = NOT_KNOWN
    """m(n − 1)W; summed over contexts where those are given."""
    df: int = 0
    p_value: float = NOT_KNOWN
    """Against raters who order at random."""
    contexts: int = 1


def kendalls_w(
    ratings: Sequence[Sequence[Any]] | NDArray[Any], *, contexts: Any = None, confidence: float = 0.95
) -> Concordance:
    """W in [0, 1] of a table (items, raters) of ranks or scores; each column is ranked, ties share their mean rank.

    Items that some rater did not rate are dropped and counted. With ``contexts``, one id per item, W is computed
    within each context and averaged with a t interval over contexts; a context with fewer than two items, or in which
    every rater ties everything, has no W and is counted in the notes. Without, the interval is a jackknife over items
    on the logit of W.
    """
    scores = table(ratings)
    if scores.shape[1] < 2:
        raise InputError("has fewer than two raters", key="ratings", fix="one column per rater")
    kept = np.asarray(~np.isnan(scores).any(axis=1))
    scores, dropped = scores[kept], int((~kept).sum())
    ids = groups(contexts, kept, "contexts")
    return (
        _pooled(scores, dropped, confidence)
        if ids is None or not len(ids)
        else _averaged(scores, ids, dropped, confidence)
    )


def _pooled(scores: Floats, dropped: int, confidence: float) -> Concordance:
    n, raters = scores.shape
    notes = list(size_notes(n, dropped))
    value = concordance(scores)
    if not np.isfinite(value):
        notes.append("undefined: fewer than two items, or every rater ties all items")
        return Concordance(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, "Kendall's W", dropped, tuple(notes))
    chi2 = raters * (n - 1) * value
    left_out = _without_each(scores)
    error = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())) if n > 2 else NOT_KNOWN
    low, high = _logit_interval(value, error, n, confidence)
    return Concordance(
        value=value,
        low=low,
        high=high,
        n=n,
        method=f"Kendall's W of {raters} raters, ties corrected, jackknife over items on the logit",
        dropped=dropped,
        notes=tuple(notes),
        standard_error=error,
        chi2=chi2,
        df=n - 1,
        p_value=float(special().chdtrc(n - 1, chi2)),
    )


def _averaged(scores: Floats, ids: NDArray[np.intp], dropped: int, confidence: float) -> Concordance:
    values, sizes = by_context(scores, ids)
    known = np.isfinite(values)
    notes = list(size_notes(int(known.sum()), dropped))
    if (~known).any():
        notes.append(f"{int((~known).sum())} contexts have no W: fewer than two items, or all tied")
    if not known.any():
        return Concordance(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, len(scores), "mean Kendall's W", dropped, tuple(notes))
    mean = mean_interval(values[known], confidence=confidence)
    notes += mean.notes
    chi2 = float((scores.shape[1] * (sizes[known] - 1) * values[known]).sum())
    freedom = int((sizes[known] - 1).sum())
    return Concordance(
        value=mean.value,
        low=float(np.maximum(0.0, mean.low)),
        high=float(np.minimum(1.0, mean.high)),
        n=int(sizes[known].sum()),
        method=f"mean Kendall's W over {int(known.sum())} contexts, ties corrected, t interval over contexts",
        dropped=dropped,
        notes=tuple(notes),
        standard_error=mean.standard_error,
        chi2=chi2,
        df=freedom,
        p_value=float(special().chdtrc(freedom, chi2)),
        contexts=int(known.sum()),
    )


def concordance(scores: Floats) -> float:
    """W of a complete table; NaN when it is not defined."""
    if len(scores) == 0:
        return NOT_KNOWN
    return float(by_context(scores, np.zeros(len(scores), dtype=np.intp))[0][0])


def by_context(scores: Floats, ids: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """W and number of items per context 0..C−1; NaN where W is not defined."""
    raters = scores.shape[1]
    sizes = np.bincount(ids).astype(np.float64)
    sums, ties = np.zeros(len(scores)), np.zeros(len(sizes))
    for column in scores.T:
        ranks, tied = ranks_within(column, ids, sizes)
        sums, ties = sums + ranks, ties + tied
    spread = np.bincount(ids, weights=(sums - raters * (sizes[ids] + 1) / 2) ** 2)
    largest = raters**2 * (sizes**3 - sizes) - raters * ties
    return 12 * spread / np.where(largest > 0, largest, np.nan), sizes


def ranks_within(column: Floats, ids: NDArray[np.intp], sizes: Floats) -> tuple[Floats, Floats]:
    """Mid-ranks of one rater's scores within each context, and Σ(t³ − t) over its ties, per context."""
    order = np.lexsort((column, ids))
    scores, contexts = column[order], ids[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(scores) != 0) | (np.diff(contexts) != 0)])
    counts = np.diff(np.r_[starts, len(column)]).astype(np.float64)
    before = (np.cumsum(sizes) - sizes)[contexts[starts]]
    ranks = np.empty(len(column))
    ranks[order] = np.repeat(starts - before + (counts + 1) / 2, counts.astype(np.intp))
    ties = np.bincount(contexts[starts], weights=counts**3 - counts, minlength=len(sizes))
    return ranks, ties.astype(np.float64)


def _without_each(scores: Floats) -> Floats:
    """W with each item left out; exact up to 1,000 items, up to a term of order 1/n beyond.

    Dropping item k lowers the rank sum of item i by d_ik, the number of raters who put k below i (ties count half), so
    S changes by −2·Σ_i R_i·d_ik + Σ_i d_ik². The first sum takes one sort, the last a table of n × n: where that is
    large the sum is replaced by one typical value.
    """
    n, raters = scores.shape
    one, size = np.zeros(n, dtype=np.intp), np.array([float(n)])
    ranked = [ranks_within(column, one, size) for column in scores.T]
    sums = np.sum([ranks for ranks, _ in ranked], axis=0)
    lowered, ties_left = np.zeros(n), np.full(n, sum(float(tied[0]) for _, tied in ranked))
    for column in scores.T:
        _, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
        held = np.bincount(codes, weights=sums)
        above = np.cumsum(held[::-1])[::-1] - held
        lowered += (above + held / 2)[codes] - sums / 2
        ties_left -= (3 * counts * (counts - 1.0))[codes]
    squared = _squared_moves(scores) if n <= EXACT else raters * (n - 1) * (2 * raters + 1) / 6
    spread = (sums**2).sum() - sums**2 - 2 * lowered + squared - (n - 1) * (raters * n / 2) ** 2
    largest = raters**2 * ((n - 1.0) ** 3 - (n - 1)) - raters * ties_left
    return 12 * spread / np.where(largest > 0, largest, np.nan)


def _squared_moves(scores: Floats) -> Floats:
    """Σ_{i≠k} d_ik² for each k."""
    moves = np.zeros((len(scores), len(scores)))
    for column in scores.T:
        moves += np.sign(column[:, None] - column) / 2 + 0.5
    return (moves**2).sum(axis=0) - (scores.shape[1] / 2) ** 2


def _logit_interval(value: float, error: float, n: int, confidence: float) -> tuple[float, float]:
    if not np.isfinite(error) or not 0 < value < 1:
        return NOT_KNOWN, NOT_KNOWN
    logit = np.log(value / (1 - value))
    reach = t_of(confidence, n - 1) * error / (value * (1 - value))
    return float(1 / (1 + np.exp(-(logit - reach)))), float(1 / (1 + np.exp(-(logit + reach))))
