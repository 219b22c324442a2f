"""Calibration: maps fitted on a slice with human labels, so that a stated 0.8 is right eight times in ten.

temperature   p ← σ(logit(p)/T)                                  Guo et al. 2017 (arXiv 1706.04599)
    platt         c ← σ(a·logit(c) + b), a > 0, b ≥ 0                Platt 1999
    isotonic      c ← the non-decreasing step function of least squares (pool adjacent violators), interpolated

Where we differ: which response is stored first means nothing, so a map of preferences must give 1 − p for the swapped
pair. Platt and isotonic maps therefore act on the *confidence* c = max(p, 1 − p) in the judge's own choice and never
fall below one half: calibration changes how sure a label is, not which side it is on. Platt's a and b are bounded for
that: with b < 0 every label of some confidence or less would become a tie. Isotonic steps may make ties; the others
make none.

The isotonic fit is scikit-learn's. Platt's is scipy's bounded search: scikit-learn's logistic regression takes neither
bounds nor shares of raters as targets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.config import Config, parse
from aifeedback.errors import InputError, StandardsError
from aifeedback.storage import write_json
from aifeedback.types import Comparison, Labeler, Preference

Floats = NDArray[np.float64]
Kind = Literal["temperature", "platt", "isotonic"]
LIMIT = 1e-6  # probabilities closer to 0 and 1 than this have no usable logit
LEAST_SLOPE = 1e-3
ABOVE_HALF = math.nextafter(0.5, 1.0)


class Reliability(NamedTuple):
    """One bin of the reliability figure."""

    low: float
    high: float
    n: int
    mean_confidence: float
    accuracy: float


class Fit(Config):
    """How well a map does: figures before, and after by cross-validation."""

    n: int
    folds: int
    seed: int
    ece_before: float
    ece_after: float
    """Expected calibration error of predictions for pairs that the map was not fitted on."""
    log_loss_before: float
    log_loss_after: float
    brier_before: float
    brier_after: float
    reliability_before: tuple[Reliability, ...]
    reliability_after: tuple[Reliability, ...]

    @property
    def worse(self) -> tuple[str, ...]:
        """The measures by which held-out pairs fare worse with the map than without; empty for a map to be used."""
        measures = {
            "calibration error": (self.ece_before, self.ece_after),
            "log loss": (self.log_loss_before, self.log_loss_after),
            "Brier score": (self.brier_before, self.brier_after),
        }
        return tuple(
            f"{name} {before:.3g} → {after:.3g}" for name, (before, after) in measures.items() if after > before
        )


class Calibration(Config):
    """A fitted map, stored as JSON with its judge."""

    name: str
    judge: str
    """The labeler's name; the map is refused for any other."""
    kind: Kind
    temperature: float | None = None
    slope: float | None = None
    intercept: float | None = None
    knots: tuple[tuple[float, float], ...] | None = None
    """(confidence, calibrated confidence), both increasing; linear between, constant outside."""
    fit: Fit

    def apply(self, p: float) -> float:
        """The calibrated probability, on the side that p is on; one half stays one half.

        ``apply(1 − p)`` is exactly ``1 − apply(p)``. Only an isotonic map makes a tie, 0.5, of a label that was none.
        """
        if p == 0.5:
            return 0.5
        least = 0.5 if self.kind == "isotonic" else ABOVE_HALF
        confident = min(max(self._confidence(max(p, 1.0 - p)), least), 1.0)
        return confident if p > 0.5 else 1.0 - confident

    def _confidence(self, confidence: float) -> float:
        z = _logit(confidence)
        if self.kind == "temperature":
            return _sigmoid(z / _known(self.temperature))
        if self.kind == "platt":
            return _sigmoid(_known(self.slope) * z + _known(self.intercept))
        at, to = zip(*_known(self.knots), strict=True)
        return float(np.interp(confidence, at, to))

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write ``FOLDER/NAME.json``."""
        path = Path(folder) / f"{self.name}.json"
        write_json(path, self.model_dump(mode="json"))
        return path

    @classmethod
    def load(cls, name: str, folder: str | PathLike[str]) -> Calibration:
        """Read ``FOLDER/NAME.json``. Raises StandardsError where the file is missing or not a calibration."""
        path = Path(folder) / f"{name}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            there = ", ".join(sorted(p.stem for p in Path(folder).glob("*.json"))) or "none"
            raise StandardsError(f"no calibration is called '{name}'", file=path, fix=f"there are: {there}") from None
        except ValueError as broken:
            raise StandardsError(f"not readable as JSON: {broken}", file=path) from None
        return parse(cls, values, file=path, error=StandardsError)


class CalibratedLabeler:
    """A ``Labeler`` whose preferences pass through a calibration; the judgements beneath stay as they were read."""

    def __init__(self, labeler: Labeler, calibration: Calibration) -> None:
        if calibration.judge != labeler.name:
            raise StandardsError(
                f"calibration '{calibration.name}' was fitted for '{calibration.judge}', not for '{labeler.name}'",
                fix="fit one for this judge, or use that judge",
            )
        self._labeler, self._calibration = labeler, calibration

    @property
    def name(self) -> str:
        return f"{self._labeler.name} calibrated by {self._calibration.name}"

    @property
    def new_questions(self) -> int | None:
        """As the labeler's own: questions put to the model, without those that a journal answered."""
        return getattr(self._labeler, "new_questions", None)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        return [self._calibrated(preference) for preference in self._labeler.label(comparisons)]

    def _calibrated(self, preference: Preference) -> Preference:
        if preference.p_first is None:
            return preference.model_copy(update={"source": self.name})
        return preference.model_copy(
            update={"source": self.name, "p_first": self._calibration.apply(preference.p_first)}
        )


