"""Does a judge say the same when it is asked the same again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Floats, groups, probabilities, table
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import share_interval, variance_of_mean
from aifeedback.evaluate.win import size_notes


@dataclass(frozen=True)
class Repeatability(Estimate):
    spread: float = NOT_KNOWN
    """Standard deviation of p_first within an item, pooled over items."""
    flips: int = 0
    """Items whose verdicts are not all equal."""


def repeatability(
    p_first: Sequence[Sequence[float | None]] | NDArray[Any], *, prompts: Any = None, confidence: float = 0.95
) -> Repeatability:
    """Mean over items of the share of pairs of repeats with the same verdict; ``p_first`` is (items, repeats).

    Verdicts are first, second, or tie (exactly 0.5). Items with fewer than two known repeats are dropped and counted;
    other missing repeats are left out of their item. The interval is Wilson's over items, or over ``prompts``
    (one id per item) where several items share one.
    """
    labels = table(p_first, "p_first")
    probabilities(labels.ravel(), "p_first")
    if labels.shape[1] < 2:
        raise InputError("has fewer than two repeats", key="p_first", fix="one column per repeat")
    known = ~np.isnan(labels)
    enough = known.sum(axis=1) >= 2
    clusters = groups(prompts, enough)
    labels, known = labels[enough], known[enough]
    asked = known.sum(axis=1).astype(np.float64)
    same = _equal_pairs(np.sign(labels - 0.5), known) / (asked * (asked - 1))
    means = np.where(known, labels, 0.0).sum(axis=1) / asked
    squares = np.where(known, (labels - means[:, None]) ** 2, 0.0).sum(axis=1)
    interval = share_interval(same, clusters, confidence=confidence)
    n, dropped = len(labels), int((~enough).sum())
    return Repeatability(
        value=float(same.mean()) if n else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=n,
        method="share of repeat pairs with the same verdict, Wilson interval over items",
        dropped=dropped,
        notes=size_notes(n, dropped),
        standard_error=float(np.sqrt(variance_of_mean(same, clusters).variance)),
        spread=float(np.sqrt(squares.sum() / (asked - 1).sum())) if n else NOT_KNOWN,
        flips=int((same < 1).sum()),
    )


def _equal_pairs(verdicts: Floats, known: NDArray[np.bool_]) -> Floats:
    """Ordered pairs of equal verdicts per item."""
    counts = np.stack([((verdicts == kind) & known).sum(axis=1) for kind in (-1, 0, 1)], axis=1).astype(np.float64)
    return (counts * (counts - 1)).sum(axis=1)
