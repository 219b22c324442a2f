"""Pair labels from two ratings: each response is scored alone, so there is no position to be biased by."""

from __future__ import annotations

from collections.abc import Sequence

from aifeedback.feedback.readout import p_from_ratings
from aifeedback.protocols import Scorer
from aifeedback.records import Comparison, Judgement, Preference, Problem, Score


class RatingLabeler:
    """P(first better) = Σ_{i>j} P₁(i)P₂(j) + ½ Σ P₁(i)P₂(i) over the two rating distributions.

    A scorer without distributions (good–bad) gives P = ½ + (value₁ − value₂)/4: with value = 2·P(good) − 1 that is
    the chance that the first is good and the second bad, plus half of the ties.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    @property
    def name(self) -> str:
        return f"{self._scorer.name} ratings"

    @property
    def asked(self) -> int | None:
        """As the scorer's own: questions put to the model, without those that a journal answered."""
        return getattr(self._scorer, "asked", None)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """One preference per comparison. A completion that stands in several comparisons is scored once."""
        sides = {c.first.id: (c.prompt, c.first) for c in comparisons}
        sides |= {c.second.id: (c.prompt, c.second) for c in comparisons}
        scores = self._scorer.score([p for p, _ in sides.values()], [c for _, c in sides.values()])
        by_id = dict(zip(sides, scores, strict=True))
        return [self._preference(c, by_id[c.first.id], by_id[c.second.id]) for c in comparisons]

    def _preference(self, comparison: Comparison, first: Score, second: Score) -> Preference:
        p_first, problem = _p_first(first, second)
        texts = [score.rationale for score in (first, second) if score.rationale]
        coverages = [score.coverage for score in (first, second) if score.coverage is not None]
        judgement = Judgement(
            comparison_id=comparison.id,
            judge=self.name,
            shown_swapped=False,
            readout="ratings",
            p_first=p_first,
            coverage=min(coverages) if coverages else None,
            rationale="\n\n".join(texts) if texts else None,
            problem=problem,
            call_id=" ".join(score.call_id for score in (first, second) if score.call_id) or None,
        )
        return Preference(
            comparison_id=comparison.id, source=self.name, p_first=p_first, judgements=(judgement,), problem=problem
        )


def _p_first(first: Score, second: Score) -> tuple[float | None, Problem | None]:
    if first.value is None or second.value is None:
        same = first.problem if first.problem == second.problem else None
        return None, same or Problem.MISSING
    if first.distribution is not None and second.distribution is not None:
        return p_from_ratings(first.distribution, second.distribution), None
    return 0.5 + (first.value - second.value) / 4.0, None
