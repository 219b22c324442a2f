"""What would *people* say, from a few human labels and many AI labels?

``prediction_powered_mean`` (Angelopoulos et al. 2023, arXiv 2301.09633; power tuning: 2023, arXiv 2311.01453)
corrects the AI's mean by its mean error on the human-labelled rows: θ = mean(y) + λ·(mean(f on all AI-only rows) −
mean(f on human rows)). It is valid for the human mean however wrong the AI is, if the human rows are a random part of
the rows; a useless AI only makes λ ≈ 0 and gives the human-only interval. ``prediction_powered_sample`` does the same from a
stratified sample with its weights. ``rogan_gladen`` (1978) turns a judged rate
into a true one from known sensitivity and specificity. ``sample_size`` says how many human labels an interval of a
given half-width takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    for name, column in {"human": human, "ai_on_human": ai_on_human, "ai_only": ai_only}.items():
        probabilities(column, name)
    mean = prediction_powered_mean(
        human, ai_on_human, ai_only, weight=weight, prompts=prompts, ai_prompts=ai_prompts, confidence=confidence
    )
    return replace(_cut(mean), method=mean.method.replace("mean", "win rate"))


def prediction_powered_sample(
    human: Numbers,
    ai: Numbers,
    *,
    strata: Sequence[Any] | None = None,
    weights: Numbers | None = None,
    weight: float | None = None,
    prompts: Any = None,
    confidence: float = 0.95,
) -> PredictionPowered:
    """The win rate that people would give, from AI labels on every row and people's on a sample drawn from these rows.

    Both columns are in [0, 1]. ``human[i]`` is None where nobody rated row i. Of a stratified sample, ``strata`` and
    ``weights`` have the stratum and the sampling weight of each rated row (``annotation.draw``; of other rows they are
    not read); without them the rated rows are a simple random sample. With W_h the share of stratum h among all rows
    (its weights' sum), the estimate is

        θ = λ·mean(f) + Σ_h W_h·mean_h(y − λf),   variance Σ_h W_h²·(1 − n_h/N_h)·s_h²(y − λf)/n_h + s²(y)/N,

    the difference estimator of Cochran (1977, 7.3) with the power-tuned λ of ``prediction_powered_mean``, for rows that
    are themselves a sample of all prompts. Both parts of the variance are clustered where ``prompts`` share rows. t interval,
    Satterthwaite's degrees of freedom less one for the tuned λ. Rows whose AI label is unknown are dropped and counted.
    A stratum with one rated row gets the variance pooled over the others, with a note.
    """
    y_all, f_all = probabilities(human, "human"), probabilities(ai, "ai")
    if len(y_all) != len(f_all):
        known_rows(human=y_all, ai=f_all)
    judged = ~np.isnan(f_all)
    is_rated = judged & ~np.isnan(y_all)
    dropped, n, rows = int((~judged).sum()), int(is_rated.sum()), int(judged.sum())
    name = f"prediction-powered win rate over {rows:,} rows"
    names = np.array([""] * len(y_all) if strata is None else [str(stratum) for stratum in strata], dtype=object)
    shares = np.ones(len(y_all)) if weights is None else numbers(weights, "weights")
    if len(names) != len(y_all) or len(shares) != len(y_all):
        raise InputError("one stratum and one weight per row are needed", key="weights", fix="None for rows not rated")
    unknown = PredictionPowered(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, name, dropped, n_ai=rows - n)
    if n < 3:
        return replace(unknown, notes=(f"{n} rows rated by people are too few",))
    y, f, w, of = y_all[is_rated], f_all[is_rated], shares[is_rated], names[is_rated]
    if not bool(np.all(np.isfinite(w) & (w > 0))):
        raise InputError("a rated row has no sampling weight", key="weights", fix="the number of rows it stands for")
    clusters, all_clusters = groups(prompts, is_rated), groups(prompts, judged)
    parts = [np.flatnonzero(of == stratum) for stratum in sorted(set(of))]
    share = np.array([w[part].sum() for part in parts]) / w.sum()
    left = np.array([1 - min(1.0, len(part) / (s * rows)) for part, s in zip(parts, share, strict=True)])
    tuned = _best_weight_of_sample(y, f, parts, share, left) if weight is None else weight
    value = float(tuned * f_all[judged].mean() + _stratified(y - tuned * f, parts, share))
    inflation = 1.0
    if all_clusters is not None and has_spread(plain_variance := variance_of_mean(f_all[judged]).variance):
        inflation = max(1.0, variance_of_mean(f_all[judged], all_clusters).variance / plain_variance)
    centre = _stratified(y, parts, share)
    whole = float((w * (y - centre) ** 2).sum() / w.sum() * n / (n - 1)) / rows * inflation
    corrected, df, is_borrowed = _variance_of_sample(y - tuned * f, parts, share, left, clusters)
    alone, df_alone, _ = _variance_of_sample(y, parts, share, left, clusters)
    freedom = df - (1 if weight is None else 0)
    notes = (*size_notes(n, dropped), *((f"{is_borrowed} strata have one rated row each",) if is_borrowed else ()))
    if freedom < 1:
        return replace(unknown, value=value, notes=(*notes, "too few rated rows per stratum"))
    variance = corrected * df / freedom + whole
    error = math.sqrt(variance) if has_spread(variance) else 0.0
    reach = t_of(confidence, freedom) * error if error else NOT_KNOWN
    error_alone = math.sqrt(alone + whole)
    reach_alone = t_of(confidence, max(1.0, df_alone)) * error_alone if error_alone else NOT_KNOWN
    rest = f_all[judged & ~is_rated]
    spread = float(y.std() * f.std())
    estimate = PredictionPowered(
        value=value,
        low=value - reach,
        high=value + reach,
        n=n,
        method=f"{name}, {len(parts)} strata, {'power-tuned' if weight is None else f'λ = {weight:g}'}, t interval",
        dropped=dropped,
        notes=(*notes, *(() if error else (NO_SPREAD,))),
        standard_error=error,
        n_ai=rows - n,
        weight=tuned,
        human_only=centre,
        human_only_low=centre - reach_alone,
        human_only_high=centre + reach_alone,
        ai_only=float(rest.mean()) if len(rest) else NOT_KNOWN,
        human_only_error=error_alone,
        correlation=float(((y - y.mean()) * (f - f.mean())).mean() / spread) if spread > 0 else 0.0,
    )
    return _cut(estimate)


def _cut(estimate: PredictionPowered) -> PredictionPowered:
    """The ends of its intervals within [0, 1]."""
    ends = {name: getattr(estimate, name) for name in ("low", "high", "human_only_low", "human_only_high")}
    return replace(estimate, **{name: float(np.clip(end, 0.0, 1.0)) for name, end in ends.items()})


def _stratified(values: Floats, parts: Sequence[Any], share: Floats) -> float:
    return float(sum(s * values[part].mean() for part, s in zip(parts, share, strict=True)))


def _variance_of_sample(
    values: Floats, parts: Sequence[Any], share: Floats, left: Floats, clusters: Any
) -> tuple[float, float, int]:
    """Variance of the stratified mean, its degrees of freedom, and how many strata have a single row."""
    terms: list[tuple[float, int]] = []
    single: list[float] = []
    for part, s, rest in zip(parts, share, left, strict=True):
        own = None if clusters is None else np.unique(clusters[part], return_inverse=True)[1]
        variance, df = variance_of_mean(values[part], own)
        if df < 1:
            single.append(s**2 * rest)
        else:
            terms.append((s**2 * rest * variance, df))
    if single and terms:
        pooled = float(
            np.mean([variance_of_mean(values[part]).variance * len(part) for part in parts if len(part) > 1])
        )
        total = sum(v for v, _ in terms) + sum(part * pooled for part in single)
    else:
        total = sum(v for v, _ in terms)
    below = sum(v**2 / df for v, df in terms)
    df = sum(v for v, _ in terms) ** 2 / below if below > 0 else float(sum(d for _, d in terms))
    return total, df, len(single)


def _best_weight_of_sample(y: Floats, f: Floats, parts: Sequence[Any], share: Floats, left: Floats) -> float:
    """λ with the smallest variance: Σ a_h·cov_h(y, f) / Σ a_h·var_h(f), a_h = W_h²·(1 − n_h/N_h)/n_h."""
    together, spread = 0.0, 0.0
    for part, s, rest in zip(parts, share, left, strict=True):
        if len(part) > 1:
            a = s**2 * rest / len(part)
            off = f[part] - f[part].mean()
            together += a * float(((y[part] - y[part].mean()) * off).sum()) / (len(part) - 1)
            spread += a * float((off**2).sum()) / (len(part) - 1)
    return together / spread if spread > 0 else 0.0


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
