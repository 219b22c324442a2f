"""Concordance of several raters: Kendall's W for rankings, Krippendorff's α for ratings on any scale.

**Kendall's W**: do several raters put the items in the same order?

W = 12·S / (m²(n³ − n) − m·Σ_j T_j), S the spread of the n rank sums over m raters, T_j = Σ(t³ − t) over rater j's
tied ranks (Kendall & Gibbons 1990, ch. 6); χ² = m(n − 1)W with n − 1 degrees of freedom, Friedman's statistic. Lee et
al. 2023 report W per context with its few responses, averaged: give ``contexts``.

**Krippendorff's α**: agreement of any number of raters, with missing ratings, on any scale.

Own code, since no library we build on has it.

α = 1 − D_o/D_e (Krippendorff 2004, ch. 11; Hayes & Krippendorff 2007). D_o averages δ² over rating pairs within an
item, D_e over all pairs of pairable ratings. δ² is 1 for unequal (nominal), (c − k)² (interval), and for ordinal the
squared distance between the *mid-ranks* of c and k among all pairable ratings, which is Krippendorff's Σ_{g=c..k} n_g
− (n_c + n_k)/2. So every numeric scale is the interval one after a change of numbers, and all sums take one pass over
the table.

Where we differ: the interval is a jackknife over items on log(1 − α), not a bootstrap of pairs, which treats the
pairs of one item as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.agreement import in_range, one_minus_ratio_interval
from aifeedback.metrics.intervals import (
    NOT_KNOWN,
    Estimate,
    Floats,
    Interval,
    cluster_sums,
    groups,
    mean_interval,
    special,
    t_of,
    table,
    wilson,
)
from aifeedback.metrics.win_rates import size_notes

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


Level: TypeAlias = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(
    ratings: Sequence[Sequence[Any]] | NDArray[Any],
    level: Level = "nominal",
    *,
    prompts: Any = None,
    confidence: float = 0.95,
) -> Estimate:
    """α of a table (items, raters); NaN or None is missing. Text labels are allowed for ``nominal``.

    An item with fewer than two ratings pairs with nothing: it is dropped and counted, as Krippendorff does. A tie is
    a value like any other (code it in the middle for ordinal and interval). ``prompts``: one id per item where items
    share a prompt; the jackknife then adds up an item's influence over its prompt. NaN with a note when no two pairable
    ratings differ.
    """
    if level not in ("nominal", "ordinal", "interval"):
        raise InputError(f"no level '{level}'", key="level", fix="nominal, ordinal or interval")
    everything = table(ratings)
    pairable = np.asarray((~np.isnan(everything)).sum(axis=1) >= 2)
    clusters = groups(prompts, pairable)
    values, dropped = everything[pairable], int((~pairable).sum())
    n = len(values)
    notes = list(size_notes(n, dropped))
    name = f"Krippendorff's α, {level}"
    sums = _sums(values, level)
    expected = sums.expected()
    if n == 0 or expected == 0:
        if n:
            notes.append("undefined: all ratings are equal")
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, name, dropped, tuple(notes))
    value = 1 - sums.observed() / expected
    value = 1.0 if np.isclose(value, 1.0, rtol=0, atol=1e-12) else float(value)
    left_out = 1 - sums.without_each()
    known = np.isfinite(left_out)
    moves = cluster_sums(np.where(known, left_out - left_out[known].mean(), 0.0) if known.any() else left_out, clusters)
    independent = len(moves)
    factor = (n - 1) ** 2 / n**2 * independent / max(1, independent - 1)
    error = float(np.sqrt(factor * (moves**2).sum())) if independent > 1 and known.any() else NOT_KNOWN
    interval = one_minus_ratio_interval(value, error, independent - 1, confidence)
    if value == 1:
        low = wilson(1.0, independent, confidence).low
        interval = in_range(Interval(1 - (1 - low) / _chance_of_unequal(values), 1.0))
    method = f"{name}, jackknife over items on log(1 − α)"
    return Estimate(value, interval.low, interval.high, n, method, dropped, tuple(notes), error)


class _Sums(NamedTuple):
    """Per item: number of ratings m, within-item Σδ² over ordered pairs, and what D_e needs to drop the item."""

    ratings: Floats
    within: Floats
    cross: Floats
    """Σδ² over ordered pairs of a rating in the item and a rating anywhere, the item itself included."""
    total: float
    """Σδ² over all ordered pairs of pairable ratings."""

    def observed(self) -> float:
        return float((self.within / (self.ratings - 1)).sum() / self.ratings.sum()) if len(self.ratings) else 0.0

    def expected(self) -> float:
        n = self.ratings.sum()
        return float(self.total / (n * (n - 1))) if n > 1 else 0.0

    def without_each(self) -> Floats:
        """D_o/D_e with each item left out in turn."""
        per_item = self.within / (self.ratings - 1)
        n = self.ratings.sum() - self.ratings
        with np.errstate(divide="ignore", invalid="ignore"):
            observed = (per_item.sum() - per_item) / n
            expected = (self.total - 2 * self.cross + self.within) / (n * (n - 1))
            return observed / expected


def _chance_of_unequal(values: Floats) -> float:
    """Share of unequal pairs among all pairs of known ratings."""
    counts = np.unique(values[~np.isnan(values)], return_counts=True)[1].astype(np.float64)
    n = counts.sum()
    return float((n**2 - (counts**2).sum()) / (n * (n - 1)))


def _sums(values: Floats, level: Level) -> _Sums:
    present = ~np.isnan(values)
    ratings = present.sum(axis=1).astype(np.float64)
    if level == "nominal":
        return _nominal(values, present, ratings)
    if level == "ordinal":
        values = _mid_ranks(values, present)
    centred = np.where(present, values - values[present].mean() if present.any() else 0.0, 0.0)
    sums, squares = centred.sum(axis=1), (centred**2).sum(axis=1)
    n = ratings.sum()
    within = 2 * (ratings * squares - sums**2)
    cross = n * squares + ratings * squares.sum() - 2 * sums * sums.sum()
    total = 2 * (n * squares.sum() - sums.sum() ** 2)
    return _Sums(ratings, np.maximum(within, 0.0), cross, float(total))


def _nominal(values: Floats, present: NDArray[np.bool_], ratings: Floats) -> _Sums:
    categories, codes = np.unique(values[present], return_inverse=True)
    counts = np.bincount(codes, minlength=len(categories)).astype(np.float64)
    coded = np.full(values.shape, -1)
    coded[present] = codes
    equal = np.zeros(len(values))
    for i in range(values.shape[1]):
        equal += ((coded == coded[:, [i]]) & present[:, [i]]).sum(axis=1)
    frequency = np.where(present, counts[coded], 0.0).sum(axis=1) if len(counts) else np.zeros(len(values))
    n = ratings.sum()
    return _Sums(ratings, ratings**2 - equal, n * ratings - frequency, float(n**2 - (counts**2).sum()))


def _mid_ranks(values: Floats, present: NDArray[np.bool_]) -> Floats:
    _, codes, counts = np.unique(values[present], return_inverse=True, return_counts=True)
    ranked = np.full(values.shape, np.nan)
    ranked[present] = (np.cumsum(counts) - counts / 2)[codes]
    return ranked