def fit_calibration(
    p_first: Sequence[float | None],
    human: Sequence[float | None],
    *,
    name: str,
    judge: str,
    kind: Kind = "temperature",
    folds: int = 5,
    seed: int = 0,
) -> Calibration:
    """Fit a map on all pairs that have both labels; its quality is measured by cross-validation.

    ``human`` is P(first better) in [0, 1], a share of raters or 0 and 1. Raises InputError below 20 usable pairs.
    """
    usable = [(p, h) for p, h in zip(p_first, human, strict=True) if p is not None and h is not None]
    if len(usable) < max(20, folds):
        raise InputError(f"{len(usable)} pairs have both labels; a calibration needs at least {max(20, folds)}")
    p, h = np.array(usable, dtype=np.float64).T
    confidence, right = np.maximum(p, 1 - p), np.where(p >= 0.5, h, 1 - h)
    after = np.empty_like(confidence)
    fold_of = np.random.default_rng(seed).permutation(len(p)) % folds
    for fold in range(folds):
        held_out = fold_of == fold
        curve = _curve(confidence[~held_out], right[~held_out], kind)
        after[held_out] = [_with_curve(curve, c) for c in confidence[held_out]]
    fit = Fit(
        n=len(p),
        folds=folds,
        seed=seed,
        ece_before=calibration_error(confidence, right),
        ece_after=calibration_error(after, right),
        log_loss_before=log_loss(confidence, right),
        log_loss_after=log_loss(after, right),
        brier_before=float(np.mean((confidence - right) ** 2)),
        brier_after=float(np.mean((after - right) ** 2)),
        reliability_before=tuple(reliability(confidence, right)),
        reliability_after=tuple(reliability(after, right)),
    )
    return Calibration(name=name, judge=judge, kind=kind, fit=fit, **_curve(confidence, right, kind))


def reliability(confidence: Floats, right: Floats, *, bins: int = 10) -> list[Reliability]:
    """Bins of equal width over [0.5, 1] that hold anything; ``right`` is the human share for the judge's choice."""
    edges = np.linspace(0.5, 1.0, bins + 1)
    which = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    return [
        Reliability(
            float(edges[b]),
            float(edges[b + 1]),
            int((which == b).sum()),
            float(confidence[which == b].mean()),
            float(right[which == b].mean()),
        )
        for b in range(bins)
        if (which == b).any()
    ]


def calibration_error(confidence: Floats, right: Floats, *, bins: int = 10) -> float:
    """ECE: Σ n_b/n · |accuracy_b − mean confidence_b|, in [0, 1]."""
    table = reliability(confidence, right, bins=bins)
    return math.fsum(b.n * abs(b.accuracy - b.mean_confidence) for b in table) / len(confidence)


def log_loss(confidence: Floats, right: Floats) -> float:
    """Mean cross-entropy against the human labels, in nats."""
    c = np.clip(confidence, LIMIT, 1 - LIMIT)
    return float(-np.mean(right * np.log(c) + (1 - right) * np.log1p(-c)))


def pool_adjacent_violators(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """The non-decreasing step function of least squares, as the first and last knot of each step; x in any order."""
    from sklearn.isotonic import IsotonicRegression

    fit = IsotonicRegression().fit(x, y)
    return list(zip(fit.X_thresholds_.tolist(), fit.y_thresholds_.tolist(), strict=True))


def _curve(confidence: Floats, right: Floats, kind: Kind) -> dict[str, Any]:
    if kind == "isotonic":
        return {"knots": tuple(pool_adjacent_violators(confidence, right))}
    z = np.array([_logit(c) for c in confidence])
    if kind == "temperature":
        slope, _ = _logistic(z, right, with_intercept=False)
        return {"temperature": 1.0 / slope}
    slope, intercept = _logistic(z, right, with_intercept=True)
    return {"slope": slope, "intercept": intercept}


def _logistic(z: Floats, y: Floats, *, with_intercept: bool) -> tuple[float, float]:
    """Slope ≥ ``LEAST_SLOPE`` and intercept ≥ 0 of least cross-entropy; the intercept is 0 where none is wanted.

    Both are drawn to 1 and 0 by one pseudo-pair: separable data stay finite.
    """
    from scipy.optimize import minimize

    goal = np.array([1.0, 0.0])

    def loss(weights: Floats) -> tuple[float, Floats]:
        at, away = weights[0] * z + weights[1], weights - goal
        residual = 1.0 / (1.0 + np.exp(-np.clip(at, -500, 500))) - y
        value = float(np.sum(np.logaddexp(0.0, at) - y * at) + away @ away / 2)
        return value, np.array([residual @ z, residual.sum()]) + away

    bounds = [(LEAST_SLOPE, None), (0.0, None if with_intercept else 0.0)]
    # tolerances at the limit of rounding: a label must not depend on where the search stopped
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    slope, intercept = minimize(loss, goal, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return float(slope), float(intercept)


def _with_curve(curve: dict[str, Any], confidence: float) -> float:
    """What ``Calibration.apply`` would make of a confidence, before there is a Calibration."""
    unfitted = Calibration.model_construct(name="", judge="", kind=_kind(curve), **curve)
    return unfitted.apply(confidence)


def _kind(curve: dict[str, Any]) -> Kind:
    return "temperature" if "temperature" in curve else "platt" if "slope" in curve else "isotonic"


def _logit(p: float) -> float:
    clipped = min(max(p, LIMIT), 1.0 - LIMIT)
    return math.log(clipped) - math.log1p(-clipped)


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(z, -500.0), 500.0)))


def _known(value: Any) -> Any:
    assert value is not None
    return value
