"""Measurement: numbers in, estimates with intervals out. Nothing here calls a model.

Every result has ``.value``; shares and rates are fractions; a NaN value is not known and comes with a note. Rows in
which something is None or NaN are dropped and counted, never filled in. ``p_first`` exactly 0.5 is a tie. Modules are
loaded when one of their names is first used, so importing this package loads neither scipy nor statsmodels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aifeedback.evaluate.estimate import Estimate
    from aifeedback.evaluate.labels import Agreement, PositionBias, alignment, position_bias, reward_accuracy
    from aifeedback.evaluate.length import LengthControlled, length_controlled_rate, length_controlled_win_rate
    from aifeedback.evaluate.multiple import benjamini_hochberg, holm
    from aifeedback.evaluate.win import Difference, WinRate, compare_all_win_rates, compare_win_rates, win_rate

_HOME = {
    "Estimate": "estimate",
    "Agreement": "labels",
    "PositionBias": "labels",
    "alignment": "labels",
    "position_bias": "labels",
    "reward_accuracy": "labels",
    "LengthControlled": "length",
    "length_controlled_rate": "length",
    "length_controlled_win_rate": "length",
    "benjamini_hochberg": "multiple",
    "holm": "multiple",
    "Difference": "win",
    "WinRate": "win",
    "compare_all_win_rates": "win",
    "compare_win_rates": "win",
    "win_rate": "win",
}

__all__ = [
    "Agreement",
    "Difference",
    "Estimate",
    "LengthControlled",
    "PositionBias",
    "WinRate",
    "alignment",
    "benjamini_hochberg",
    "compare_all_win_rates",
    "compare_win_rates",
    "holm",
    "length_controlled_rate",
    "length_controlled_win_rate",
    "position_bias",
    "reward_accuracy",
    "win_rate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
