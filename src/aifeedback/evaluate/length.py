"""Length control: what would the win rate be if both responses were equally long?

``ratio`` is the published form (Lee et al. 2023, appendix on length control): logistic regression of the preference
on the length *ratio* first/second (characters), read at ratio 1.0. ``log-ratio`` is its symmetric relative: swapping
the responses gives exactly 1 − value. ``glm`` is the form of Dubois et al. 2024 (arXiv 2404.04475): logistic on
tanh(Δlength / sd) and, where given, on how hard each instruction is; Δ is set to 0 and predictions are averaged over
the rows.

Where we differ: soft labels are targets as they are (quasi-likelihood), intervals come from a sandwich covariance on
the logit scale, and the GLM has neither the L1 penalty nor the pseudo-data of gamed baselines that AlpacaEval adds to
its fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Floats, Numbers, groups, known_rows, numbers, probabilities
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import t_of
from aifeedback.evaluate.logistic import fit_logistic, sigmoid
from aifeedback.evaluate.win import size_notes

LengthForm: TypeAlias = Literal["ratio", "log-ratio", "glm"]
NEAR = 1.25
"""Lengths within a factor of 1.25 count as near equal."""
ENOUGH_NEAR = 0.05


@dataclass(frozen=True)
class LengthControlled(Estimate):
    raw: float = NOT_KNOWN
    """The same rows' rate without length control."""
    slope: float = NOT_KNOWN
    """Logit gained per unit of the length predictor; above 0, longer is preferred."""
    slope_p_value: float = NOT_KNOWN
    near_equal: float = NOT_KNOWN
    """Share of rows near equal length (near the reference length, for a rate): what the reading rests on."""
    extrapolates: bool = False
    """Few rows lie near equal length: the value is the model's word, not the data's."""


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
    ``extrapolates`` when fewer than 5 % of rows are within a factor 1.25 of equal length, or all lie on one side of
    it.
    """
    if method not in ("ratio", "log-ratio", "glm"):
        raise InputError(f"no method '{method}'", key="method", fix="ratio, log-ratio or glm")
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
    near = _near(ratio, 1.0)
    rows = _Rows(targets, predictor, reference, near, known[3] if difficulty is not None else None, dropped)
    name = {"ratio": "length ratio", "log-ratio": "log length ratio", "glm": "tanh of length difference"}[method]
    return _read(rows, f"logistic on {name}, read at equal length", groups(prompts, kept), confidence)


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
            f"{reference_length} is no length", key="reference_length", fix="mean characters of the SFT policy"
        )
    (targets, lengths_known), kept, dropped = known_rows(
        labels=probabilities(labels, "labels"), lengths=_lengths(lengths, "lengths")
    )
    ratio = lengths_known / reference_length
    rows = _Rows(targets, ratio, 1.0, _near(ratio, 1.0), None, dropped)
    method = f"logistic on length, read at {reference_length:.0f} characters"
    return _read(rows, method, groups(prompts, kept), confidence)


class _Rows(NamedTuple):
    targets: Floats
    predictor: Floats
    reference: float
    """Value of the predictor that the rate is read at."""
    near: NDArray[np.float64]
    """log of the length ratio to the reference."""
    difficulty: Floats | None
    dropped: int


def _lengths(values: Any, name: str) -> Floats:
    column = numbers(values, name)
    if (column < 0).any():
        raise InputError("holds a negative length", row=int(np.argmax(column < 0)) + 1, key=name)
    return np.where(column == 0, np.nan, column)


def _near(ratio: Floats, reference: float) -> Floats:
    return np.log(ratio / reference)


def _predictor(first: Floats, second: Floats, method: LengthForm) -> tuple[Floats, float]:
    if method == "ratio":
        return first / second, 1.0
    if method == "log-ratio":
        return np.log(first / second), 0.0
    gap = first - second
    spread = gap.std(ddof=1) if len(gap) > 1 else 0.0
    return (np.tanh(gap / spread) if spread > 0 else np.zeros_like(gap)), 0.0


def _read(rows: _Rows, method: str, clusters: NDArray[np.intp] | None, confidence: float) -> LengthControlled:
    n, notes = len(rows.targets), list(size_notes(len(rows.targets), rows.dropped))
    near_equal = float((np.abs(rows.near) <= np.log(NEAR)).mean()) if n else NOT_KNOWN
    one_sided = n > 0 and (rows.near.min() > 0 or rows.near.max() < 0)
    extrapolates = n > 0 and (near_equal < ENOUGH_NEAR or one_sided)
    if extrapolates:
        where = "all on one side of it" if one_sided else f"{near_equal:.1%} of rows within a factor {NEAR} of it"
        notes.append(f"extrapolates to equal length: {where}")
    constant = n == 0 or np.ptp(rows.predictor) == 0
    offset = rows.predictor - rows.reference
    design = [np.ones(n)] if constant else [np.ones(n), offset]
    reading = [np.ones(n)] if constant else [np.ones(n), np.zeros(n)]
    if rows.difficulty is not None and n and np.ptp(rows.difficulty) > 0:
        design.append(rows.difficulty)
        reading.append(rows.difficulty)
    if constant and n:
        notes.append("lengths do not vary: this is the raw rate")
    fit = fit_logistic(np.column_stack(design), rows.targets, clusters)
    if not fit.is_bounded and n:
        notes.append(fit.problem)
    value, low, high, error = _averaged(np.column_stack(reading), fit.coefficients, fit.covariance, confidence, n)
    slope = NOT_KNOWN if constant else float(fit.coefficients[1])
    slope_z = NOT_KNOWN if constant else slope / float(np.sqrt(fit.covariance[1, 1]))
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
        slope_p_value=_two_sided(slope_z),
        near_equal=near_equal,
        extrapolates=bool(extrapolates),
    )


def _averaged(reading: Floats, coefficients: Floats, covariance: Floats, confidence: float, n: int):
    """Mean prediction over the reading's rows; the interval is symmetric on its logit (delta method)."""
    if not np.isfinite(coefficients).all() or n == 0:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    predicted = sigmoid(reading @ coefficients)
    value = float(predicted.mean())
    gradient = (reading * (predicted * (1 - predicted))[:, None]).mean(axis=0)
    error = float(np.sqrt(gradient @ covariance @ gradient))
    logit = float(np.log(value / (1 - value)))
    reach = t_of(confidence, max(1, n - len(coefficients))) * error / (value * (1 - value))
    return value, float(sigmoid(logit - reach)), float(sigmoid(logit + reach)), error


def _two_sided(z: float) -> float:
    from statistics import NormalDist

    return 2 * NormalDist().cdf(-abs(z)) if np.isfinite(z) else NOT_KNOWN
