"""Label log-probabilities as arrays, and from the top log-probabilities that a server returns.

A table maps token texts to log-probabilities at one position. Mostly one table is enough. Where a label may be spelled
by several tokens ("1", "0"), the position after its start is read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.types import Problem, Reading

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

    ``event``: labels with the same number are one event (a tokenizer cannot distinguish them) and are counted once.
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


Tables = Mapping[str, Mapping[str, float]]
"""Text that the answer already begins with → table of the position after it; "" is the prompt's end."""


class LabelSet(NamedTuple):
    """Labels, and whether a space may stand before them."""

    labels: tuple[str, ...]
    either_space: bool = True

    def which(self, spelled: str) -> int | None:
        """Index of the label that a text is; an exact spelling goes before one with a space."""
        if spelled in self.labels:
            return self.labels.index(spelled)
        return next((i for i, label in enumerate(self.labels) if spelled in self.forms(label)), None)

    def begun(self, spelled: str) -> list[int]:
        """Labels that a text is the beginning of, without being all of them."""
        return [
            i
            for i, label in enumerate(self.labels)
            if any(form != spelled and form.startswith(spelled) for form in self.forms(label))
        ]

    def forms(self, label: str) -> tuple[str, ...]:
        return (label, f" {label}") if self.either_space and not label.startswith(" ") else (label,)


def to_follow(table: Mapping[str, float], label_set: LabelSet, started: str = "") -> list[str]:
    """Texts after which another position must be read: beginnings of a label that no token of the table spells."""
    spelled = {label_set.which(started + token) for token in table}
    return [
        started + token for token in table if any(which not in spelled for which in label_set.begun(started + token))
    ]


def label_logprobs(tables: Tables, label_set: LabelSet) -> list[float | None]:
    """log P(label) for each label; None where no shown sequence spells it, or a position it depends on was not read.

    All shown token sequences that spell a label count, less those that continue to spell a longer label of the set.
    """
    masses: dict[int, float] = {}
    unknown: set[int] = set()
    for spelled, logprob in _sequences(tables, label_set, "", 0.0, unknown):
        which = label_set.which(spelled)
        if which is not None:
            masses[which] = add_logs(masses.get(which), logprob)
    return [None if i in unknown else masses.get(i) for i in range(len(label_set.labels))]


def _sequences(
    tables: Tables, label_set: LabelSet, started: str, logprob: float, unknown: set[int]
) -> list[tuple[str, float]]:
    sequences: list[tuple[str, float]] = []
    needed = to_follow(tables[started], label_set, started)
    for token, value in tables[started].items():
        spelled, here = started + token, logprob + value
        if spelled in tables:
            longer = _sequences(tables, label_set, spelled, here, unknown)
            reached = [(s, p) for s, p in longer if label_set.which(s) is not None]
            sequences += reached
            left = 1.0 - math.fsum(math.exp(p - here) for _, p in reached)
            if left > 0.0:
                sequences.append((spelled, here + math.log(left)))
            continue
        if spelled in needed:
            which = label_set.which(spelled)
            if which is not None:
                unknown.add(which)
        sequences.append((spelled, here))
    return sequences


def add_logs(first: float | None, second: float) -> float:
    """log(exp(first) + exp(second)); None counts as log 0."""
    if first is None:
        return second
    high, low = max(first, second), min(first, second)
    return min(high + math.log1p(math.exp(low - high)), 0.0)
