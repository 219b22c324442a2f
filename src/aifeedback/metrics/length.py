"""Length control: what would the win rate be if both responses were equally long?

``ratio`` is the published form (Lee et al. 2023, appendix on length control): logistic regression of the preference
on the length *ratio* first/second (characters), read at ratio 1.0. ``log-ratio`` is its symmetric relative: swapping
the responses gives exactly 1 − value. ``spline`` lets the logit bend along the log ratio: the one to ask when the
straight forms disagree. ``glm`` is the form of Dubois et al. 2024 (arXiv 2404.04475): logistic on tanh(Δlength / sd)
and, where given, on how hard each instruction is; Δ is set to 0 and predictions are averaged over the rows.

Where we differ: soft labels are targets as they are (quasi-likelihood), intervals come from a sandwich covariance on
the logit scale, and the GLM has neither the L1 penalty nor the pseudo-data of gamed baselines that AlpacaEval adds to
its fit.

**The fit**: logistic regression on soft labels, with a robust (sandwich) covariance.

Quasi-likelihood (Papke & Wooldridge 1996): maximise Σ p·log σ(xβ) + (1−p)·log σ(−xβ) for p in [0, 1]; sandwich
covariance (White 1980; Liang & Zeger 1986 with clusters). The fit is statsmodels' GLM.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import NormalDist
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
    cluster_sums,
    groups,
    known_rows,
    numbers,
    probabilities,
    t_of,
)
from aifeedback.metrics.win_rates import WinRate, size_notes, win_rate

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
    program = linprog(-sides.sum(axis=0), A_ub=-sides, b_ub=np.zeros(len(sides)), bounds=(-1, 1), method="highs")
    return bool(program.success and -program.fun > 1e-6)


def sigmoid(logit: Floats | float) -> Floats:
    """Stable 1/(1 + e^−x)."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logit, dtype=np.float64)))


LengthForm: TypeAlias = Literal["ratio", "log-ratio", "spline", "glm"]
NEAR = 1.25
"""Lengths within a factor of 1.25 count as near equal."""
NAMES = {
    "ratio": "length ratio",
    "log-ratio": "log length ratio",
    "spline": "spline of log length ratio",
    "glm": "tanh of length difference",
}
KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
"""Quantiles of the log ratio; with four knots a win rate that bends sharply at equal length was estimated a point too low."""
ENOUGH_NEAR = 0.05
ENOUGH_NEAR_ROWS = 10
MISFIT = 0.01
OUTLYING = 0.02
"""Share of rows, the most extreme ones, whose leverage is measured."""
HEAVY = 0.5
"""They carry the fit when they hold more than this of all squared distances from the mean."""
MOVED = 0.02
"""A difference between the chosen form and the robust one that is worth a note."""
ROUNDING = 1e-12
"""A standard error below this is that of equal labels."""


class ExtrapolationWarning(RuntimeWarning):
    """Too few rows lie near equal length for the data to speak there."""


@dataclass(frozen=True)
class LengthControlled(Estimate):
    raw: float = NOT_KNOWN
    """The same rows' rate without length control."""
    slope: float = NOT_KNOWN
    """Logit gained per unit of the length predictor; above 0, longer is preferred. NaN for the spline."""
    slope_p_value: float = NOT_KNOWN
    near_equal: float = NOT_KNOWN
    """Share of rows near equal length (near the reference length, for a rate): what the reading rests on."""
    near_rate: float = NOT_KNOWN
    """Raw rate of those rows alone: no model, but few rows, and not exactly at equal length."""
    misfit_p_value: float = NOT_KNOWN
    """That the fit is wrong for just those rows (robust score test); below 0.01 a note says so."""
    leverage: float = NOT_KNOWN
    """Share of the predictor's squared deviations that the most extreme 2 % of rows (at least one) hold, in [0, 1]."""
    robust: float = NOT_KNOWN
    """The spline of the log ratio with outlying ratios drawn in to four robust standard deviations: what a few extreme
    rows cannot move. Reported beside whatever form was chosen; NaN where it has no bounded fit."""
    robust_low: float = NOT_KNOWN
    robust_high: float = NOT_KNOWN
    extrapolates: bool = False
    """Few rows lie near equal length, or all on one side: the value comes from the model, not the data, or is unknown."""


