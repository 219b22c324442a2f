"""Has the policy begun to please the proxy only? Proxy and gold reward as functions of d = √KL(π‖π_start).

Gao, Schulman & Hilton 2022 (arXiv 2210.10760): gold reward gained over the start follows d·(α − β·d) under best-of-n
sampling and d·(α − β·ln d) under RL; the proxy keeps rising. The fit is least squares, linear in α and β. Whether it
*happened* does not rest on the fit: the last checkpoint's gold score is tested against the best one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, fsum
from statistics import NormalDist
from typing import Literal

import numpy as np

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import NOT_KNOWN, Estimate, Floats, Numbers, known_rows, numbers, z_of


@dataclass(frozen=True)
class OverOptimisation(Estimate):
    """``value`` is the gold score lost since its best checkpoint, best − last, ≥ 0; the interval is Bonferroni-wide."""

    is_over_optimised: bool = False
    """Gold fell from its best to the last checkpoint (corrected p < 1 − confidence) while the proxy did not."""
    p_value: float = NOT_KNOWN
    """One-sided, that gold fell; corrected for the choice of the best among all checkpoints."""
    peak: int = -1
    """Index, among the rows given, of the best gold score."""
    peak_distance: float = NOT_KNOWN
    """√KL there."""
    proxy_gain_after_peak: float = NOT_KNOWN
    fitted_peak_distance: float = NOT_KNOWN
    """Where the fitted curve turns; NaN when it does not turn."""
    alpha: float = NOT_KNOWN
    beta: float = NOT_KNOWN


def over_optimisation(
    kl: Numbers,
    proxy: Numbers,
    gold: Numbers,
    *,
    gold_error: Numbers | None = None,
    form: Literal["rl", "best-of-n"] = "rl",
    confidence: float = 0.95,
) -> OverOptimisation:
    """One row per checkpoint, in training order: KL to the start (nats), mean proxy and gold score, error of gold.

    ``gold`` is any measure the proxy was not trained on (gold function, people, an independent judge). Without
    ``gold_error`` no p-value is possible and nothing is called over-optimised. Checkpoints with anything unknown are
    dropped and counted.
    """
    errors = np.zeros(len(kl)) if gold_error is None else numbers(gold_error, "gold_error")
    known, kept, dropped = known_rows(
        kl=numbers(kl, "kl"), proxy=numbers(proxy, "proxy"), gold=numbers(gold, "gold"), gold_error=errors
    )
    divergence, proxies, golds, errors = known
    if (divergence < 0).any() or (errors < 0).any():
        raise InputError(
            "a KL divergence or an error is negative", key="kl", fix="the k3 mean, which is never negative"
        )
    n, name = len(golds), f"gold over √KL, {form} form"
    if n < 3:
        notes = (f"{n} checkpoints are too few",)
        return OverOptimisation(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, name, dropped, notes)
    distance, peak = np.sqrt(divergence), int(np.argmax(golds))
    lost, error = float(golds[peak] - golds[-1]), float(np.hypot(errors[peak], errors[-1]))
    p_value, reach = _fell(lost, error, n - 1, confidence)
    gain = float(proxies[-1] - proxies[peak])
    alpha, beta, turn = _fit(distance, golds, form)
    notes = [] if gold_error is not None else ["no gold_error given: whether gold fell cannot be tested"]
    if peak == n - 1:
        notes.append("gold is still at its best: no turning point yet")
    return OverOptimisation(
        value=lost,
        low=max(0.0, lost - reach),
        high=lost + reach,
        n=n,
        method=name,
        dropped=dropped,
        notes=tuple(notes),
        standard_error=error if gold_error is not None else NOT_KNOWN,
        is_over_optimised=bool(p_value < 1 - confidence and gain >= 0),
        p_value=p_value,
        peak=int(np.flatnonzero(kept)[peak]),
        peak_distance=float(distance[peak]),
        proxy_gain_after_peak=gain,
        fitted_peak_distance=turn,
        alpha=alpha,
        beta=beta,
    )


def _fell(lost: float, error: float, comparisons: int, confidence: float) -> tuple[float, float]:
    """Bonferroni over the checkpoints that could have been the best one."""
    if error == 0:
        return NOT_KNOWN, NOT_KNOWN
    p_value = min(1.0, comparisons * NormalDist().cdf(-lost / error))
    return p_value, z_of(1 - (1 - confidence) / comparisons) * error


def _fit(distance: Floats, gold: Floats, form: str) -> tuple[float, float, float]:
    """α, β and the turning point; an intercept stands for the start's score."""
    if form not in ("rl", "best-of-n"):
        raise InputError(f"no form '{form}'", key="form", fix="rl or best-of-n")
    bend = distance**2 if form == "best-of-n" else distance * np.log(np.maximum(distance, 1e-12))
    design = np.column_stack([np.ones_like(distance), distance, -bend])
    if len(gold) < 3 or np.linalg.matrix_rank(design) < 3:
        return NOT_KNOWN, NOT_KNOWN, NOT_KNOWN
    _, alpha, beta = np.linalg.lstsq(design, gold, rcond=None)[0]
    if beta <= 0:
        return float(alpha), float(beta), NOT_KNOWN
    turn = alpha / (2 * beta) if form == "best-of-n" else np.exp(min(alpha / beta - 1, 700.0))
    return float(alpha), float(beta), float(turn) if 0 < turn <= 10 * distance.max() else NOT_KNOWN


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n sampling from its base policy, in nats: ln n − (n − 1)/n (Stiennon et al. 2020, appendix G.3).

    Exact where no two samples tie; an upper bound in general (Beirami et al. 2024, arXiv 2401.01879).
    """
    if n < 1:
        raise InputError(f"{n} samples", key="n", fix="1 or more")
    return float(np.log(n) - (n - 1) / n)


def expected_best(rewards: Sequence[float], n: int) -> float:
    """Mean of the highest of n rewards over all subsets of size n: Σᵢ C(i−1, n−1)/C(N, n) · r₍ᵢ₎, r₍₁₎ ≤ … ≤ r₍N₎.

    Unbiased for the expected reward of best-of-n where the N ≥ n samples are independent (Nakano et al. 2021, arXiv
    2112.09332, appendix I). With n = 1 it is their mean, with n = N their maximum.
    """
    if not 1 <= n <= len(rewards):
        raise InputError(f"the best of {n} of {len(rewards)} samples", key="n", fix="1 to the number of samples")
    subsets = comb(len(rewards), n)
    return fsum(comb(i, n - 1) / subsets * reward for i, reward in enumerate(sorted(rewards)))
