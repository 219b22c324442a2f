"""What would *people* say, from a few human labels and many AI labels?

``prediction_powered_mean`` (Angelopoulos et al. 2023, arXiv 2301.09633; power tuning: 2023, arXiv 2311.01453)
corrects the AI's mean by its mean error on the human-labelled rows: θ = mean(y) + λ·(mean(f on all AI-only rows) −
mean(f on human rows)). It is valid for the human mean however wrong the AI is, if the human rows are a random part of
the rows; a useless AI only makes λ ≈ 0 and gives the human-only interval. ``rogan_gladen`` (1978) turns a judged rate
into a true one from known sensitivity and specificity. ``sample_size`` says how many human labels an interval of a
given half-width takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import (
    NO_SPREAD,
    NOT_KNOWN,
    Estimate,
    Floats,
    Numbers,
    groups,
    has_spread,
    known_rows,
    mean_interval,
    numbers,
    probabilities,
    t_of,
    variance_of_mean,
    wilson,
    z_of,
)
from aifeedback.metrics.win_rates import size_notes


@dataclass(frozen=True)
class PredictionPowered(Estimate):
    """``n`` is the number of human labels."""

    n_ai: int = 0
    """AI-only rows."""
    weight: float = NOT_KNOWN
    """λ: 0 ignores the AI, 1 is the untuned estimator."""
    human_only: float = NOT_KNOWN
    human_only_low: float = NOT_KNOWN
    human_only_high: float = NOT_KNOWN
    ai_only: float = NOT_KNOWN
    """Mean of the AI-only rows: what one would have said without people."""
    correlation: float = NOT_KNOWN
    """Of human and AI labels on the human rows."""

    human_only_error: float = NOT_KNOWN
    """Standard error of ``human_only``."""

    @property
    def equivalent_human_labels(self) -> float:
        """How many human labels alone would have this standard error; NaN where the values do not vary."""
        return self.n * (self.human_only_error / self.standard_error) ** 2 if self.standard_error > 0 else NOT_KNOWN


def prediction_powered_mean(
    human: Numbers,
    ai_on_human: Numbers,
    ai_only: Numbers,
    *,
    weight: float | None = None,
    prompts: Any = None,
    ai_prompts: Any = None,
    confidence: float = 0.95,
) -> PredictionPowered:
    """Mean of the human column over the whole population, from few human and many AI numbers.

    ``human[i]`` and ``ai_on_human[i]`` are about one row; ``ai_only`` are AI numbers on other rows of the same
    population. Rows with either missing, and unknown AI-only rows, are dropped and counted. ``weight``: λ; None tunes
    it to the smallest variance, λ = cov(y, f)/((1 + n/N)·var f). Interval: t with n − 2 degrees of freedom on var(y −
    λf)/n + λ²·var(f)/N; over prompts where ``prompts`` (one id per human row) and ``ai_prompts`` (one per AI-only row) say
    which rows share one. A prompt in both parts counts once in each: give the parts different prompts.
    """
    y, f = numbers(human, "human"), numbers(ai_on_human, "ai_on_human")
    (y, f), kept, dropped = known_rows(human=y, ai_on_human=f)
    (rest,), kept_rest, dropped_rest = known_rows(ai_only=numbers(ai_only, "ai_only"))
    n, more = len(y), len(rest)
    name = "prediction-powered mean"
    if n < 3 or more < 2:
        notes = (f"{n} human and {more} AI-only labels are too few",)
        return PredictionPowered(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, name, dropped + dropped_rest, notes, n_ai=more)
    tuned = _best_weight(y, f, rest) if weight is None else weight
    value = float(y.mean() + tuned * (rest.mean() - f.mean()))
    clusters = groups(prompts, kept)
    corrected, df = variance_of_mean(y - tuned * f, clusters)
    freedom = df - (1 if weight is None else 0)
    if freedom < 1:
        notes = (f"{df + 1} prompts with human labels are too few",)
        return PredictionPowered(value, NOT_KNOWN, NOT_KNOWN, n, name, dropped + dropped_rest, notes, n_ai=more)
    spread_of_ai = variance_of_mean(rest, groups(ai_prompts, kept_rest, "ai_prompts")).variance
    # the tuned weight costs one degree of freedom
    variance = corrected * df / freedom + tuned**2 * spread_of_ai
    error = math.sqrt(variance) if has_spread(variance) else 0.0
    reach = t_of(confidence, freedom) * error if error else NOT_KNOWN
    alone = mean_interval(y, clusters, bounds=None, confidence=confidence)
    spread = float(y.std() * f.std())
    return PredictionPowered(
        value=value,
        low=value - reach,
        high=value + reach,
        n=n,
        method=f"{name}, {'power-tuned' if weight is None else f'λ = {weight:g}'}, t interval",
        dropped=dropped + dropped_rest,
        notes=(*size_notes(n, dropped), *(() if error else (NO_SPREAD,))),
        standard_error=error,
        n_ai=more,
        weight=tuned,
        human_only=alone.value,
        human_only_low=alone.low,
        human_only_high=alone.high,
        ai_only=float(rest.mean()),
        human_only_error=alone.standard_error,
        correlation=float(((y - y.mean()) * (f - f.mean())).mean() / spread) if spread > 0 else 0.0,
    )


def _best_weight(y: Floats, f: Floats, rest: Floats) -> float:
    spread = float(np.concatenate([f, rest]).var())
    if spread == 0:
        return 0.0
    together = float(((y - y.mean()) * (f - f.mean())).mean())
    return together / ((1 + len(y) / len(rest)) * spread)


def prediction_powered_win_rate(
    human: Numbers,
    ai_on_human: Numbers,
    ai_only: Numbers,
    *,
    weight: float | None = None,
    prompts: Any = None,
    ai_prompts: Any = None,
    confidence: float = 0.95,
) -> PredictionPowered:
    """``prediction_powered_mean`` of p_first columns in [0, 1] (ties 0.5): the win rate people would give.

    The ends are cut to [0, 1]. To bring in several signals, give their best combination as the AI column.
    """
    from dataclasses import replace

    for name, column in {"human": human, "ai_on_human": ai_on_human, "ai_only": ai_only}.items():
        probabilities(column, name)
    mean = prediction_powered_mean(
        human, ai_on_human, ai_only, weight=weight, prompts=prompts, ai_prompts=ai_prompts, confidence=confidence
    )
    ends = {name: getattr(mean, name) for name in ("low", "high", "human_only_low", "human_only_high")}
    cut = {name: float(np.clip(end, 0.0, 1.0)) for name, end in ends.items()}
    return replace(mean, **cut, method=mean.method.replace("mean", "win rate"))


def rogan_gladen(
    judged: float,
    sensitivity: float,
    specificity: float,
    *,
    n: int | None = None,
    n_positive: int | None = None,
    n_negative: int | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """True share from the judged share: (judged + sp − 1)/(se + sp − 1), cut to [0, 1]. Rogan & Gladen 1978.

    ``judged`` is the share the AI calls positive among ``n`` rows; se and sp were measured on ``n_positive`` truly
    positive and ``n_negative`` truly negative rows (None: taken as known). Interval: Lang & Reiczigel 2014, which
    carries all three uncertainties; NaN ends without ``n``. NaN with a note when se + sp ≤ 1: such a judge says
    nothing about the truth.
    """
    for name, share in {"judged": judged, "sensitivity": sensitivity, "specificity": specificity}.items():
        if not 0 <= share <= 1:
            raise InputError(f"{share} is not a share", key=name, fix="a number in [0, 1]")
    count, youden = n or 0, sensitivity + specificity - 1
    if youden <= 0:
        notes = ("sensitivity + specificity ≤ 1, no better than chance: the true share cannot be recovered",)
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, count, "Rogan–Gladen", notes=notes)
    raw = (judged + specificity - 1) / youden
    value = min(1.0, max(0.0, raw))
    notes = () if raw == value else (f"cut from {raw:.3f}: judged share and error rates do not fit together",)
    if n is None:
        return Estimate(value, NOT_KNOWN, NOT_KNOWN, 0, "Rogan–Gladen, no interval without n", notes=notes)
    low, high, error = _lang_reiczigel(judged, n, sensitivity, n_positive, specificity, n_negative, z_of(confidence))
    method = "Rogan–Gladen, Lang–Reiczigel interval"
    return Estimate(value, min(low, value), max(high, value), n, method, notes=notes, standard_error=error)


def _lang_reiczigel(
    judged: float, n: int, se: float, n_se: int | None, sp: float, n_sp: int | None, z: float
) -> tuple[float, float, float]:
    rate = (n * judged + z * z / 2) / (n + z * z)
    se, se_variance = _plus_one(se, n_se)
    sp, sp_variance = _plus_one(sp, n_sp)
    youden = se + sp - 1
    if youden <= 0:
        return 0.0, 1.0, NOT_KNOWN
    share = (rate + sp - 1) / youden
    shift = 2 * z * z * (share * se_variance - (1 - share) * sp_variance)
    variance = rate * (1 - rate) / (n + z * z) + share**2 * se_variance + (1 - share) ** 2 * sp_variance
    error = math.sqrt(variance) / youden
    return max(0.0, share + shift - z * error), min(1.0, share + shift + z * error), error


def _plus_one(share: float, n: int | None) -> tuple[float, float]:
    """Agresti–Coull's one success and one failure more, and the variance; (share, 0) when it is known exactly."""
    if n is None:
        return share, 0.0
    adjusted = (n * share + 1) / (n + 2)
    return adjusted, adjusted * (1 - adjusted) / (n + 2)


