"""Do probabilities mean what they say? ``p`` is P(first better), ``y`` the human label: 0 or 1, or a share of raters.

A human tie is y = 0.5 and is kept as that soft target. Rows with p or y unknown are dropped and counted.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import (
    NO_SPREAD,
    NOT_KNOWN,
    Estimate,
    Floats,
    Numbers,
    equal_rows,
    groups,
    has_spread,
    known_rows,
    mean_interval,
    probabilities,
    share_interval,
    z_of,
)
from aifeedback.metrics.win_rates import size_notes

Binning: TypeAlias = Literal["width", "count"]


class Bin(NamedTuple):
    low: float
    """Exclusive, except for the first bin."""
    high: float
    n: int
    predicted: float
    """Mean p in the bin; NaN when it is empty."""
    observed: float
    """Mean y."""
    observed_low: float
    observed_high: float


def reliability_table(
    p: Numbers, y: Numbers, bins: int = 10, *, binning: Binning = "width", confidence: float = 0.95
) -> list[Bin]:
    """One row per bin (low, high]: how often the first was preferred against how often that was predicted.

    Equal ``width`` on [0, 1], or equal ``count`` (quantiles of p; equal edges are merged). Wilson interval per bin.
    """
    (predicted, observed), _, _ = _known(p, y)
    edges, codes = _binned(predicted, bins, binning)
    order = np.argsort(codes, kind="stable")
    cuts = np.searchsorted(codes[order], np.arange(1, len(edges) - 1))
    rows = []
    for k, part in enumerate(np.split(order, cuts)):
        inside = observed[part]
        interval = share_interval(inside, confidence=confidence)
        mean_p, mean_y = (predicted[part].mean(), inside.mean()) if len(part) else (NOT_KNOWN, NOT_KNOWN)
        rows.append(Bin(float(edges[k]), float(edges[k + 1]), len(part), float(mean_p), float(mean_y), *interval))
    return rows


def expected_calibration_error(
    p: Numbers,
    y: Numbers,
    bins: int = 10,
    *,
    binning: Binning = "width",
    of: Literal["probability", "confidence"] = "probability",
    prompts: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Σ_b n_b/n · |mean y − mean p| over the bins of ``reliability_table``. Naeini et al. 2015; Guo et al. 2017.

    ``of="confidence"`` is Guo's form: bins of max(p, 1 − p) against the share of right verdicts (a tie p = 0.5 is
    right half the time). ECE of a perfectly calibrated judge is above 0 in a finite sample, by about Σ √(n_b·var)/n:
    that floor is in the notes. The interval resamples the bin means (normal, 2,000 draws) and corrects for the bias;
    it never reaches below 0. ``prompts``: one id per row where rows share a prompt.
    """
    (predicted, observed), kept, dropped = _known(p, y)
    if of == "confidence":
        right = np.where(predicted == 0.5, 0.5, np.where(predicted > 0.5, observed, 1 - observed))
        predicted, observed = np.maximum(predicted, 1 - predicted), right
    elif of != "probability":
        raise InputError(f"no form '{of}'", key="of", fix="probability or confidence")
    n = len(predicted)
    name = f"ECE, {bins} bins of equal {binning}" + (", confidence" if of == "confidence" else "")
    if n == 0:
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, 0, name, dropped, size_notes(0, dropped))
    edges, codes = _binned(predicted, bins, binning)
    gaps, errors, sizes = _bin_gaps(observed - predicted, codes, len(edges) - 1, groups(prompts, kept))
    weights, spread = sizes / n, ()
    if not has_spread(float((errors**2).max())):
        ends = [equal_rows(gap, int(size), (-1.0, 1.0), confidence) for gap, size in zip(gaps, sizes, strict=True)]
        errors = np.array([(end.high - end.low) / 2 for end in ends]) / z_of(confidence)
        spread = (NO_SPREAD,)
    value = float((weights * np.abs(gaps)).sum())
    floor = float((weights * errors).sum() * np.sqrt(2 / np.pi))
    draws = np.random.default_rng(seed).normal(gaps, errors, size=(2000, len(gaps)))
    resampled = (weights * np.abs(draws)).sum(axis=1)
    tail = (1 - confidence) / 2
    upper, lower = np.quantile(resampled, [1 - tail, tail])
    low, high = max(0.0, 2 * value - float(upper)), max(value, 2 * value - float(lower))
    notes = (*size_notes(n, dropped), *spread, f"a perfectly calibrated judge would show about {floor:.3f} here")
    return Estimate(value, low, high, n, f"{name}, bias-corrected resampling interval", dropped, notes)


