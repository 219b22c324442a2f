"""Simulated people: they see quality through noise (Bradley-Terry), so they agree with gold on about 75 % of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aifeedback.lab import world
from aifeedback.lab.gold import GoldLabeler, abstained
from aifeedback.lab.talk.gold import TalkGold
from aifeedback.types import Comparison, Judgement, Preference

TEMPERATURE = 2.5
RATERS = 3
"""Raters of each pair where a recipe says ``people:lab``; their votes are averaged."""


class SimulatedPeople:
    """A Labeler. P(first is chosen) = σ((gold first − gold second) / temperature), drawn once per rater and pair.

    With several raters ``p_first`` is the share of votes for the first. Draws depend on seed, rater, prompt and the two
    texts alone, not on storage order, on who wrote them or on what else is labelled: a swapped comparison gets the
    mirrored answer. A prompt from outside the lab gets no vote.
    """

    def __init__(self, seed: int = 0, *, temperature: float = TEMPERATURE, raters: int = 1, measure: str = "") -> None:
        """``measure``: one of the dialogue task's, by which they judge; summaries when not given."""
        self.seed, self.temperature, self.raters = seed, temperature, raters
        self.oracle = TalkGold(measure) if measure else GoldLabeler()
        self.name = f"people:{measure}:{seed}" if measure else f"people:{seed}"

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        return [self._label(c) for c in comparisons]

    def vote(self, comparison: Comparison, rater: int) -> float:
        """1 if this rater chooses the first, 0 for the second."""
        margin = self.oracle.margin(comparison)
        texts = [comparison.first.text, comparison.second.text]
        noise = world.stream(self.seed, "people", rater, comparison.prompt.id, *sorted(texts)).random()
        noise = noise if texts == sorted(texts) else 1 - noise
        return float(noise < 1 / (1 + math.exp(-margin / self.temperature)))

    def _label(self, comparison: Comparison) -> Preference:
        if not self.oracle.knows(comparison.prompt):
            return abstained(comparison, self.name)
        votes = [self.vote(comparison, rater) for rater in range(self.raters)]
        judgements = tuple(
            Judgement(
                comparison_id=comparison.id,
                judge=f"{self.name}/{rater}",
                shown_swapped=False,
                readout="human",
                p_first=vote,
            )
            for rater, vote in enumerate(votes)
        )
        return Preference(
            comparison_id=comparison.id,
            source=self.name,
            p_first=sum(votes) / len(votes),
            judgements=judgements,
        )
