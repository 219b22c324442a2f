"""Logistic regression on soft labels, with a covariance that holds when the labels are no coin flips.

Quasi-likelihood (Papke & Wooldridge 1996): maximise Σ p·log σ(xβ) + (1−p)·log σ(−xβ) for p in [0, 1]; sandwich
covariance (White 1980; Liang & Zeger 1986 with clusters). The fit is statsmodels' GLM.
"""

from __future__ import annotations

import warnings
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.evaluate.columns import Floats, cluster_sums

SUSPICIOUS = 8.0
"""A fitted |logit| beyond this is looked into: separable labels, or a row far out that is fitted to certainty."""


class LogisticFit(NamedTuple):
    coefficients: Floats
    covariance: Floats
    is_bounded: bool
    """False when the labels are separable or the design is singular: coefficients are then meaningless."""
    problem: str = ""


def fit_logistic(design: Floats, targets: Floats, clusters: NDArray[np.intp] | None = None) -> LogisticFit:
    """Coefficients of logit P = design @ β for targets in [0, 1]; rows of one cluster may depend on each other."""
    columns = design.shape[1]
    unknown = LogisticFit(np.full(columns, np.nan), np.full((columns, columns), np.nan), False, "")
    if len(targets) <= columns or np.linalg.matrix_rank(design) < columns:
        return unknown._replace(problem="too few rows, or predictors that do not vary")
    if targets.min() == targets.max() and targets.min() in (0.0, 1.0):
        return unknown._replace(problem="every label is the same")
    import statsmodels.api as sm

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            fit = sm.GLM(targets, design, family=sm.families.Binomial()).fit()
        except (ValueError, np.linalg.LinAlgError, ZeroDivisionError):
            fit = None
    coefficients = np.full(columns, np.nan) if fit is None else np.asarray(fit.params, dtype=np.float64)
    is_settled = fit is not None and bool(fit.converged) and np.abs(design @ coefficients).max() < SUSPICIOUS
    if not is_settled and is_separable(design, targets):
        return unknown._replace(problem="the labels are separable: no finite fit")
    if fit is None or not fit.converged:
        return unknown._replace(problem="the fit did not converge")
    covariance = sandwich(design, coefficients, targets, clusters)
    if not np.isfinite(covariance).all():
        return unknown._replace(problem="predictors that hardly vary: no covariance")
    return LogisticFit(coefficients, covariance, True)


def sandwich(design: Floats, coefficients: Floats, targets: Floats, clusters: NDArray[np.intp] | None = None) -> Floats:
    """(C, C) covariance (XᵀWX)⁻¹ Σ s sᵀ (XᵀWX)⁻¹ with s the score of a row or cluster, and the usual small-sample
    factor: n/(n − C), times G/(G − 1)·(n − 1)/n for G clusters. NaN where XᵀWX is singular.

    The logit is the canonical link, so XᵀWX with W = p(1 − p) is the observed information too. Rows fitted to
    certainty (an outlying length ratio) have W = 0 and leave it finite; forms that divide by W do not.
    """
    n, columns = design.shape
    fitted = sigmoid(design @ coefficients)
    scores = cluster_sums(design * (targets - fitted)[:, None], clusters)
    try:
        bread = np.linalg.inv(design.T @ ((fitted * (1 - fitted))[:, None] * design))
    except np.linalg.LinAlgError:
        return np.full((columns, columns), np.nan)
    factor = n / (n - columns)
    if clusters is not None:
        factor *= len(scores) / max(1, len(scores) - 1) * (n - 1) / n
    return factor * bread @ (scores.T @ scores) @ bread


def score_test(
    design: Floats, targets: Floats, fit: LogisticFit, extra: Floats, clusters: NDArray[np.intp] | None = None
) -> float:
    """Two-sided p-value that the fit misses what ``extra`` explains: a robust score test. NaN if undefined.

    Boos 1992: U = Σ z̃(y − p), z̃ the part of ``extra`` that the design does not explain (weighted by p(1 − p));
    U²/ΣU_i² ~ χ²₁.
    """
    fitted = sigmoid(design @ fit.coefficients)
    weights = (fitted * (1 - fitted))[:, None]
    explained = np.linalg.lstsq(design.T @ (weights * design), design.T @ (weights[:, 0] * extra), rcond=None)[0]
    scores = cluster_sums((extra - design @ explained) * (targets - fitted), clusters)
    spread = float(np.sqrt((scores**2).sum()))
    return 2 * NormalDist().cdf(-abs(float(scores.sum())) / spread) if spread > 1e-12 else np.nan


def is_separable(design: Floats, targets: Floats) -> bool:
    """Whether some direction puts no label on the wrong side and at least one strictly on its own: no finite fit exists.

    Albert & Anderson 1984 (complete and quasi-complete separation), decided by Konis' linear programme (2007): maximise
    Σ s·xβ with s·xβ ≥ 0 for every label, s = ±1; a soft label is on both sides and must lie on the boundary.
    """
    from scipy.optimize import linprog

    scaled = design / np.maximum(np.abs(design).max(axis=0), 1e-300)
    sides = np.vstack([scaled[targets > 0], -scaled[targets < 1]])
    found = linprog(-sides.sum(axis=0), A_ub=-sides, b_ub=np.zeros(len(sides)), bounds=(-1, 1), method="highs")
    return bool(found.success and -found.fun > 1e-6)


def sigmoid(logit: Floats | float) -> Floats:
    """Stable 1/(1 + e^−x)."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logit, dtype=np.float64)))
