"""One line on whether a judge's labels mean anything: ✓ ! ✗, what it means, what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from aifeedback.records import Preference

LOW_MASS, NO_MASS = 0.5, 0.05
UNDECIDED = 1e-3
"""A preference this close to one half decides nothing."""


class Verdict(NamedTuple):
    mark: Literal["✓", "!", "✗"]
    meaning: str
    advice: str | None = None

    def __str__(self) -> str:
        return f"{self.mark} {self.meaning}" + (f"; {self.advice}" if self.advice else "")


def judge_verdict(preferences: Sequence[Preference]) -> Verdict:
    """Whether these labels can be used: how many are known, how much probability they held, whether they decide."""
    known = [p.p_first for p in preferences if p.p_first is not None]
    if not known:
        return Verdict("✗", f"none of {len(preferences)} pairs could be labelled", "see the most frequent cause")
    masses = [j.coverage for p in preferences for j in p.judgements if j.coverage is not None and j.problem is None]
    mass = math.fsum(masses) / len(masses) if masses else None
    gaps = [p.position_gap for p in preferences if p.position_gap is not None]
    undecided = sum(abs(p - 0.5) < UNDECIDED for p in known) / len(known)
    if mass is not None and mass < NO_MASS:
        meaning = f"only {_percent(mass)} of the probability is on the labels: the judge wanted to say something else"
        return Verdict("✗", meaning, "do not train on these labels; try another judge prompt")
    if undecided > 0.5:
        meaning = f"{_percent(undecided)} of the labels are within {UNDECIDED} of one half: the judge does not decide"
        return Verdict("✗", meaning, "do not train on these labels; try another judge prompt or model")
    if gaps and math.fsum(map(abs, gaps)) / len(gaps) > 0.9:
        return Verdict("✗", "the judge sees only the position", "try another judge prompt or model")
    if len(known) < len(preferences) / 2:
        meaning = f"{len(preferences) - len(known)} of {len(preferences)} pairs are unknown"
        return Verdict("!", meaning, "see the most frequent cause")
    if mass is not None and mass < LOW_MASS:
        meaning = f"{_percent(mass)} of the probability is on the labels"
        return Verdict("!", meaning, "another judge prompt may read more of it")
    meaning = f"{len(known)} of {len(preferences)} pairs labelled"
    return Verdict("✓", meaning + (f", label mass {_percent(mass)}" if mass is not None else ""))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