def brier(p: Numbers, y: Numbers, *, prompts: Any = None, confidence: float = 0.95) -> Estimate:
    """Mean (p − y)², in [0, 1], lower is better; 0.25 for p = 0.5 throughout. Brier 1950. Interval: t."""
    (predicted, observed), kept, dropped = _known(p, y)
    squares, clusters = (predicted - observed) ** 2, groups(prompts, kept)
    return _mean(squares, clusters, (0.0, 1.0), "Brier score, t interval", dropped, confidence)


def log_loss(p: Numbers, y: Numbers, *, prompts: Any = None, confidence: float = 0.95) -> Estimate:
    """Mean −y·ln p − (1 − y)·ln(1 − p), in nats; ln 2 = 0.693 for p = 0.5 throughout. Interval: t.

    p is kept 2.2e-16 away from 0 and 1, as scikit-learn does, so that one certain error is not infinite; how many rows
    that mattered for is in the notes.
    """
    (predicted, observed), kept, dropped = _known(p, y)
    epsilon = float(np.finfo(np.float64).eps)
    certain_errors = int(
        (((predicted < epsilon) & (observed > 0)) | ((predicted > 1 - epsilon) & (observed < 1))).sum()
    )
    clipped = np.clip(predicted, epsilon, 1 - epsilon)
    loss = -(observed * np.log(clipped) + (1 - observed) * np.log1p(-clipped))
    notes = (f"{certain_errors} certain errors, limited to {-np.log(epsilon):.0f} nats each",) if certain_errors else ()
    bounds = (0.0, -float(np.log(epsilon)))
    return _mean(loss, groups(prompts, kept), bounds, "log loss in nats, t interval", dropped, confidence, notes)


def _known(p: Numbers, y: Numbers):
    return known_rows(p=probabilities(p, "p"), y=probabilities(y, "y"))


def _binned(p: Floats, bins: int, binning: Binning) -> tuple[Floats, NDArray[np.intp]]:
    if bins < 1:
        raise InputError(f"{bins} bins", key="bins", fix="1 or more")
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)
    elif binning == "count":
        edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1))) if len(p) else np.array([0.0, 1.0])
        edges = edges if len(edges) > 1 else np.array([0.0, 1.0])
    else:
        raise InputError(f"no binning '{binning}'", key="binning", fix="width or count")
    return edges, np.searchsorted(edges[1:-1], p, side="left")


def _bin_gaps(
    differences: Floats, codes: NDArray[np.intp], bins: int, clusters: NDArray[np.intp] | None
) -> tuple[Floats, Floats, Floats]:
    """Mean of y − p per non-empty bin, its standard error, and the bin's size."""
    sizes = np.bincount(codes, minlength=bins).astype(np.float64)
    used = sizes > 0
    sums = np.bincount(codes, weights=differences, minlength=bins)[used]
    squares = np.bincount(codes, weights=differences**2, minlength=bins)[used]
    sizes = sizes[used]
    means = sums / sizes
    spread = np.maximum(squares / sizes - means**2, 0.0)
    if clusters is None:
        return means, np.sqrt(spread / np.maximum(sizes - 1, 1)), sizes
    means_of_all = np.zeros(bins)
    means_of_all[used] = means
    cells, where = np.unique(np.stack([codes, clusters]), axis=1, return_inverse=True)
    sums = np.bincount(where.ravel(), weights=differences - means_of_all[codes])
    squares = np.bincount(cells[0], weights=sums**2, minlength=bins)[used]
    prompts = np.bincount(cells[0], minlength=bins)[used]
    return means, np.sqrt(squares * prompts / np.maximum(prompts - 1, 1)) / sizes, sizes


def _mean(
    values: Floats,
    clusters: NDArray[np.intp] | None,
    bounds: tuple[float, float],
    method: str,
    dropped: int,
    confidence: float,
    notes: tuple[str, ...] = (),
) -> Estimate:
    n = len(values)
    mean = mean_interval(values, clusters, bounds=bounds, confidence=confidence)
    low = float(np.maximum(0.0, mean.low))
    notes = (*size_notes(n, dropped), *mean.notes, *notes)
    return Estimate(mean.value, low, mean.high, n, method, dropped, notes, mean.standard_error)