def length_controlled_win_rate(
    p_first: Numbers,
    length_first: Numbers,
    length_second: Numbers,
    *,
    method: LengthForm = "ratio",
    difficulty: Numbers | None = None,
    prompts: Any = None,
    confidence: float = 0.95,
) -> LengthControlled:
    """Win rate of the first response at equal length; ``p_first`` may be soft, ties (0.5) are soft labels.

    Lengths are characters, above 0; a row with an empty response has no ratio and is dropped like a row with anything
    unknown, and counted. ``difficulty`` (``glm`` only) is one number per row. ``prompts``: ids of rows that share a
    prompt. Where all lengths are equal the value is the raw win rate. NaN with a note where the labels bound no fit.
    ``extrapolates`` (and an ExtrapolationWarning) when fewer than 5 % of rows (or fewer than ten) are within a factor
    1.25 of equal length, or all lie on one side of it; NaN where both hold, since then the reading says how the curve
    was chosen and nothing of the responses: one that always wins, being always longer, would be read as 0 or as 100 %.
    """
    if method not in NAMES:
        raise InputError(f"no method '{method}'", key="method", fix=" or ".join(NAMES))
    if difficulty is not None and method != "glm":
        raise InputError("only method='glm' uses it", key="difficulty")
    columns = {
        "p_first": probabilities(p_first, "p_first"),
        "length_first": _lengths(length_first, "length_first"),
        "length_second": _lengths(length_second, "length_second"),
    }
    if difficulty is not None:
        columns["difficulty"] = numbers(difficulty, "difficulty")
    known, kept, dropped = known_rows(**columns)
    targets, first, second = known[:3]
    ratio = first / second
    predictor, reference = _predictor(first, second, method)
    near = np.log(ratio)
    rows = _Rows(targets, predictor, reference, near, known[3] if difficulty is not None else None, dropped)
    return _read(rows, f"logistic on {NAMES[method]}, read at equal length", groups(prompts, kept), confidence)


class Preferred(NamedTuple):
    """How often the first of two policies is preferred, raw and at equal length."""

    win_rate: WinRate
    length_controlled: LengthControlled

    def as_dict(self) -> dict[str, Any]:
        return {"win_rate": self.win_rate.as_dict(), "length_controlled": self.length_controlled.as_dict()}


def preferred(
    p_first: Numbers,
    length_first: Numbers,
    length_second: Numbers,
    *,
    hard: bool = True,
    method: LengthForm = "ratio",
    prompts: Any = None,
    confidence: float = 0.95,
) -> Preferred:
    """Both figures of one meeting of two policies; an empty response counts in the raw one and has no length ratio."""
    rate = win_rate(p_first, hard=hard, prompts=prompts, confidence=confidence)
    column = probabilities(p_first, "p_first")
    labels = (np.sign(column - 0.5) + 1) / 2 if hard else column
    controlled = length_controlled_win_rate(
        labels, length_first, length_second, method=method, prompts=prompts, confidence=confidence
    )
    return Preferred(rate, controlled)


def length_controlled_rate(
    labels: Numbers,
    lengths: Numbers,
    reference_length: float,
    *,
    prompts: Any = None,
    confidence: float = 0.95,
) -> LengthControlled:
    """Rate of single responses (harmless rate) at the reference length: logistic on length / reference, read at 1.

    ``labels`` in [0, 1]; the published reference is the mean length of the SFT policy's responses (Lee et al. 2023).
    """
    if not (np.isfinite(reference_length) and reference_length > 0):
        raise InputError(
            f"{reference_length} is not a length", key="reference_length", fix="mean characters of the SFT policy"
        )
    (targets, lengths_known), kept, dropped = known_rows(
        labels=probabilities(labels, "labels"), lengths=_lengths(lengths, "lengths")
    )
    ratio = lengths_known / reference_length
    rows = _Rows(targets, ratio[:, None], np.ones(1), np.log(ratio), None, dropped)
    method = f"logistic on length, read at {reference_length:.0f} characters"
    return _read(rows, method, groups(prompts, kept), confidence)


class _Rows(NamedTuple):
    targets: Floats
    predictor: Floats
    """(N, C)."""
    reference: Floats
    """(C,): where the rate is read."""
    near: NDArray[np.float64]
    """log of the length ratio to the reference."""
    difficulty: Floats | None
    dropped: int


