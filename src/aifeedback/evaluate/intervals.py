"""Intervals for means of numbers in [0, 1], with or without rows that belong together.

Wilson (1927) and Clopper–Pearson (1934) are for independent yes/no rows. Soft labels, ties at one half and several
rows of one prompt change the variance, not the idea: both are then read at the *effective* number of rows, p(1−p)/v,
where v is the estimated variance of the mean, with a t instead of a normal quantile (Korn & Graubard 1998; Franco et
al. 2019). On independent yes/no rows the effective number is n and both are the textbook intervals.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Floats, cluster_sums


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

    ``bounds``: the range in which every value must lie; None is no range, and rows without spread then have no interval.
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
