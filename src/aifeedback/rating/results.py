"""From ratings to metrics and labels: Kendall's W for rankings, agreement for choices, preferences for training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from aifeedback.rating.items import Catalogue, Item, current
from aifeedback.rating.people import PeopleLabeler, verdict
from aifeedback.records import Comparison, Preference, Rating


def summarise(items: Sequence[Item], ratings: Sequence[Rating]) -> dict[str, Any]:
    """Counts, seconds per rating, and how well the raters agree; estimates as plain dictionaries, None if unknown.

    Corrected ratings count as they stand now. Ratings of other items are counted, and enter no other metric.
    """
    catalogue = Catalogue(items)
    known = catalogue.items
    counting = [rating for rating in ratings if rating.purpose == "rating"]
    matched, strays = catalogue.matched(counting)
    ratings = current(matched)
    seconds = [r.seconds for r in ratings if r.seconds is not None]
    per_rater = Counter(r.rater for r in ratings)
    return {
        "items": len(items),
        "ratings": len(ratings),
        "raters": dict(sorted(per_rater.items())),
        "corrected": sum(r.revision > 0 for r in ratings),
        "ratings_of_other_items": len(current(strays)),
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

    A ranking counts for every two of its responses.
    """
    return PeopleLabeler(ratings, name=source).label(comparisons)


def _says_nothing(rating: Rating) -> bool:
    return rating.choice == "cannot_tell" or (rating.choice is None and rating.ranking is None and rating.value is None)


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
    """(items, raters) of verdicts on pairs or values of single responses, NaN where missing or 'cannot tell'; None with
    fewer than two raters."""
    import numpy as np

    said = [(r, _number(items[r.item_id], r)) for r in ratings]
    said = [(rating, value) for rating, value in said if value is not None]
    names, ids = sorted({r.rater for r, _ in said}), sorted({r.item_id for r, _ in said})
    if len(names) < 2 or not ids:
        return None
    column, row = {n: j for j, n in enumerate(names)}, {i: k for k, i in enumerate(ids)}
    table = np.full((len(ids), len(names)), np.nan)
    for rating, value in said:
        table[row[rating.item_id], column[rating.rater]] = value
    return table


def _number(item: Item, rating: Rating) -> float | None:
    return verdict(rating) if item.is_pair else rating.value


def _alpha(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Krippendorff's α (ordinal: second, tie, first, or the values); 'cannot tell' is a missing value."""
    from aifeedback.evaluate import krippendorff_alpha

    table = _table(items, ratings)
    return None if table is None else _known(krippendorff_alpha(table, "ordinal"))


def _kappa(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Cohen's κ of two raters, Fleiss' of more (items that all of them decided); None where no item has them all."""
    import numpy as np

    from aifeedback.evaluate import cohens_kappa, fleiss_kappa

    table = _table(items, ratings)
    if table is None or np.isfinite(table).all(axis=1).sum() < 2:
        return None
    return _known(cohens_kappa(table[:, 0], table[:, 1]) if table.shape[1] == 2 else fleiss_kappa(table))


def _same(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Share of rater pairs with the same verdict, over items that at least two people decided."""
    import numpy as np

    from aifeedback.evaluate import repeatability

    table = _table(items, ratings)
    if table is None:
        return None
    if np.nanmin(table) < 0 or np.nanmax(table) > 1:  # scores: the same verdict is the same value, not the same side
        return None
    return _known(repeatability(table))


def _known(estimate: Any) -> dict[str, Any] | None:
    return estimate.as_dict() if estimate.is_known else None
