"""Estimates and their intervals: means of numbers in [0, 1], with or without clustered rows; many tests at once.

``Estimate`` is the one shape of every measured number: the value, its interval, how many items it rests on, and how it
was computed. Rows with a missing value are dropped and counted, never filled in.

Wilson (1927) and Clopper–Pearson (1934) are for independent yes/no rows. Soft labels, ties at one half and several
rows of one prompt change the variance, not the idea: both are then read at the *effective* number of rows, p(1−p)/v,
where v is the estimated variance of the mean, with a t instead of a normal quantile (Korn & Graubard 1998; Franco et
al. 2019). On independent yes/no rows the effective number is n and both are the textbook intervals.

Several tests at once: Holm (1979) for any false alarm, Benjamini & Hochberg (1995) for the share of false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError

NOT_KNOWN = math.nan


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. NaN means unknown and comes with a note; it never replaces a number.

    Shares, rates and agreement coefficients are fractions (0.71, not 71).
    """

    value: float
    low: float
    """Lower end of the interval (95 % unless the call said otherwise)."""
    high: float
    n: int
    """Items the value rests on, after rows with a missing value were dropped."""
    method: str
    """How value and interval were computed, in words."""
    dropped: int = 0
    """Rows left out because a value in them was unknown."""
    notes: tuple[str, ...] = ()
    """What a reader must know before believing the number: extrapolation, separation, few rows …"""
    standard_error: float = NOT_KNOWN

    @property
    def is_known(self) -> bool:
        return bool(np.all(np.isfinite(self.value)))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity become None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def __str__(self) -> str:
        if not self.is_known:
            return f"unknown (n = {self.n})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays become lists, NaN and infinity None, results dictionaries."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


Numbers: TypeAlias = Sequence[float | None] | Sequence[float] | Sequence[int] | NDArray[Any]
"""One number per row; None or NaN means unknown."""
Floats: TypeAlias = NDArray[np.float64]


class Known(NamedTuple):
    columns: tuple[Floats, ...]
    kept: NDArray[np.bool_]
    """Over the rows that came in."""
    dropped: int


def numbers(values: Any, name: str) -> Floats:
    """(N,) float64, None as NaN. Raises InputError on anything that is not one finite number per row."""
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("contains a value that is not a number", key=name, fix="one number or None per row") from None
    if column.ndim != 1:
        raise InputError(f"has shape {column.shape}", key=name, fix="one number or None per row")
    if np.isinf(column).any():
        raise InputError("contains an infinite number", key=name, fix="None where unknown")
    return column


def probabilities(values: Any, name: str) -> Floats:
    """Like ``numbers``, within [0, 1]."""
    column = numbers(values, name)
    outside = np.flatnonzero((column < 0) | (column > 1))
    if outside.size:
        raise InputError(
            f"{column[outside[0]]!r} is not a probability", row=int(outside[0]) + 1, key=name, fix="numbers in [0, 1]"
        )
    return column


def known_rows(**columns: Floats) -> Known:
    """The rows in which every column is known. Raises InputError where the columns differ in length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length: {lengths}", fix="one value per row in every column")
    kept = ~np.any([np.isnan(column) for column in columns.values()], axis=0)
    return Known(tuple(column[kept] for column in columns.values()), kept, int((~kept).sum()))


def groups(values: Any, kept: NDArray[np.bool_], name: str = "prompts") -> NDArray[np.intp] | None:
    """0..G−1 per kept row for any hashable ids, or None where none were given."""
    if values is None:
        return None
    ids = np.asarray(values)
    if ids.ndim != 1 or len(ids) != len(kept):
        raise InputError(f"has shape {ids.shape} for {len(kept)} rows", key=name, fix="one id per row")
    return np.unique(ids[kept], return_inverse=True)[1]


def shared_prompts(ids: Sequence[Any]) -> Sequence[Any] | None:
    """The ids for ``prompts=``; None where no two rows share one, so that rows get the exact intervals and tests of
    independent rows."""
    return ids if len(set(ids)) < len(ids) else None


def cluster_sums(values: Floats, clusters: NDArray[np.intp] | None) -> Floats:
    """One sum per cluster (rows of ``values``), or the values themselves where there are no clusters."""
    if clusters is None:
        return values
    sums = np.zeros((clusters.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(sums, clusters, values)
    return sums


def table(values: Any, name: str = "ratings") -> Floats:
    """(items, raters) float64 with NaN for missing; text labels become 0..C−1 in sorted order."""
    try:
        ratings = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        ratings = _coded(np.asarray(values, dtype=object))
    if ratings.ndim != 2:
        raise InputError(f"has shape {ratings.shape}", key=name, fix="one row per item, one column per rater")
    return ratings


def _coded(labels: NDArray[Any]) -> Floats:
    is_missing = np.vectorize(lambda label: label is None or label != label, otypes=[bool])(labels)
    codes = np.full(labels.shape, np.nan)
    codes[~is_missing] = np.unique(labels[~is_missing].astype(str), return_inverse=True)[1]
    return codes


class Interval(NamedTuple):
    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)
ROUNDING = 1e-24
"""A variance below this is that of equal values."""
NO_SPREAD = "no spread: every row shows the same, so the rows do not show how far the truth may be from them"


def special() -> Any:
    from scipy import special

    return special


def z_of(confidence: float) -> float:
    """Two-sided normal quantile, 1.96 at 0.95. Raises InputError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise InputError(
            f"confidence must be in (0, 1), got {confidence}", key="confidence", fix="a number such as 0.95"
        )
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def t_of(confidence: float, df: float) -> float:
    """Two-sided Student quantile."""
    return float(special().stdtrit(df, 0.5 + confidence / 2)) if df < 1e7 else z_of(confidence)


