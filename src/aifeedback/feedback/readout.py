"""From label log-probabilities to preferences and scores: pure maths, in storage order.

Source: Lee et al. 2023 (arXiv 2309.00267), section 3 and appendix on position bias; expected rating, section 4.2.
Where we differ: they average the probabilities of the two orders; averaging the *logits* is offered besides, since it
recovers the margin exactly where a position adds a constant to the logit.

    margin m = log P(first) − log P(second)         P(first is better) = 1 / (1 + e^−m)
    shown as stored:  m = l₁ − l₂                   shown swapped:  m = l₂ − l₁
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aifeedback.records import Problem

Floats = NDArray[np.float64]


def softmax(logprobs: Sequence[float] | Floats) -> Floats:
    """P over the labels alone, shape (K,) or (N, K): log-probabilities renormalised over the last axis."""
    logits = np.asarray(logprobs, dtype=np.float64)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sigmoid(margin: float) -> float:
    """1 / (1 + e^−margin), such that sigmoid(−m) is *exactly* 1 − sigmoid(m) in floating point."""
    larger = 1.0 / (1.0 + math.exp(-abs(margin)))
    return larger if margin >= 0 else 1.0 - larger


def logit(p: float) -> float:
    """log p/(1−p); ±inf at 0 and 1."""
    if p in (0.0, 1.0):
        return math.inf if p else -math.inf
    return math.log(p) - math.log1p(-p)


def margin(logprobs: Sequence[float], *, swapped: bool) -> float:
    """Log-odds that the first *stored* response is better, from the two labels *as shown*."""
    shown_first, shown_second = logprobs
    return shown_second - shown_first if swapped else shown_first - shown_second


def fault(logprobs: Sequence[float | None]) -> Problem | None:
    """Why these label log-probabilities cannot be used, or None. A hair above 0 is rounding, more is impossible."""
    if any(value is None for value in logprobs):
        return Problem.LABEL_HIDDEN
    if any(not math.isfinite(value) or value > 1e-3 for value in logprobs if value is not None):
        return Problem.BAD_LOGPROBS
    return None


def average_orders(p_as_stored: float, p_swapped: float) -> float:
    """½(P_AB + P_BA), both about storage order. A judge that sees only the position gives exactly ½."""
    return (p_as_stored + p_swapped) / 2.0


def average_margins(margins: Sequence[float]) -> float:
    """P from the mean log-odds: an additive position bias of the logit cancels."""
    return sigmoid(math.fsum(margins) / len(margins))


def position_gap(p_as_stored: float, p_swapped: float) -> float:
    """P(first) when shown first minus P(first) when shown second, in [−1, 1]; > 0 favours the first position."""
    return p_as_stored - p_swapped


def clamp(p: float, low: float = 0.4, high: float = 0.6) -> float:
    """Keeps a saturated probability inside [low, high] (Bai et al. 2022, arXiv 2212.08073, section 4.1)."""
    return min(max(p, low), high)


def expected_score(distribution: Sequence[float] | Floats) -> float:
    """Σ i·P(i), i = 1..K, of a distribution that sums to 1."""
    p = np.asarray(distribution, dtype=np.float64)
    return float(p @ np.arange(1, len(p) + 1))


def score_value(expected: float) -> float:
    """An expected rating in [1, 10] as a reward in [−1, 1]: (2s − 11)/9."""
    return (2.0 * expected - 11.0) / 9.0


def p_from_ratings(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float:
    """P(first better) = Σ_{i>j} P₁(i)P₂(j) + ½ Σ_i P₁(i)P₂(i) for two independent rating distributions.

    Swapping the arguments gives exactly 1 − p.
    """
    p, q = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    joint = np.outer(p, q)
    wins, losses = float(np.tril(joint, -1).sum()), float(np.tril(joint.T, -1).sum())
    ties = float(np.trace(joint))
    larger = (max(wins, losses) + ties / 2.0) / (wins + losses + ties)
    larger = min(max(larger, 0.5), 1.0)
    return larger if wins >= losses else 1.0 - larger
