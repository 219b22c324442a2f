"""Everything that a set of labelled pairs shows: win rate raw and length-controlled, agreement with human labels.

Every row counts or is counted: two identical responses are a tie whatever the label says; an empty response keeps its
label and is counted, and has no length ratio; an unknown label is counted as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from aifeedback.errors import InputError
from aifeedback.evaluate.agreement import cohens_kappa
from aifeedback.evaluate.calibration import brier, expected_calibration_error
from aifeedback.evaluate.columns import Floats, Numbers, probabilities, shared_prompts
from aifeedback.evaluate.estimate import Estimate, plain
from aifeedback.evaluate.labels import Agreement, alignment
from aifeedback.evaluate.length import LengthControlled, LengthForm, length_controlled_win_rate
from aifeedback.evaluate.win import WinRate, win_rate


@dataclass(frozen=True)
class Labelled:
    rows: int
    unknown: int
    """Rows whose label is not known, identical responses aside."""
    identical: int
    """Rows with two identical responses: ties."""
    empty: int
    """Rows with an empty response."""
    win_rate_of_first: WinRate
    length_controlled: LengthControlled
    alignment: Agreement | None = None
    """None here and below: no row has a human label."""
    kappa: Estimate | None = None
    calibration_error: Estimate | None = None
    brier: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: plain(value) for name, value in named.items() if value is not None}


def labelled(
    p_first: Numbers,
    first: Sequence[str],
    second: Sequence[str],
    human: Numbers | None = None,
    *,
    prompts: Sequence[Any] | None = None,
    length_control: LengthForm = "ratio",
    confidence: float = 0.95,
) -> Labelled:
    """Metrics of one labelled file; one label, two response texts and (None where unknown) one human label per row.

    ``prompts``: one id per row; intervals then treat prompts, not rows, as independent.
    """
    column = probabilities(p_first, "p_first")
    if not len(column) == len(first) == len(second):
        raise InputError(f"{len(column)} labels for {len(first)} and {len(second)} responses", key="p_first")
    same = np.array([a == b for a, b in zip(first, second, strict=True)], dtype=bool)
    empty = np.array([not (a.strip() and b.strip()) for a, b in zip(first, second, strict=True)], dtype=bool)
    values = np.where(same, 0.5, column)
    lengths = [np.array([len(text) if text.strip() else 0 for text in side]) for side in (first, second)]
    shared: dict[str, Any] = {"prompts": None if prompts is None else shared_prompts(prompts), "confidence": confidence}
    counted = {
        "rows": len(values),
        "unknown": int(np.isnan(values).sum()),
        "identical": int(same.sum()),
        "empty": int(empty.sum()),
        "win_rate_of_first": win_rate(values, **shared),
        "length_controlled": length_controlled_win_rate(values, *lengths, method=length_control, **shared),
    }
    people = probabilities(human, "human") if human is not None else np.full(len(values), np.nan)
    if np.isnan(people).all():
        return Labelled(**counted)
    return Labelled(
        **counted,
        alignment=alignment(values, people, **shared),
        kappa=cohens_kappa(choices(values), choices(people), **shared),
        calibration_error=expected_calibration_error(values, people, **shared),
        brier=brier(values, people, **shared),
    )


def choices(p_first: Floats) -> Floats:
    """1 the first, 0 the second, 0.5 a tie, NaN unknown."""
    return (np.sign(p_first - 0.5) + 1) / 2
