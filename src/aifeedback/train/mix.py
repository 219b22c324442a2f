"""Labels from several sources in one training set: declared proportions, weights per source, known noise.

RLHF + RLAIF (Lee et al. 2023) trains one reward model on human and AI labels together. How many rows of each went in is
part of the result, since "a mix" means nothing without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aifeedback.errors import RecipeError
from aifeedback.train.rows import Pair, PairRow


class Source(NamedTuple):
    """One origin of labels."""

    name: str
    rows: Sequence[Pair]
    proportion: float = 1.0
    """Share of the mix, relative to the other sources'."""
    weight: float = 1.0
    """Multiplies the loss of each of its rows."""


class Mix(NamedTuple):
    rows: list[PairRow]
    counts: Mapping[str, int]
    """Rows taken from each source."""
    left_out: Mapping[str, int]
    """Rows whose label is not known, by source; none of them is in the mix."""


def mix(sources: Sequence[Source], *, rows: int | None = None, seed: int) -> Mix:
    """Draws rows without replacement in the declared proportions, in random order.

    ``rows=None`` takes as many as the proportions allow. Raises RecipeError where a source has too few known labels.
    """
    known = {s.name: [row for row in s.rows if row.p_first is not None] for s in sources}
    total = sum(s.proportion for s in sources)
    if len(known) != len(sources) or not total > 0 or min(s.proportion for s in sources) < 0:
        raise RecipeError("sources need different names and proportions that are not negative", key="mix")
    possible = [len(known[s.name]) * total / s.proportion for s in sources if s.proportion > 0]
    size = rows if rows is not None else int(min(possible) + 1e-9)
    counts = _apportioned([s.proportion / total for s in sources], size)
    generator = np.random.default_rng(seed)
    taken: list[PairRow] = []
    for source, count in zip(sources, counts, strict=True):
        have = known[source.name]
        if count > len(have):
            raise RecipeError(
                f"source '{source.name}' has {len(have)} labelled rows, {count} are asked for",
                key="mix",
                fix="lower rows or its proportion",
            )
        chosen = generator.permutation(len(have))[:count]
        taken += [reweighted(have[i], source.weight) for i in chosen]
    ordered = [taken[i] for i in generator.permutation(len(taken))]
    left_out = {s.name: len(s.rows) - len(known[s.name]) for s in sources}
    return Mix(ordered, {s.name: c for s, c in zip(sources, counts, strict=True)}, left_out)


def reweighted(row: Pair, weight: float) -> PairRow:
    """The row with its weight multiplied."""
    return PairRow(row.comparison, row.p_first, weight * float(getattr(row, "weight", 1.0)))


def noisy_labels(rows: Sequence[Pair], *, accuracy: float) -> list[PairRow]:
    """Labels that are right with probability ``accuracy`` in [½, 1]: p becomes a·p + (1 − a)·(1 − p).

    For hard labels whose error rate is known (agreement of people with each other, a calibration set). An unknown label
    stays unknown.
    """
    if not 0.5 <= accuracy <= 1.0:
        raise RecipeError(f"a label accuracy of {accuracy} is not in [0.5, 1]", key="accuracy")
    return relabelled(rows, lambda p: accuracy * p + (1.0 - accuracy) * (1.0 - p))


def relabelled(rows: Sequence[Pair], change: Callable[[float], float]) -> list[PairRow]:
    """Rows with ``change`` applied to every known label, such as a fitted calibration."""
    return [
        PairRow(
            row.comparison, None if row.p_first is None else change(row.p_first), float(getattr(row, "weight", 1.0))
        )
        for row in rows
    ]


def hard_labels(rows: Sequence[Pair]) -> list[PairRow]:
    """Labels rounded to 0 or 1; a label of exactly one half has no direction and becomes unknown."""
    return [
        PairRow(
            row.comparison,
            None if row.p_first is None or row.p_first == 0.5 else float(row.p_first > 0.5),
            float(getattr(row, "weight", 1.0)),
        )
        for row in rows
    ]


def _apportioned(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total``: the largest remainders get the rest."""
    exact = [share * total for share in shares]
    counts = [int(x + 1e-9) for x in exact]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
