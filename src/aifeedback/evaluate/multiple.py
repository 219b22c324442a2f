"""Many tests at once: Holm (1979) for any false alarm, Benjamini & Hochberg (1995) for the share of false alarms."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Floats, Numbers, numbers

Correction: TypeAlias = Literal["holm", "benjamini-hochberg", "none"]


def adjust(p_values: Numbers, correction: Correction = "holm") -> Floats:
    """Adjusted p-values in the order given; NaN stays NaN and does not count as a test."""
    if correction == "holm":
        return holm(p_values)
    if correction == "benjamini-hochberg":
        return benjamini_hochberg(p_values)
    if correction == "none":
        return numbers(p_values, "p_values")
    raise InputError(f"no correction '{correction}'", key="correction", fix="holm, benjamini-hochberg or none")


def holm(p_values: Numbers) -> Floats:
    """max over j ≤ i of (m − j + 1)·p₍ⱼ₎, at most 1: rejecting below α keeps the family-wise error at α."""
    adjusted, known, order, ranked = _sorted(p_values)
    m = len(ranked)
    stepped = np.maximum.accumulate(ranked * (m - np.arange(m)))
    return _scatter(adjusted, known, order, stepped)


def benjamini_hochberg(p_values: Numbers) -> Floats:
    """min over j ≥ i of m/j·p₍ⱼ₎, at most 1: rejecting below q keeps the false discovery rate at q."""
    adjusted, known, order, ranked = _sorted(p_values)
    m = len(ranked)
    stepped = np.minimum.accumulate((ranked * m / np.arange(1, m + 1))[::-1])[::-1]
    return _scatter(adjusted, known, order, stepped)


def _sorted(p_values: Numbers):
    adjusted = numbers(p_values, "p_values").copy()
    known = np.flatnonzero(~np.isnan(adjusted))
    order = np.argsort(adjusted[known], kind="stable")
    return adjusted, known, order, adjusted[known][order]


def _scatter(adjusted: Floats, known: np.ndarray, order: np.ndarray, stepped: Floats) -> Floats:
    adjusted[known[order]] = np.minimum(stepped, 1.0)
    return adjusted