def _lengths(values: Any, name: str) -> Floats:
    column = numbers(values, name)
    if (column < 0).any():
        raise InputError("holds a negative length", row=int(np.argmax(column < 0)) + 1, key=name)
    return np.where(column == 0, np.nan, column)


def _predictor(first: Floats, second: Floats, method: LengthForm) -> tuple[Floats, Floats]:
    """(N, C) columns, and the same columns where lengths are equal."""
    if method == "ratio":
        return (first / second)[:, None], np.ones(1)
    if method == "log-ratio":
        return np.log(first / second)[:, None], np.zeros(1)
    if method == "spline":
        return _spline(np.log(first / second))
    gap = first - second
    spread = gap.std(ddof=1) if len(gap) > 1 else 0.0
    return (np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap))[:, None], np.zeros(1)


def _spline(x: Floats) -> tuple[Floats, Floats]:
    """Restricted cubic spline with five knots (Harrell 2015, §2.4.5), straight beyond the outer knots; read at 0."""
    knots = np.quantile(x, KNOTS) if len(x) else np.zeros(len(KNOTS))
    if len(np.unique(knots)) < len(knots):
        return x[:, None], np.zeros(1)
    return _spline_columns(x, knots), _spline_columns(np.zeros(1), knots)[0]


def _spline_columns(x: Floats, knots: Floats) -> Floats:
    cubes = np.maximum(x[:, None] - knots, 0.0) ** 3
    last, before = knots[-1], knots[-2]
    columns = [x]
    for k, knot in enumerate(knots[:-2]):
        upper = cubes[:, -2] * (last - knot) - cubes[:, -1] * (before - knot)
        columns.append((cubes[:, k] - upper / (last - before)) / (last - knots[0]) ** 2)
    return np.column_stack(columns)


def _read(rows: _Rows, method: str, clusters: NDArray[np.intp] | None, confidence: float) -> LengthControlled:
    n = len(rows.targets)
    constant = n == 0 or np.ptp(rows.predictor[:, 0]) == 0
    design, reading = _designs(rows, constant)
    fit = fit_logistic(design, rows.targets, clusters)
    near = np.abs(rows.near) <= np.log(NEAR)
    some_near = bool(fit.is_bounded and near.any() and not near.all())
    misfit = score_test(design, rows.targets, fit, near.astype(np.float64), clusters) if some_near else NOT_KNOWN
    extrapolation = _extrapolation(rows, near)
    is_estimable = not (n and _on_one_side(rows) and _few(near))
    notes = list(size_notes(n, rows.dropped))
    if constant and n and is_estimable:
        notes.append("lengths do not vary: this is the raw rate")
    if extrapolation:
        notes.append(extrapolation)
        warnings.warn(extrapolation, ExtrapolationWarning, stacklevel=3)
    if misfit < MISFIT:
        notes.append(
            f"the fit misses the rows near equal length (p = {misfit:.1g}): they show {rows.targets[near].mean():.3f}"
        )
    if not fit.is_bounded and n:
        notes.append(fit.problem)
    coefficients = fit.coefficients if is_estimable else np.full_like(fit.coefficients, NOT_KNOWN)
    value, low, high, error = _averaged(reading, coefficients, fit.covariance, confidence, n)
    if np.isfinite(coefficients).all() and not np.isfinite(value):
        notes.append("not estimable: the fit reads 0 or 1 at equal length, so the labels there are all but separable")
    if error == 0:
        low, high = NOT_KNOWN, NOT_KNOWN
        notes.append(NO_SPREAD)
    leverage = _leverage(rows.predictor[:, 0])
    robust = _robust(rows, clusters, confidence) if is_estimable and n else (NOT_KNOWN,) * 3
    if leverage > HEAVY and abs(value - robust[0]) > MOVED:
        extreme = max(1, int(OUTLYING * n))
        notes.append(
            f"leverage: {extreme} of {n} rows hold {leverage:.0%} of the spread in length; the robust form reads "
            f"{robust[0]:.3f}"
        )
    slope, slope_p = (NOT_KNOWN, NOT_KNOWN) if constant or rows.predictor.shape[1] > 1 else _slope(fit)
    return LengthControlled(
        value=value,
        low=low,
        high=high,
        n=n,
        method=f"{method}, sandwich interval on the logit",
        dropped=rows.dropped,
        notes=tuple(notes),
        standard_error=error,
        raw=float(rows.targets.mean()) if n else NOT_KNOWN,
        slope=slope,
        slope_p_value=slope_p,
        near_equal=float(near.mean()) if n else NOT_KNOWN,
        near_rate=float(rows.targets[near].mean()) if near.any() else NOT_KNOWN,
        misfit_p_value=misfit,
        leverage=leverage,
        robust=robust[0],
        robust_low=robust[1],
        robust_high=robust[2],
        extrapolates=bool(extrapolation),
    )