@dataclass(frozen=True)
class SampleSize:
    value: int
    """Human labels needed."""
    half_width: float
    method: str

    def as_dict(self) -> dict[str, object]:
        return {"value": self.value, "half_width": self.half_width, "method": self.method}


def sample_size(
    half_width: float,
    *,
    share: float = 0.5,
    confidence: float = 0.95,
    ai_correlation: float = 0.0,
    n_ai: int | None = None,
    population: int | None = None,
) -> SampleSize:
    """Fewest human labels whose interval for a share is at most ± ``half_width``.

    Without AI labels the interval is Wilson's at the ``share`` expected (0.5 is the worst case). With
    ``ai_correlation`` ρ of AI and human labels and ``n_ai`` AI-only rows (None: as many as one likes), it is the
    power-tuned prediction-powered one, variance s²·(1 − ρ²·N/(N + n))/n. ``population``: finite-population
    correction, when all rows are few.
    """
    if not 0 < half_width < 0.5:
        raise InputError(f"{half_width} is not a half-width", key="half_width", fix="a number in (0, 0.5) such as 0.05")
    if not 0 <= share <= 1 or not -1 < ai_correlation < 1:
        raise InputError("out of range", key="share", fix="share in [0, 1], correlation in (-1, 1)")

    def reaches(n: int) -> bool:
        helped = ai_correlation**2 * (1.0 if n_ai is None else n_ai / (n_ai + n))
        finite = 1.0 if population is None else max(0.0, (population - n) / max(population - 1, 1))
        effective = n / max((1 - helped) * finite, 1e-12)
        low, high = wilson(share, effective, confidence)
        return (high - low) / 2 <= half_width

    high = 1
    while not reaches(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    needed = high if population is None else min(high, population)
    method = "Wilson half-width" + (f", AI labels with correlation {ai_correlation:g}" if ai_correlation else "")
    return SampleSize(needed, half_width, method)
