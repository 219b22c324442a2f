"""The lab's oracles and simulated raters by name: ``gold:lab`` for summaries, ``gold:talk`` and related names for dialogue."""

from __future__ import annotations

from typing import Any

from aifeedback.lab import gold
from aifeedback.lab.simulated_raters import RATERS, SimulatedPeople
from aifeedback.lab.talk.gold import MEASURES, TalkGold

NAMES = ("lab", *MEASURES)


def oracle(name: str) -> Any:
    """A Labeler and Scorer; for measuring alone. ``name`` is one of NAMES."""
    return gold.GoldLabeler() if name == "lab" else TalkGold(name)


def people(name: str, seed: int) -> SimulatedPeople:
    """Simulated people who see that oracle's quality through noise."""
    return SimulatedPeople(seed=seed, raters=RATERS, measure="" if name == "lab" else name)
