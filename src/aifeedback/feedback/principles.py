"""Which principles a pair is judged by: one drawn, each and averaged, or all in one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from aifeedback.errors import StandardsError
from aifeedback.records import content_id
from aifeedback.standards.constitution import Constitution
from aifeedback.standards.wording import Wording

How = Literal["drawn", "averaged", "together"]


class PrincipleUse:
    """drawn: ``per_pair`` of them by weight, by seed and item, averaged. averaged: each of them. together: one text."""

    def __init__(self, wordings: Sequence[Wording], how: How = "averaged", *, per_pair: int = 1, seed: int = 0) -> None:
        if not wordings:
            raise StandardsError("there is no principle to judge by", fix="give at least one")
        if not 1 <= per_pair <= len(wordings):
            raise StandardsError(f"{per_pair} of {len(wordings)} principles cannot be drawn", key="per_pair")
        self.wordings, self.how, self._per_pair, self._seed = tuple(wordings), how, per_pair, seed

    @property
    def digest(self) -> str:
        """Equal only where every item would be judged by the same words."""
        return content_id("principles", [list(w) for w in self.wordings], self.how, self._per_pair, self._seed)

    def of(self, item_id: str) -> list[Wording]:
        """The wordings for one item; the same for the same item, whatever else is labelled beside it."""
        if self.how == "averaged":
            return list(self.wordings)
        if self.how == "together":
            return [together(self.wordings)]
        weights = np.array([wording.weight for wording in self.wordings])
        drawn = _generator(self._seed, item_id).choice(
            len(weights), size=self._per_pair, replace=False, p=weights / weights.sum()
        )
        # Weights decided the draw already; counting them again in the mean would use them twice.
        return [self.wordings[i]._replace(weight=1.0) for i in drawn]


def use_of(
    constitution: Constitution, *, how: How | None = None, per_pair: int | None = None, seed: int = 0
) -> PrincipleUse:
    """A constitution's principles for comparing, used as it says itself unless told otherwise."""
    how = how or constitution.use
    drawn = per_pair or constitution.per_pair
    return PrincipleUse(constitution.wordings("compare"), how, per_pair=drawn if how == "drawn" else 1, seed=seed)


def together(wordings: Sequence[Wording]) -> Wording:
    """All of them as one list. The id keeps what they have in common and says how many they are."""
    if len(wordings) == 1:
        return wordings[0]
    source = wordings[0].id.rsplit("/", 1)[0]
    return Wording(f"{source}/all-{len(wordings)}", "\n".join(f"- {wording.text}" for wording in wordings))


def _generator(seed: int, item_id: str) -> np.random.Generator:
    return np.random.default_rng(int(content_id("principle", seed, item_id), 16))
