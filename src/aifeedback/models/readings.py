"""Readings as arrays, and what makes a reading believable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aifeedback.protocols import Reading
from aifeedback.records import Problem

SLACK = 1e-4
"""How far above 1 rounding may lift a probability or a sum of them."""


def as_array(readings: Sequence[Reading], labels: int | None = None) -> NDArray[np.float64]:
    """(N, K) log-probabilities in nats, NaN where not known; ``labels`` is K where there are no readings."""
    width = len(readings[0].logprobs) if readings else (labels or 0)
    rows = [[math.nan if p is None else p for p in reading.logprobs] for reading in readings]
    return np.array(rows, dtype=np.float64).reshape(len(readings), width)


def unknown(problem: Problem, labels: int, *, prompt_tokens: int = 0) -> Reading:
    """A reading of which nothing is known, and why."""
    return Reading(logprobs=(None,) * labels, problem=problem, prompt_tokens=prompt_tokens)


def checked(logprobs: Sequence[float], *, event: Sequence[int] | None = None, prompt_tokens: int = 0) -> Reading:
    """A reading, or one with ``bad_logprobs`` where the numbers cannot be probabilities of exclusive events.

    ``event``: labels with the same number are one event (a tokenizer cannot tell them apart) and are counted once.
    """
    seen = dict(zip(event or range(len(logprobs)), logprobs, strict=True))
    total = math.fsum(math.exp(min(p, 1.0)) for p in seen.values() if not math.isnan(p))
    if any(math.isnan(p) or p > SLACK for p in logprobs) or total > 1.0 + SLACK:
        return unknown(Problem.BAD_LOGPROBS, len(logprobs), prompt_tokens=prompt_tokens)
    return Reading(
        logprobs=tuple(min(float(p), 0.0) for p in logprobs),
        coverage=min(total, 1.0),
        prompt_tokens=prompt_tokens,
    )
