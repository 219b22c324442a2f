"""The lab's oracles and simulated people by name: ``gold:lab`` for summaries, ``gold:talk`` and its kin for dialogue."""

from __future__ import annotations

from typing import Any

from aifeedback.lab import gold
from aifeedback.lab.people import RATERS, SimulatedPeople
from aifeedback.lab.talk.gold import MEASURES, TalkGold
from aifeedback.records import Comparison

NAMES = ("lab", *MEASURES)


def oracle(name: str) -> Any:
    """A Labeler and Scorer; for measuring alone. ``name`` is one of NAMES."""
    return gold.GoldLabeler() if name == "lab" else TalkGold(name)


def people(name: str, seed: int) -> SimulatedPeople:
    """Simulated people who see that oracle's quality through noise."""
    return SimulatedPeople(seed=seed, raters=RATERS) if name == "lab" else TalkPeople(name, seed=seed, raters=RATERS)


class TalkPeople(SimulatedPeople):
    """Simulated people of the dialogue task: they judge by one of its measures."""

    def __init__(self, measure: str, seed: int = 0, **settings: Any) -> None:
        super().__init__(seed, **settings)
        self._gold = TalkGold(measure)
        self.name = f"people:{measure}:{seed}"

    def margin(self, comparison: Comparison) -> float:
        return self._gold.margin(comparison)