def _leverage(predictor: Floats) -> float:
    if not len(predictor):
        return NOT_KNOWN
    squares = np.sort((predictor - predictor.mean()) ** 2)
    total = float(squares.sum())
    return float(squares[-max(1, int(OUTLYING * len(squares))) :].sum() / total) if total > 0 else NOT_KNOWN


def _robust(rows: _Rows, clusters: NDArray[np.intp] | None, confidence: float) -> tuple[float, float, float]:
    """Value and interval of the spline form on log ratios drawn in towards their median."""
    centre = float(np.median(rows.near))
    spread = 1.4826 * float(np.median(np.abs(rows.near - centre)))
    drawn_in = np.clip(rows.near, centre - 4 * spread, centre + 4 * spread) if spread > 0 else rows.near
    constant = np.ptp(drawn_in) == 0
    predictor, reference = _spline(drawn_in)
    design, reading = _designs(rows._replace(predictor=predictor, reference=reference), bool(constant))
    fit = fit_logistic(design, rows.targets, clusters)
    value, low, high, error = _averaged(reading, fit.coefficients, fit.covariance, confidence, len(rows.targets))
    return (value, low, high) if error else (value, NOT_KNOWN, NOT_KNOWN)


def _designs(rows: _Rows, constant: bool) -> tuple[Floats, Floats]:
    """The fitted design, and the same rows with the length predictor at its reference."""
    n = len(rows.targets)
    design, reading = [np.ones((n, 1))], [np.ones((n, 1))]
    if not constant:
        design.append(rows.predictor - rows.reference)
        reading.append(np.zeros_like(rows.predictor))
    if rows.difficulty is not None and n and np.ptp(rows.difficulty) > 0:
        design.append(rows.difficulty[:, None])
        reading.append(rows.difficulty[:, None])
    return np.column_stack(design), np.column_stack(reading)


def _extrapolation(rows: _Rows, near: NDArray[np.bool_]) -> str:
    """Why the reading extrapolates, or ''."""
    n = len(near)
    if n == 0:
        return ""
    only = f"{near.sum()} of {n} rows within a factor {NEAR} of it"
    if _on_one_side(rows):
        side = "all rows lie on one side of equal length"
        return f"not estimable: {side}, {only}" if _few(near) else f"extrapolates: {side}"
    return (
        f"extrapolates: only {near.sum()} of {n} rows are within a factor {NEAR} of equal length" if _few(near) else ""
    )


def _on_one_side(rows: _Rows) -> bool:
    return bool(rows.near.min() > 0 or rows.near.max() < 0)


def _few(near: NDArray[np.bool_]) -> bool:
    return bool(near.mean() < ENOUGH_NEAR or near.sum() < ENOUGH_NEAR_ROWS)


def _slope(fit: LogisticFit) -> tuple[float, float]:
    slope = float(fit.coefficients[1])
    error = float(np.sqrt(fit.covariance[1, 1]))
    return slope, 2 * NormalDist().cdf(-abs(slope / error)) if error > ROUNDING else NOT_KNOWN


def _averaged(reading: Floats, coefficients: Floats, covariance: Floats, confidence: float, n: int):
    """Mean prediction over the reading's rows; the interval is symmetric on its logit (delta method)."""
    if not np.isfinite(coefficients).all() or n == 0:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    predicted = sigmoid(reading @ coefficients)
    value = float(predicted.mean())
    if not 1e-12 < value < 1 - 1e-12:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    gradient = (reading * (predicted * (1 - predicted))[:, None]).mean(axis=0)
    error = float(np.sqrt(gradient @ covariance @ gradient))
    error = error if error > ROUNDING else 0.0
    logit = float(np.log(value / (1 - value)))
    reach = t_of(confidence, max(1, n - len(coefficients))) * error / (value * (1 - value))
    return value, float(sigmoid(logit - reach)), float(sigmoid(logit + reach)), error
