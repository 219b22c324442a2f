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

from aifeedback.errors import InputError, MissingExtra
from aifeedback.evaluate.columns import Floats, cluster_sums


class Interval(NamedTuple):
    low: float
    high: float


NO_INTERVAL = Interval(np.nan, np.nan)
ROUNDING = 1e-24
"""A variance below this is that of equal values."""


def special() -> Any:
    try:
        from scipy import special
    except ImportError:
        raise MissingExtra("scipy", "stats") from None
    return special


def z_of(confidence: float) -> float:
    """Two-sided normal quantile, 1.96 at 0.95. Raises InputError outside (0, 1)."""
    if not 0 < confidence < 1:
        raise InputError(
            f"{confidence} is no confidence level", key="confidence", fix="a number in (0, 1) such as 0.95"
        )
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def t_of(confidence: float, df: float) -> float:
    """Two-sided Student quantile."""
    return float(special().stdtrit(df, 0.5 + confidence / 2)) if df < 1e7 else z_of(confidence)


def t_test_p(t: float, df: float) -> float:
    """Two-sided p-value of a t statistic."""
    return float(2 * special().stdtr(df, -abs(t)))


def wilson(share: float, n: float, confidence: float = 0.95, *, z: float | None = None) -> Interval:
    """Wilson's score interval; ``n`` may be fractional. Source: Wilson 1927, JASA 22:209."""
    if n <= 0:
        return NO_INTERVAL
    z = z_of(confidence) if z is None else z
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(centre - reach)), min(1.0, float(centre + reach))
    return Interval(low if share > 0 else 0.0, high if share < 1 else 1.0)


def clopper_pearson(share: float, n: float, confidence: float = 0.95) -> Interval:
    """The exact binomial interval, never below its confidence; ``n`` may be fractional. Clopper & Pearson 1934."""
    if n <= 0:
        return NO_INTERVAL
    tail, wins = (1 - confidence) / 2, share * n
    low = float(special().betaincinv(wins, n - wins + 1, tail)) if wins > 0 else 0.0
    high = float(special().betaincinv(wins + 1, n - wins, 1 - tail)) if wins < n else 1.0
    return Interval(low, high)


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
    if method == "bootstrap":
        return bootstrap_mean(values, clusters, confidence=confidence, seed=seed, resamples=resamples)
    if method == "t":
        reach = t_of(confidence, df) * np.sqrt(variance) if df else np.nan
        return Interval(float(share - reach), float(share + reach))
    if method not in ("wilson", "clopper-pearson"):
        raise InputError(f"no method '{method}'", key="method", fix="wilson, clopper-pearson, t or bootstrap")
    plain_rows = clusters is None and is_yes_no(values)
    has_variance = np.isfinite(variance) and variance > ROUNDING and 0 < share < 1
    if plain_rows or not has_variance:
        n_effective, z = _independent(n, clusters), z_of(confidence)
    else:
        n_effective, z = share * (1 - share) / variance, t_of(confidence, df)
    if method == "wilson":
        return wilson(share, n_effective, confidence, z=z)
    return clopper_pearson(share, n_effective * (z_of(confidence) / z) ** 2, confidence)


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
