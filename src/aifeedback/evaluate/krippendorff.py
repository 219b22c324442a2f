"""Krippendorff's α: agreement of any number of raters, with missing ratings, on any scale.

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
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.evaluate.agreement import in_range, one_minus_ratio_interval
from aifeedback.evaluate.columns import Floats, cluster_sums, groups, table
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import Interval, wilson
from aifeedback.evaluate.win import size_notes

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
