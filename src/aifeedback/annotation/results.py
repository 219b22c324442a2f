"""From ratings to metrics, labels and files: Kendall's W for rankings, agreement for choices, preferences for training.

``ratings.jsonl``   every rating as it was stored (who, what, order shown, seconds), whatever file it belongs to
``labelled.jsonl``  pairs with ``human_p_first``, the mean of people's verdicts; where the rated file carries a model's
                    verdict, it stays in ``p_first``, so ``evaluate`` and ``calibrate`` compare the two; else ``p_first``
                    is people's own, ready to train on
``scored.jsonl``    instead of it for single responses: the mean of people's values
``summary.json``    counts, agreement, win rates by people, and how good each rater is
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from aifeedback import data
from aifeedback.annotation.assignment import Task, weight_of
from aifeedback.annotation.items import Catalogue, Item, current, item_id
from aifeedback.annotation.labeler import PeopleLabeler, verdict, win_rates
from aifeedback.annotation.rater_quality import rater_quality, unsound
from aifeedback.annotation.sampling import weighted_mean
from aifeedback.data.formats import HUMAN
from aifeedback.storage import make_folder, write_json
from aifeedback.types import Comparison, Preference, Problem, Rating, text_id


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
    """Raters' mean preference per comparison (a tie counts 0.5); unknown if no rater could decide.

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

    from aifeedback.metrics.concordance import concordance
    from aifeedback.metrics.intervals import t_of, variance_of_mean

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

    cells = [(r, _number(items[r.item_id], r)) for r in ratings]
    cells = [(rating, value) for rating, value in cells if value is not None]
    names, ids = sorted({r.rater for r, _ in cells}), sorted({r.item_id for r, _ in cells})
    if len(names) < 2 or not ids:
        return None
    column, row = {n: j for j, n in enumerate(names)}, {i: k for k, i in enumerate(ids)}
    table = np.full((len(ids), len(names)), np.nan)
    for rating, value in cells:
        table[row[rating.item_id], column[rating.rater]] = value
    return table


def _number(item: Item, rating: Rating) -> float | None:
    return verdict(rating) if item.is_pair else rating.value