def t_test_p(t: float, df: float) -> float:
    """Two-sided p-value of a t statistic."""
    return float(2 * special().stdtr(df, -abs(t)))


def wilson(share: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval; ``n`` may be fractional."""
    return _binomial(share, n, 1 - confidence, "wilson")


def clopper_pearson(share: float, n: float, confidence: float = 0.95) -> Interval:
    """The exact binomial interval, never below its confidence; ``n`` may be fractional."""
    return _binomial(share, n, 1 - confidence, "beta")


def _binomial(share: float, n: float, alpha: float, method: str) -> Interval:
    if not n > 0:
        return NO_INTERVAL
    from statsmodels.stats.proportion import proportion_confint

    ends: Any = proportion_confint(min(share * n, n), n, alpha, method)
    # the ends at 0 and 1 are exact; rounding would leave them a hair inside
    return Interval(float(ends[0]) if share > 0 else 0.0, float(ends[1]) if share < 1 else 1.0)


class MeanVariance(NamedTuple):
    """Variance of a mean, and the degrees of freedom it was estimated with."""

    variance: float
    df: int


def variance_of_mean(values: Floats, clusters: NDArray[np.intp] | None = None) -> MeanVariance:
    """s²/n; with clusters the sandwich Σ_g(Σ_{i∈g}(x_i − x̄))²/n² · G/(G−1). NaN below two rows or clusters."""
    n = len(values)
    residuals = values - values.mean() if n else values
    residuals = cluster_sums(residuals, clusters)
    independent = len(residuals)
    if independent < 2:
        return MeanVariance(np.nan, 0)
    return MeanVariance(float((residuals**2).sum() / n**2 * independent / (independent - 1)), independent - 1)


def has_spread(variance: float) -> bool:
    """False for the variance of equal values, also where rounding left a trace, and for an unknown one."""
    return variance > ROUNDING


class Mean(NamedTuple):
    """A mean with its interval; NaN where fewer than two independent rows are known."""

    value: float
    low: float
    high: float
    standard_error: float
    notes: tuple[str, ...] = ()
    """``NO_SPREAD``, or nothing."""


def mean_interval(
    values: Floats,
    clusters: NDArray[np.intp] | None = None,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    confidence: float = 0.95,
) -> Mean:
    """Student's t interval; over clusters where given. Rows without spread get the interval of ``equal_rows``.

    ``bounds``: the range in which every value must lie; None means no range, and rows without spread then have no interval.
    """
    if not len(values):
        return Mean(np.nan, np.nan, np.nan, np.nan)
    value = float(values.mean())
    variance, df = variance_of_mean(values, clusters)
    if df < 1:
        return Mean(value, np.nan, np.nan, np.nan)
    if not has_spread(variance):
        ends = NO_INTERVAL if bounds is None else equal_rows(value, df + 1, bounds, confidence)
        return Mean(value, ends.low, ends.high, 0.0, (NO_SPREAD,))
    error = float(np.sqrt(variance))
    reach = t_of(confidence, df) * error
    return Mean(value, value - reach, value + reach, error)


def mean_test(
    values: Floats, clusters: NDArray[np.intp] | None = None, *, null: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> float:
    """Two-sided p-value that the mean is ``null``: Student's t, and ``equal_rows_test`` for rows without spread."""
    variance, df = variance_of_mean(values, clusters)
    if df < 1:
        return np.nan
    value = float(values.mean())
    if not has_spread(variance):
        return equal_rows_test(value, df + 1, null, bounds)
    return t_test_p((value - null) / float(np.sqrt(variance)), df)


def equal_rows(value: float, n: int, bounds: tuple[float, float], confidence: float = 0.95) -> Interval:
    """Interval for the mean of numbers within ``bounds`` when ``n`` independent rows all showed ``value``.

    Other values may be as frequent as 1 − (α/2)^(1/n), the exact binomial bound for none in ``n``; the ends assume that
    they all lie on the bound.
    """
    unseen = 1 - ((1 - confidence) / 2) ** (1 / n)
    return Interval(value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value))


