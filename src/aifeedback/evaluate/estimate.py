"""One shape for every measured number: the value, its interval, how many items it rests on, and how it was computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

NOT_KNOWN = math.nan


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. NaN means not known and comes with a note; it is never a stand-in for a number.

    Shares, rates and agreement coefficients are fractions (0.71, not 71).
    """

    value: float
    low: float
    """Lower end of the interval (95 % unless the call said otherwise)."""
    high: float
    n: int
    """Items the value rests on, after rows with a missing value were dropped."""
    method: str
    """How value and interval were computed, in words."""
    dropped: int = 0
    """Rows left out because something in them was not known."""
    notes: tuple[str, ...] = ()
    """What a reader must know before believing the number: extrapolation, separation, few rows …"""
    standard_error: float = NOT_KNOWN

    @property
    def is_known(self) -> bool:
        return bool(np.all(np.isfinite(self.value)))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity become None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def __str__(self) -> str:
        if not self.is_known:
            return f"not known (n = {self.n})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays become lists, NaN and infinity None, results dictionaries."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
