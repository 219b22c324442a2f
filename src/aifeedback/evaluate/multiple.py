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
    """Rejecting below α keeps the family-wise error at α."""
    return _adjusted(p_values, "holm")


def benjamini_hochberg(p_values: Numbers) -> Floats:
    """Rejecting below q keeps the false discovery rate at q."""
    return _adjusted(p_values, "fdr_bh")


def _adjusted(p_values: Numbers, method: str) -> Floats:
    adjusted = numbers(p_values, "p_values").copy()
    known = ~np.isnan(adjusted)
    if known.any():
        from statsmodels.stats.multitest import multipletests

        adjusted[known] = multipletests(adjusted[known], method=method)[1]
    return adjusted
