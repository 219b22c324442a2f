"""From ratings to figures and labels: Kendall's W for rankings, agreement for choices, preferences for training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from aifeedback.rating.items import Item
from aifeedback.records import Comparison, Judgement, Preference, Problem, Rating

P_FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5}


def summarise(items: Sequence[Item], ratings: Sequence[Rating]) -> dict[str, Any]:
    """Counts, seconds per rating, and how well the raters agree; estimates as plain dictionaries, None if unknown."""
    known = {item.id: item for item in items}
    ratings = [r for r in ratings if r.item_id in known]
    seconds = [r.seconds for r in ratings if r.seconds is not None]
    per_rater = Counter(r.rater for r in ratings)
    return {
        "items": len(items),
        "ratings": len(ratings),
        "raters": dict(sorted(per_rater.items())),
        "cannot_tell": sum(_says_nothing(r) for r in ratings),
        "median_seconds": median(seconds) if seconds else None,
        "kendalls_w": _concordance(known, ratings),
        "krippendorff_alpha": _alpha(known, ratings),
        "kappa": _kappa(known, ratings),
        "same_verdict": _same(known, ratings),
    }


def preferences(
    comparisons: Sequence[Comparison], ratings: Sequence[Rating], *, source: str = "human"
) -> list[Preference]:
    """People's preference per comparison: the mean of their verdicts (a tie is 0.5); unknown where nobody could tell.

    Rankings of an item count for the pair's two answers as far as the item is that pair.
    """
    by_item: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_item[rating.item_id].append(rating)
    return [_preference(c, by_item.get(c.id, []), source) for c in comparisons]


def _preference(comparison: Comparison, ratings: Sequence[Rating], source: str) -> Preference:
    judgements = [judgement(comparison, r, _p_first(r), r.order_shown[0] == 1) for r in ratings]
    return preference_of(comparison, judgements, source)


def judgement(comparison: Comparison, rating: Rating, p_first: float | None, shown_swapped: bool) -> Judgement:
    """One person's verdict on one pair; None where they could not tell."""
    return Judgement(
        comparison_id=comparison.id,
        judge=f"human:{rating.rater}",
        shown_swapped=shown_swapped,
        readout="human",
        p_first=p_first,
        rationale=rating.comment,
        problem=None if p_first is not None else Problem.ABSTAINED,
    )


def preference_of(comparison: Comparison, judgements: Sequence[Judgement], source: str) -> Preference:
    """The mean of the verdicts; unknown where nobody could tell, or nobody was asked."""
    votes = [j.p_first for j in judgements if j.p_first is not None]
    problem = None if votes else Problem.ABSTAINED if judgements else Problem.MISSING
    return Preference(
        comparison_id=comparison.id,
        source=source,
        p_first=sum(votes) / len(votes) if votes else None,
        judgements=tuple(judgements),
        problem=problem,
    )


def _p_first(rating: Rating) -> float | None:
    if rating.choice is not None:
        return P_FIRST.get(rating.choice)
    if rating.ranking is None or len(rating.ranking) != 2:
        return None
    one, other = rating.ranking
    return 0.5 if one == other else float(one < other)


def _says_nothing(rating: Rating) -> bool:
    return rating.choice == "cannot_tell" or (rating.choice is None and rating.ranking is None)


def _concordance(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Kendall's W per item that at least two people ranked whole, averaged over items (Lee et al. 2023).

    Items may have different raters: W is computed for each item with the ranks of its own, then averaged.
    """
    import numpy as np

    from aifeedback.evaluate.intervals import t_of, variance_of_mean
    from aifeedback.evaluate.kendall import concordance

    ranked: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for rating in ratings:
        if rating.ranking is not None and len(items[rating.item_id].answers) > 2:
            ranked[rating.item_id].append(rating.ranking)
    values = [concordance(np.array(ranks, dtype=float).T) for _, ranks in sorted(ranked.items()) if len(ranks) > 1]
    values = np.array([value for value in values if np.isfinite(value)])
    if not len(values):
        return None
    variance, df = variance_of_mean(values)
    reach = t_of(0.95, df) * float(np.sqrt(variance)) if df else None
    value = float(values.mean())
    return {
        "value": value,
        "low": None if reach is None else max(0.0, value - reach),
        "high": None if reach is None else min(1.0, value + reach),
        "n": len(values),
        "method": "Kendall's W within each item, ties corrected, mean and t interval over items",
    }


def _table(items: dict[str, Item], ratings: Sequence[Rating]) -> Any:
    """(pairs, raters) of verdicts, NaN where missing or 'cannot tell'; None with fewer than two raters."""
    import numpy as np

    pairs = [r for r in ratings if items[r.item_id].is_pair and _p_first(r) is not None]
    names, ids = sorted({r.rater for r in pairs}), sorted({r.item_id for r in pairs})
    if len(names) < 2 or not ids:
        return None
    column, row = {n: j for j, n in enumerate(names)}, {i: k for k, i in enumerate(ids)}
    table = np.full((len(ids), len(names)), np.nan)
    for rating in pairs:
        table[row[rating.item_id], column[rating.rater]] = _p_first(rating)
    return table


def _alpha(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Krippendorff's α of the verdicts on pairs (ordinal: second, tie, first); 'cannot tell' is a missing value."""
    from aifeedback.evaluate import krippendorff_alpha

    table = _table(items, ratings)
    return None if table is None else _told(krippendorff_alpha(table, "ordinal"))


def _kappa(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Cohen's κ of two raters, Fleiss' of more (pairs that all of them decided); None where no pair has them all."""
    import numpy as np

    from aifeedback.evaluate import cohens_kappa, fleiss_kappa

    table = _table(items, ratings)
    if table is None or np.isfinite(table).all(axis=1).sum() < 2:
        return None
    return _told(cohens_kappa(table[:, 0], table[:, 1]) if table.shape[1] == 2 else fleiss_kappa(table))


def _same(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Share of rater pairs with the same verdict, over items that at least two people decided."""
    from aifeedback.evaluate import repeatability

    table = _table(items, ratings)
    return None if table is None else _told(repeatability(table))


def _told(estimate: Any) -> dict[str, Any] | None:
    return estimate.as_dict() if estimate.is_known else None