def _alpha(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Krippendorff's α (ordinal: second, tie, first, or the values); 'cannot tell' is a missing value."""
    from aifeedback.metrics import krippendorff_alpha

    table = _table(items, ratings)
    return None if table is None else _known(krippendorff_alpha(table, "ordinal"))


def _kappa(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Cohen's κ of two raters, Fleiss' of more (items that all of them decided); None where no item has them all."""
    import numpy as np

    from aifeedback.metrics import cohens_kappa, fleiss_kappa

    table = _table(items, ratings)
    if table is None or np.isfinite(table).all(axis=1).sum() < 2:
        return None
    return _known(cohens_kappa(table[:, 0], table[:, 1]) if table.shape[1] == 2 else fleiss_kappa(table))


def _same(items: dict[str, Item], ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Share of rater pairs with the same verdict, over items that at least two people decided."""
    import numpy as np

    from aifeedback.metrics import repeatability

    table = _table(items, ratings)
    if table is None:
        return None
    if np.nanmin(table) < 0 or np.nanmax(table) > 1:  # scores: the same verdict is the same value, not the same side
        return None
    return _known(repeatability(table))


def _known(estimate: Any) -> dict[str, Any] | None:
    return estimate.as_dict() if estimate.is_known else None


SOURCE = "human"


class Exported(NamedTuple):
    summary: dict[str, Any]
    labelled: int
    """Pairs, or single responses, with a verdict of people."""
    strays: int
    """Ratings that belong to no item of the file; they are in ``ratings.jsonl`` and count nowhere else."""
    file: Path


def export(
    task: Task,
    ratings: Sequence[Rating],
    folder: str | Path,
    *,
    exclude: Sequence[str] = (),
    reference: str = "",
    gold: Sequence[Item] = (),
    exclude_unsound: bool = False,
) -> Exported:
    """Write the three files into ``folder``. ``exclude`` names raters whose ratings do not count; they are kept in
    ``ratings.jsonl``. ``reference`` is the policy that the others are compared with; ``gold`` has the items with an
    agreed verdict that were mixed in. ``exclude_unsound`` leaves out, too, whom ``rater_quality`` marks ✗."""
    out = Path(folder)
    make_folder(out)
    data.write_records(out / "ratings.jsonl", ratings)
    own, quality = Catalogue(task.items), rater_quality([*task.items, *gold], ratings)
    marked = unsound(quality) if exclude_unsound else []
    by = {**dict.fromkeys(marked, "marked ✗"), **dict.fromkeys(exclude, "by name")}
    exclude = sorted(by)
    counting = [rating for rating in ratings if rating.rater not in exclude]
    matched = current(own.matched([rating for rating in counting if rating.purpose == "rating"])[0])
    people = PeopleLabeler(matched, name=SOURCE)
    summary = summarise(task.items, counting)
    if task.completions is not None:
        file = out / "scored.jsonl"
        labelled, summary["values"] = _write_scores(file, task, matched)
    else:
        file = out / "labelled.jsonl"
        rows = _of_pairs(task.pairs, people) if task.pairs is not None else _of_rankings(task.items, people)
        summary["weighted_agreement"] = _weighted_agreement(rows)
        summary["strata"] = _strata(rows)
        rows = [row for row in rows if row.human_p_first is not None]
        labelled = data.write_labelled(file, rows)
        rates = win_rates(task.policy_pairs, people, reference=reference, weights=task.weights)
        summary["win_rates"] = rates or None
    summary["excluded"] = exclude
    summary["excluded_because"] = dict(sorted(by.items())) or None
    summary["rater_quality"] = quality or None
    write_json(out / "summary.json", summary)
    return Exported(summary, labelled, summary["ratings_of_other_items"], file)


def _strata(rows: Sequence[data.LabelledRow]) -> dict[str, float] | None:
    """Of a sample of ``draw``: how many rows each stratum stands for, whether or not they got a verdict."""
    sizes: dict[str, float] = defaultdict(float)
    for weight in (weight_of(row.extra) for row in rows):
        if weight is None:
            return None
        sizes[weight[1]] += weight[0]
    return dict(sorted(sizes.items())) or None


def _weighted_agreement(rows: Sequence[data.LabelledRow]) -> dict[str, Any] | None:
    """Of a sample of ``draw``: how often the judge in the file decides as people do, over all rows it stands for."""
    weights = [weight_of(row.extra) for row in rows]
    judged = [row.p_first if row.judge != SOURCE else None for row in rows]
    known = [weight for weight in weights if weight is not None]
    if not rows or len(known) < len(rows) or all(p is None for p in judged):
        return None
    agrees = [
        None if p is None or h is None or h == 0.5 else 0.5 if p == 0.5 else float((p > 0.5) == (h > 0.5))
        for p, h in zip(judged, (row.human_p_first for row in rows), strict=True)
    ]
    return weighted_mean(agrees, [weight for weight, _ in known], [stratum for _, stratum in known]).as_dict()


def _of_pairs(pairs: data.Comparisons, people: PeopleLabeler) -> list[data.LabelledRow]:
    preferences = people.label(pairs.rows)
    rows = data.labelled(pairs, preferences)
    joined = zip(rows, preferences, pairs.recorded, pairs.inputs, strict=True)
    return [
        row.model_copy(
            update={
                "human_p_first": human.p_first,
                "extra": _extra(row),
                **_of_model(recorded, cells),
            }
        )
        for row, human, recorded, cells in joined
    ]


def _extra(row: data.LabelledRow) -> dict[str, Any]:
    """The input's own columns, the item's id, and people's verdict that the file came with."""
    comparison = row.comparison
    texts = [text_id(completion.text) for completion in (comparison.first, comparison.second)]
    earlier = {} if row.human_p_first is None else {"human_p_first_before": row.human_p_first}
    return {**row.extra, "item_id": item_id(comparison.prompt.id, texts), **earlier}


def _of_model(recorded: tuple[float, str] | None, cells: Mapping[str, Any]) -> dict[str, Any]:
    """The model's verdict in the file, even if it is unknown or a human verdict is present too."""
    if recorded is not None:
        return {"p_first": recorded[0], "judge": recorded[1], "problem": None, **_gap(cells)}
    judge = cells.get("judge")
    is_stored = all(key in cells for key in ("first", "second", "p_first"))  # else p_first may be about another order
    if not (is_stored and isinstance(judge, str) and judge and judge != HUMAN and not judge.startswith("people:")):
        return {}
    p_first = cells["p_first"]
    if p_first is None:
        return {"p_first": None, "judge": judge, "problem": Problem(cells.get("problem") or Problem.MISSING)}
    return {"p_first": float(p_first), "judge": judge, "problem": None, **_gap(cells)}


def _gap(cells: Mapping[str, Any]) -> dict[str, Any]:
    gap = cells.get("position_gap")
    return {"position_gap": float(gap)} if isinstance(gap, int | float) else {}


def _of_rankings(items: Sequence[Item], people: PeopleLabeler) -> list[data.LabelledRow]:
    """Every two responses of an item, in storage order."""
    pairs = [
        Comparison.of(item.prompt, item.answers[i], item.answers[j])
        for item in items
        for i, j in combinations(range(len(item.answers)), 2)
    ]
    preferences: list[Preference] = people.label(pairs)
    rows = data.labelled(pairs, preferences)
    return [row.model_copy(update={"human_p_first": p.p_first}) for row, p in zip(rows, preferences, strict=True)]


def _write_scores(path: Path, task: Task, ratings: Sequence[Rating]) -> tuple[int, dict[str, Any]]:
    """One row per response that somebody rated, and the mean of each source."""
    answers, scale = task.completions, task.items[0].scale
    assert answers is not None
    assert scale is not None
    values: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        if rating.value is not None:
            values[rating.item_id].append(rating.value)
    rows, by_source = [], defaultdict(list)
    for prompt, completion, cells in zip(answers.prompts, answers.rows, answers.inputs, strict=True):
        scores = values.get(item_id(prompt.id, [text_id(completion.text)], scale))
        if scores:
            mean = sum(scores) / len(scores)
            rows.append({**cells, f"human_{scale.asks}": mean, "human_raters": len(scores)})
            by_source[completion.source].append((prompt.id, mean))
    data.write_rows(path, rows)
    return len(rows), {source: _mean(pairs, scale.is_yes_no) for source, pairs in sorted(by_source.items())}


def _mean(pairs: Sequence[tuple[str, float]], is_share: bool) -> dict[str, Any]:
    """Mean over responses with its 95 % interval, clustered by prompt."""
    import numpy as np

    from aifeedback.metrics.intervals import NOT_KNOWN, Estimate, groups, share_interval, t_of, variance_of_mean

    values = np.array([value for _, value in pairs])
    clusters = groups([prompt for prompt, _ in pairs], np.ones(len(values), dtype=bool))
    mean, (variance, df) = float(values.mean()), variance_of_mean(values, clusters)
    if is_share:
        interval = share_interval(values, clusters)
        low, high, method = interval.low, interval.high, "share, Wilson interval over prompts"
    else:
        reach = t_of(0.95, df) * float(np.sqrt(variance)) if df >= 1 else NOT_KNOWN
        low, high, method = mean - reach, mean + reach, "mean, t interval over prompts"
    return Estimate(mean, low, high, len(values), method, standard_error=float(np.sqrt(variance))).as_dict()