def equal_rows_test(value: float, n: int, null: float, bounds: tuple[float, float]) -> float:
    """The p-value that belongs to ``equal_rows``; on wins or losses alone it is the exact sign test.

    Where the mean is ``null``, at most (bound − null)/(bound − value) of the rows show ``value``, the bound being the one
    beyond ``null``. So a handful of equal rows never counts as certain.
    """
    if abs(value - null) < 1e-12:
        return 1.0
    bound = bounds[0] if value > null else bounds[1]
    return min(1.0, 2 * ((bound - null) / (bound - value)) ** n)


def is_yes_no(values: Floats) -> bool:
    """Up to rounding, so that a label of 1e-12 does not change the kind of interval."""
    return bool(np.all((values < 1e-9) | (values > 1 - 1e-9)))


def share_interval(
    values: Floats,
    clusters: NDArray[np.intp] | None = None,
    *,
    method: str = "wilson",
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Interval for the mean of numbers in [0, 1]; method is wilson, clopper-pearson, t or bootstrap (by cluster)."""
    n = len(values)
    if n == 0:
        return NO_INTERVAL
    share = float(values.mean())
    variance, df = variance_of_mean(values, clusters)
    if method == "t" or (method == "bootstrap" and df and not has_spread(variance)):
        mean = mean_interval(values, clusters, confidence=confidence)
        return Interval(mean.low, mean.high)
    if method == "bootstrap":
        return bootstrap_mean(values, clusters, confidence=confidence, seed=seed, resamples=resamples)
    if method not in ("wilson", "clopper-pearson"):
        raise InputError(f"no method '{method}'", key="method", fix="wilson, clopper-pearson, t or bootstrap")
    plain_rows = clusters is None and is_yes_no(values)
    if plain_rows or not has_spread(variance) or not 0 < share < 1:
        n_effective = float(_independent(n, clusters))
    else:
        # both intervals depend on the quantile through quantile²/n: a t quantile is a smaller n
        n_effective = share * (1 - share) / variance * (z_of(confidence) / t_of(confidence, df)) ** 2
    return (wilson if method == "wilson" else clopper_pearson)(share, n_effective, confidence)


def _independent(n: int, clusters: NDArray[np.intp] | None) -> int:
    return n if clusters is None else len(np.unique(clusters))


def bootstrap_mean(
    values: Floats,
    clusters: NDArray[np.intp] | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap of a mean; whole clusters are drawn. Efron & Tibshirani 1993, ch. 13.

    Equal (sum, count) units are drawn together as multinomial counts, so a million yes/no rows cost no more than a few.
    """
    counts = np.ones(len(values)) if clusters is None else np.bincount(clusters).astype(float)
    sums = cluster_sums(values, clusters)
    units, multiplicity = np.unique(np.column_stack([sums, counts]), axis=0, return_counts=True)
    means = resampled_means(units[:, 0], units[:, 1], multiplicity, seed=seed, resamples=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def resampled_means(sums: Floats, counts: Floats, multiplicity: NDArray[Any], *, seed: int, resamples: int) -> Floats:
    """Ratio-of-sums means of ``resamples`` bootstrap draws over units that occur ``multiplicity`` times each."""
    generator = np.random.default_rng(seed)
    units = int(multiplicity.sum())
    if len(multiplicity) <= 64:
        drawn = generator.multinomial(units, multiplicity / units, size=resamples)
        return (drawn @ sums) / (drawn @ counts)
    sums, counts = np.repeat(sums, multiplicity), np.repeat(counts, multiplicity)
    means, same_size = np.empty(resamples), counts.min() == counts.max()
    for i in range(resamples):
        rows = generator.integers(units, size=units)
        means[i] = sums[rows].sum() / (units * counts[0] if same_size else counts[rows].sum())
    return means


Correction: TypeAlias = Literal["holm", "benjamini-hochberg", "none"]


def adjust(p_values: Numbers, correction: Correction = "holm") -> Floats:
    """Adjusted p-values in the order given; NaN stays NaN and does not count as a test."""
    if correction == "holm":
        return holm(p_values)
    if correction == "benjamini-hochberg":
        return benjamini_hochberg(p_values)
    if correction == "none":
        return numbers(p_values, "p_values")
    raise InputError(f"no correction '{correction}'", key="correction", fix="holm, benjamini-hochberg or none")


def holm(p_values: Numbers) -> Floats:
    """Rejecting below α keeps the family-wise error at α (Holm 1979).

    By hand: statsmodels' version runs a full garbage collection in every call, 0.3 s beside a loaded model.
    """
    adjusted = numbers(p_values, "p_values").copy()
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known], kind="stable")]
    stepped = np.arange(len(order), 0, -1) * adjusted[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Numbers) -> Floats:
    """Rejecting below q keeps the false discovery rate at q."""
    adjusted = numbers(p_values, "p_values").copy()
    known = ~np.isnan(adjusted)
    if known.any():
        from statsmodels.stats.multitest import multipletests

        adjusted[known] = multipletests(adjusted[known], method="fdr_bh")[1]
    return adjusted
